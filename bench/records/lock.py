"""One writer at a time of a file that several processes read, change and write."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

LOCK_SECONDS = 60.0


@contextmanager
def only_writer(path: Path, lock: Path, remedy: str) -> Iterator[None]:
    """Hold the file `lock` from reading `path` to having written it. The lock file is made, and stays.

    Raises:
        ValueError: another process does not let go of it within LOCK_SECONDS, which ends in `remedy`; or there is no
            place for it.
    """
    held = FileLock(lock, timeout=LOCK_SECONDS)
    try:
        held.acquire()
    except Timeout:
        raise ValueError(f"{path}: locked by another process for {LOCK_SECONDS:g} s; end it, then {remedy}") from None
    except (OSError, NotImplementedError) as error:  # the latter: this disk has no locks
        why = getattr(error, "strerror", None) or error
        raise ValueError(f"{path}: cannot be written: {why}") from None
    try:
        yield
    finally:
        held.release()
