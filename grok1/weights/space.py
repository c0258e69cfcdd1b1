"""Whether a disk has room for what is to be written, and the one line that says it has not. No torch."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from grok1.config.refusals import reason_of
from grok1.files import NotDoneError, existing_folder

_REMEDY = "free some, or write to another disk"


class NotWrittenError(NotDoneError):
    """Something could not be written whole, so nothing of it was left; the message names path, bytes and cause."""


def free_bytes(folder: Path) -> int:
    """Free bytes of the disk that the folder is on, or will be."""
    return shutil.disk_usage(existing_folder(folder)).free


def check_space(what: str, folder: Path, needed_bytes: int) -> None:
    """Refuse to write `what` where it does not fit.

    Raises:
        NotWrittenError: names the folder and the bytes.
    """
    free = free_bytes(folder)
    if needed_bytes > free:
        raise NotWrittenError(
            f"{what} needs {needed_bytes:,} bytes in {folder}, where {free:,} are free; nothing was written; {_REMEDY}"
        )


@contextmanager
def whole_or_told(
    what: str, folder: Path, needed_bytes: int, undo: Callable[[], None], failures: tuple[type[BaseException], ...]
) -> Iterator[None]:
    """On any of `failures` in the block: undo, and say in one line what is not there and why."""
    try:
        yield
    except NotWrittenError:
        raise
    except failures as error:
        free = free_bytes(folder)
        undo()
        raise NotWrittenError(
            f"{what} was not written to {folder}: {_why(first_cause(error))}; it needs {needed_bytes:,} bytes, "
            f"{free:,} were free; {_REMEDY}"
        ) from error


def _why(error: BaseException) -> str:
    """torch's writer says where it was in a file, and not that the disk took no more."""
    said = reason_of(error)
    if "inline_container" in said:
        return "a file could not be written to its end (the disk, a quota or a limit on the size of files)"
    return said


def first_cause(error: BaseException) -> BaseException:
    """Of an error that stands for those of several ranks (torch's CheckpointException), the first; else itself."""
    failures: dict[int, tuple[BaseException, object]] = getattr(error, "failures", {})
    return next((cause for cause, _ in failures.values()), error)
