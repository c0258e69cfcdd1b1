"""Checkouts of the two revisions of a comparison, the interpreters that run them, and their runs. No torch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from bench.ab.sequential import Role
from bench.git import commit_of, is_changed, uninterrupted, worktree
from bench.places import ROOT
from bench.records.record import Record
from grok1.config.refusals import printable_lines

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_LAST_LINES = 15  # of a run that failed
_END_SECONDS = 10.0  # for a run to end its ranks, before it is killed
# of a run: each would add its own report to the job's summary; its device is its own to choose
_UNSET = ("env", "-u", "GITHUB_STEP_SUMMARY", "-u", "GROK1_DEVICE")


class RunFailedError(RuntimeError):
    """A run of a revision broke; the last lines of its log are the message."""


@dataclass
class Checkout:
    """A revision in a folder, the interpreter that runs it, and the records of its runs so far."""

    name: Role
    revision: str
    sha: str
    changed: bool
    tree: Path
    python: str
    results: Path
    records: list[Record] = field(default_factory=list)


@contextmanager
def checkout(name: Role, revision: str | None, results: Path, root: Path = ROOT) -> Iterator[Checkout]:
    """A revision, checked out and with an interpreter; None is the working tree as it is.

    Raises:
        ValueError: there is no such revision, or it cannot run here.
    """
    results = results.resolve() / name
    if revision is None:
        sha = commit_of("HEAD", root)
        yield _checked(Checkout(name, "the working tree", sha, is_changed(root), root, sys.executable, results))
        return
    sha = commit_of(revision, root)
    with worktree(sha, root) as tree:
        python = sys.executable if same_environment(root, tree) else _own_environment(name, tree)
        yield _checked(Checkout(name, revision, sha, False, tree, python, results))


def _own_words(line: str) -> str:
    """What pytest was told, without the words that it puts before it."""
    return line.strip("! ").removeprefix("_pytest.outcomes.Exit: ").removeprefix("ERROR: ")


def same_environment(one: Path, other: Path) -> bool:
    """Whether two checkouts ask for the same dependencies, installed in the same way."""
    files = ("constraints/dev.txt", "constraints/install.sh", "Makefile")
    return _dependencies(one) == _dependencies(other) and all(
        _content(one / name) == _content(other / name) for name in files
    )


def _dependencies(tree: Path) -> Any:
    content = _content(tree / "pyproject.toml")
    if content is None:
        return None
    try:
        return tomllib.loads(content.decode()).get("project", {}).get("dependencies")
    except (ValueError, AttributeError):
        return content  # not ours to read: the same only if it is the same file


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _own_environment(name: Role, tree: Path) -> str:
    print(
        f"{name}: its dependencies differ, so it gets an environment of its own; this takes some minutes",
        file=sys.stderr,
    )
    if call(["make", "venv", f"PYTHON={sys.executable}"], tree, None):
        raise ValueError(f"{name}: make venv failed in its worktree; its last lines are above")
    return str(tree / ".venv" / "bin" / "python")


def _checked(checkout: Checkout) -> Checkout:
    """Refuse a checkout whose interpreter would run other code than its own, as an editable install may."""
    command = [checkout.python, "-c", "import bench, grok1; print(bench.__file__, grok1.__file__, sep='\\n')"]
    done = subprocess.run(command, cwd=checkout.tree, capture_output=True, text=True, check=False)
    found = [Path(line).resolve() for line in done.stdout.splitlines()]
    if done.returncode or not found or not all(path.is_relative_to(checkout.tree.resolve()) for path in found):
        where = found[0] if found else (done.stderr.strip().splitlines() or ["nothing"])[-1]
        raise ValueError(f"{checkout.name}: {checkout.revision} would not run its own code: python imports {where}")
    return checkout


def run(checkout: Checkout, index: int, words: Sequence[str]) -> Record:
    """One run in a process of its own, by the command that every revision understands; its record.

    Raises:
        ValueError: the run refused its input.
        RunFailedError: it broke.
    """
    before = set(_records(checkout))
    log = checkout.results / f"run-{index + 1}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [*_UNSET, checkout.python, "-m", "pytest", "bench/", "--benchmark", "-k", "test_pretrain", "--runs", "1"]
    with log.open("wb") as stream:
        code = call([*command, f"--results={checkout.results}", *words], checkout.tree, stream)
    made = [path for path in _records(checkout) if path not in before]
    if made:
        return _its_own(checkout, Record.read(max(made, key=lambda path: path.stat().st_mtime_ns)))
    last = log.read_text(encoding="utf-8", errors="replace").rstrip().splitlines()[-_LAST_LINES:]
    text = "\n".join(last) or "it printed nothing"
    if code == 1:
        raise RunFailedError(f"{checkout.name} ({checkout.revision}): run {index + 1} failed:\n{text}")
    print(printable_lines(text), file=sys.stderr)
    reason = next(
        (line for line in reversed(last) if "Exit:" in line or line.startswith("ERROR")), last[-1] if last else ""
    )
    raise ValueError(f"{checkout.name} ({checkout.revision}) left no record (exit code {code}): {_own_words(reason)}")


def _its_own(checkout: Checkout, record: Record) -> Record:
    if record.commit.sha is not None and not checkout.sha.startswith(record.commit.sha):
        raise ValueError(
            f"{checkout.name}: {checkout.revision} is {checkout.sha[:10]}, "
            f"but its run says that it ran {record.commit.sha[:10]}"
        )
    return record


def _records(checkout: Checkout) -> list[Path]:
    return list((checkout.results / "records").glob("*.json"))


def call(command: Sequence[str], folder: Path, output: IO[bytes] | None) -> int:
    """Run a command to its end; whatever ends us ends it, and all that it started. No output: onto our errors."""
    try:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output or sys.stderr,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a process group of its own, which can be ended as one
        )
    except FileNotFoundError as error:
        raise ValueError(f"{error.filename} is not installed") from None
    try:
        return process.wait()
    finally:
        with uninterrupted():
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        _signal(process, signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_END_SECONDS)
    _signal(process, signal.SIGKILL)
    process.wait()


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # nobody is left
        os.killpg(process.pid, number)
