"""Which revision of this project runs, and other revisions as folders for as long as they are needed. No torch."""

from __future__ import annotations

import shlex
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.places import ROOT, SOURCES

_GIT_SECONDS = 10  # for a question about the commit that runs: a record must not wait for git any longer


def commit() -> dict[str, Any]:
    """The revision of this project that ran, where git can tell.

    In a checkout that belongs to another user too: it is our own code that we ask about. Not that of somebody else's
    repository, into which this project was copied.
    """
    sha = _answer("rev-parse", "HEAD") if _answer("ls-files", "--", _OURS) else None
    status = _answer(*_STATUS) if sha else None
    return {"sha": sha or None, "dirty": None if status is None else bool(status)}


def _answer(*question: str) -> str | None:
    """What git says of this project; None where it is absent, slow, or cannot tell."""
    try:
        done = _git(ROOT, *_TRUSTED, *question, seconds=_GIT_SECONDS)
    except (ValueError, OSError, subprocess.TimeoutExpired):
        return None
    return None if done.returncode else done.stdout.strip()


_OURS = "bench/git.py"  # a file that only this project's repository tracks
_STATUS = ("status", "--porcelain", "--untracked-files=no")
# whoever the files belong to, but start nothing that the repository's settings name
_TRUSTED = ("-c", "safe.directory=*", "-c", "core.fsmonitor=false")


def commit_of(revision: str, root: Path = ROOT) -> str:
    """The full hash of a revision.

    Raises:
        ValueError: there is no git, no repository, or no such revision in it.
    """
    if SOURCES is None and root == ROOT:
        raise ValueError(
            f"{root} holds an installed package, which has no revisions to compare; clone the project with git, and "
            "run this in the clone"
        )
    opened = _git(root, "rev-parse", "--git-dir")
    if opened.returncode:
        raise ValueError(_why_closed(root, opened.stderr))
    found = _git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    if found.returncode:
        raise ValueError(_why_unknown(revision, root))
    return found.stdout.strip()


def _why_closed(root: Path, said: str) -> str:
    if _git(root, *_TRUSTED, "rev-parse", "--git-dir").returncode == 0:
        return (
            f"{root} belongs to another user, so git refuses to read it; hand it to the user who runs this, or run: "
            f"git config --global --add safe.directory {shlex.quote(str(root))}"
        )
    if not any((folder / ".git").exists() for folder in (root, *root.parents)):
        return f"{root} is not a git repository, so it has no revisions to compare; clone the project with git"
    # damaged, or a worktree whose repository has moved: git knows
    reason = (said.strip().splitlines() or ["it does not say why"])[0].removeprefix("fatal: ")
    return f"git cannot read the repository of {root}: {reason}; repair it, or clone the project again"


def _why_unknown(revision: str, root: Path) -> str:
    if _git(root, "rev-parse", "--is-shallow-repository").stdout.strip() == "true":
        return (
            f"{revision!r} is not in {root}, a shallow clone that lacks older commits; fetch them with "
            "git fetch --unshallow (in CI: fetch-depth: 0)"
        )
    return f"{revision!r} is not a git revision of {root}; see git log, or git fetch it first"


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
        if callable(handler := before[signal.Signals(caught[0])]):
            handler(caught[0], None)
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
        raise ValueError("git is not installed, so revisions cannot be checked out; install it") from None
    except PermissionError:
        raise ValueError("git is on PATH and may not be run; correct its permissions, or PATH") from None
