"""Files and folders that appear whole or not at all, and the digest of a folder's files.

bench.records.jsonfile writes records in the same way: the harness's pure packages may not import grok1.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import secrets
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

_MOST_LINKS = 40  # as Linux has it


class NotDoneError(RuntimeError):
    """What was asked for was right, and could not be done; the message is one line that says all."""


def write_json(path: Path, content: object) -> None:
    """Write plain data as JSON; a number that is not finite becomes null, since JSON has none."""
    write_text(path, json.dumps(_finite(content), indent=1, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part; makes missing folders.

    Raises:
        ValueError: the system does not let us; one line names the file, and how much room it needs.
    """
    try:
        with whole_file(path) as stream:
            stream.write(content)
    except OSError as error:
        raise cannot_write(path, error, len(content)) from None


def cannot_write(path: Path, error: OSError, needed_bytes: int | None = None) -> ValueError:
    """The refusal of a file or folder that could not be written: where, why, and where room is short how much of it."""
    why = error.strerror or str(error)
    if error.errno == errno.EEXIST and error.filename is not None:
        why = f"{os.fsdecode(error.filename)} is no folder"
    said = f"{path} cannot be written: {why}"
    needs = "" if needed_bytes is None else f"it needs {needed_bytes:,} bytes, "
    if error.errno == errno.EFBIG:
        return ValueError(f"{said}; {needs}more than this process may write into one file (ulimit -f)")
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return ValueError(said)
    there = existing_folder(path)
    free = shutil.disk_usage(there).free
    return ValueError(f"{said}; {needs}{free:,} bytes are free in {there}: free some, or choose another folder")


def existing_folder(path: Path) -> Path:
    """The folder itself, or the nearest one above it that exists: where what is to be written takes its room."""
    return next(each for each in (path, *path.absolute().parents) if each.is_dir())


def read_start(path: Path, most_bytes: int) -> bytes:
    """The first bytes of a file. A pipe, on which reading would wait for ever, is refused with OSError."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "not a file", str(path))
    with path.open("rb") as stream:
        return stream.read(most_bytes)


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write into, which gets its name when the block ends; after an error the old content is left alone.

    A link stays, and its target is written. What is no regular file (`in_place`) is written to as it is.
    """
    if in_place(path):
        with _opened(path) as stream:
            yield stream
        return
    target = Path(os.path.realpath(path))
    if target.is_symlink():  # a circle of links has no target
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = name_beside(target)
    with temporary.open("xb") as stream:
        try:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())  # else a crash of the machine may keep the new name and lose the content
            os.replace(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def in_place(path: Path) -> bool:
    """Whether a path is not to be replaced by a file: a device, a pipe, and what is open here (/dev/stdout)."""
    is_special = path.exists() and not path.is_file() and not path.is_dir()
    return is_special or _descriptor(path) is not None


def _opened(path: Path) -> BinaryIO:
    """What is open here is written where it stands, after what was printed: opening its path would cut it."""
    descriptor = _descriptor(path)
    if descriptor is None:
        return path.open("wb")
    if sys.stdout is not None:
        sys.stdout.flush()
    return os.fdopen(os.dup(descriptor), "wb")


def _descriptor(path: Path) -> int | None:
    """The number under which this process holds open what a path such as /dev/stdout leads to."""
    for _ in range(_MOST_LINKS):
        if path.name.isdecimal() and os.path.realpath(path.parent) in ("/dev/fd", f"/proc/{os.getpid()}/fd"):
            return int(path.name)
        if not path.is_symlink():
            return None
        path = path.parent / os.readlink(path)
    return None


def name_beside(path: Path) -> Path:
    """A hidden name of nothing yet in the same folder. What is made there has the mode that the umask allows.

    (What the standard library's tempfile makes stays closed to everyone else after it is renamed.)
    """
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")


def give_usual_mode(path: Path) -> None:
    """The mode that the umask allows, for a file that a library made for its owner alone."""
    like = name_beside(path)
    like.touch(exist_ok=False)
    try:
        path.chmod(like.stat().st_mode & 0o777)
    finally:
        like.unlink()


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A folder to write into, which gets its name when the block ends; after an error nothing is left of it.

    `target` must not exist, or be empty. One process at a time.
    """
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        os.replace(partial, target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


@contextmanager
def one_at_a_time(places: Sequence[Path], seconds: float) -> Iterator[None]:
    """Hold the first of these lock files that can be made, and wait that long for whoever holds it.

    It saves work, and protects nothing: where none can be made (a disk that is read-only, or has no locks), or the
    wait is over, the block runs all the same.
    """
    held: FileLock | None = None
    for place in places:
        lock = FileLock(place, timeout=seconds)
        try:
            lock.acquire()
        except Timeout:
            break
        except (OSError, NotImplementedError):
            continue
        held = lock
        break
    try:
        yield
    finally:
        if held is not None:
            held.release()


def folder_digest(folder: Path, *suffixes: str) -> str:
    """64 hex digits over the names and contents of the files below it that end so."""
    digest = hashlib.sha256()
    for path in sorted(each for each in folder.rglob("*") if each.suffix in suffixes):
        digest.update(f"{path.relative_to(folder).as_posix()}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _finite(content: object) -> object:
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
