"""Which revision of this project runs, and other revisions as folders for as long as they are needed. No torch."""

from __future__ import annotations

import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
_GIT_SECONDS = 10  # for a question about the commit that runs: a record must not wait for git any longer


def commit() -> dict[str, Any]:
    """The revision of this project that ran, where git can tell."""
    sha = _answer("rev-parse", "HEAD")
    status = _answer(*_STATUS) if sha else None
    return {"sha": sha or None, "dirty": None if status is None else bool(status)}


def _answer(*question: str) -> str | None:
    """What git says of this project; None where it is absent, slow, or cannot tell."""
    try:
        done = _git(ROOT, *question, seconds=_GIT_SECONDS)
    except (ValueError, OSError, subprocess.TimeoutExpired):
        return None
    return None if done.returncode else done.stdout.strip()


_STATUS = ("status", "--porcelain", "--untracked-files=no")


def commit_of(revision: str, root: Path = ROOT) -> str:
    """The full hash of a revision.

    Raises:
        ValueError: there is no git, no repository, or no such revision in it.
    """
    if _git(root, "rev-parse", "--git-dir").returncode:
        raise ValueError(f"{root} is not a git repository, so it has no revisions to compare")
    found = _git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    if found.returncode:
        raise ValueError(f"{revision!r} is not a git revision of {root}; in a shallow clone, fetch it first")
    return found.stdout.strip()


def is_changed(root: Path = ROOT) -> bool:
    """Whether tracked files differ from the commit that is checked out."""
    return bool(_git(root, *_STATUS).stdout.strip())


@contextmanager
def worktree(revision: str, root: Path = ROOT) -> Iterator[Path]:
    """A revision, checked out beside the repository; gone again afterwards, after Ctrl-C too.

    Raises:
        ValueError: there is no such revision, or git cannot check it out.
    """
    sha = commit_of(revision, root)
    with tempfile.TemporaryDirectory(prefix="grok1-worktree-") as folder:
        tree = Path(folder) / "tree"
        try:
            with uninterrupted():  # git leaves a locked half of a worktree where it is killed
                added = _git(root, "worktree", "add", "--detach", str(tree), sha)
            if added.returncode:
                raise ValueError(f"git cannot check out {revision}: {added.stderr.strip()}")
            yield tree
        finally:
            with uninterrupted():
                _git(root, "worktree", "remove", "--force", "--force", str(tree))


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait until the block is done, then interrupt."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python interrupts the main thread only
        return
    caught: list[int] = []

    def note(number: int, frame: Any) -> None:
        caught.append(number)

    before = {each: signal.signal(each, note) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
    if caught:
        raise KeyboardInterrupt


def _git(root: Path, *arguments: str, seconds: float | None = None) -> subprocess.CompletedProcess[str]:
    try:
        # a session of its own: Ctrl-C on the terminal is for us, not for git
        return subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
            start_new_session=True,
        )
    except FileNotFoundError:
        raise ValueError("git is not installed, so revisions cannot be checked out") from None
