"""Runs targets: each in processes of their own, with limits, until its inputs or its time are spent."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import re
import resource
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import NoReturn

from tests.fuzz.guard import (
    MOST_SECONDS,
    MOST_WALL_SECONDS,
    Finding,
    Watch,
    fault_of,
    fault_of_output,
    limit_memory,
)
from tests.fuzz.targets import Target

_MOST_KEPT = 400  # inputs beside the seeds that are bent further
_MOST_LENGTH = 1 << 20  # of an input that is bent further


@dataclass(frozen=True)
class Budget:
    """What a target may spend: inputs, and seconds on the clock. Where both are spent it ends."""

    inputs: int
    seconds: float
    seed: int = 0


def fuzz(target: Target, budget: Budget, folder: Path) -> tuple[int, list[Finding]]:
    """How many inputs were read, and what was found; an input of each finding lies in `folder`.

    A process that an input ends is a finding too: the next one goes on after it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    findings: dict[str, Finding] = {}
    done, end = 0, time.monotonic() + budget.seconds
    while done < budget.inputs and time.monotonic() < end and len(findings) < 50:
        left = Budget(budget.inputs - done, end - time.monotonic(), budget.seed + done)
        count, death = _in_child(target, left, folder, set(findings))
        for finding in [*_reported(target, folder), *([death] if death else [])]:
            findings.setdefault(finding.what, finding)
        done += max(1, count)
    return done, list(findings.values())


def read_once(target: Target, raw: bytes, folder: Path) -> Finding | None:
    """What is wrong with one input, read in a process of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "only").write_bytes(raw)
    _, death = _in_child(target, Budget(1, MOST_WALL_SECONDS), folder, set())
    return next(iter(_reported(target, folder)), death)


def _in_child(target: Target, budget: Budget, folder: Path, known: set[str]) -> tuple[int, Finding | None]:
    progress, words = folder / "progress", folder / "stderr"
    progress.write_text("0", encoding="ascii")
    (folder / "current").write_bytes(b"")
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: of threads, which wait and hold no lock
        child = os.fork()
    if child == 0:
        _child(target, budget, folder, known)
    _, status = os.waitpid(child, 0)
    count = int(progress.read_text(encoding="ascii") or "0")
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0:
        return count, None
    told = words.read_text(encoding="utf-8", errors="replace")
    how = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"exit code {os.WEXITSTATUS(status)}"
    frames = re.findall(r'File "([^"]*/(?:grok1|bench|reports)/[^"]*)", line \d+ in (\S+)', told)
    place = f"{Path(frames[0][0]).name} {frames[0][1]}" if frames else "nowhere of ours"
    slow = "Timeout" in told or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGPROF)
    what = f"takes longer than {MOST_SECONDS:g} s" if slow else f"ends the process ({how})"
    finding = Finding(target.name, f"{what} at {place}", told[-3000:])
    _keep(folder, finding, (folder / "current").read_bytes())
    return count, finding


def _child(target: Target, budget: Budget, folder: Path, known: set[str]) -> NoReturn:
    """Reads inputs until the budget is spent, and ends the process."""
    code = 3
    try:
        words = os.open(folder / "stderr", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(words, 1)
        os.dup2(words, 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        # by processor time, so that a busy machine makes no finding; whatever the process is doing, also inside C
        faulthandler.enable()
        faulthandler.register(signal.SIGPROF, chain=True)
        _read_all(target, budget, folder, known)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _read_all(target: Target, budget: Budget, folder: Path, known: set[str]) -> None:
    random = Random(f"{target.name} {budget.seed}")
    only = folder / "only"
    seeds = [only.read_bytes()] if only.exists() else target.seeds()
    place = folder / "work"
    watch = Watch(folder)
    for raw in target.seeds():  # imports what it needs
        _prepared(place)
        with contextlib.suppress(ValueError):
            target.read(raw, place)
    limit_memory()
    kept, shapes = list(seeds), set()
    end, count = time.monotonic() + budget.seconds, 0
    with (folder / "current").open("wb", buffering=0) as current, (folder / "progress").open("r+") as progress:
        while count < budget.inputs and time.monotonic() < end:
            raw = seeds[0] if only.exists() else target.bend(random.choice(kept), random)
            current.seek(0)
            current.truncate()
            current.write(raw)
            shape, fault, details = _outcome(target, raw, place, watch)
            count += 1
            progress.seek(0)
            progress.write(str(count))
            progress.flush()
            if fault is not None and fault not in known:
                known.add(fault)
                _keep(folder, Finding(target.name, fault, details), raw)
            if shape not in shapes and len(raw) <= _MOST_LENGTH:
                shapes.add(shape)
                kept.append(raw)
                del kept[len(seeds) : -_MOST_KEPT]


def _prepared(place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()


def _outcome(target: Target, raw: bytes, place: Path, watch: Watch) -> tuple[str, str | None, str]:
    """(what kind of outcome this is, what is wrong with it, details): new kinds are worth bending further."""
    _prepared(place)
    faulthandler.dump_traceback_later(MOST_WALL_SECONDS, exit=True)
    signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)
    shape, fault, details = "read", None, ""
    try:
        with watch:
            shown = target.read(raw, place)
        fault = fault_of_output(shown)
        details = shown[:3000] if fault else ""
    except BaseException as error:
        fault = fault_of(error)
        shape = f"{type(error).__name__} {re.sub(r'[0-9]+', '0', str(error))[:60]!a}"
        details = "".join(traceback.format_exception(error))[-6000:] if fault else ""
        del error
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        faulthandler.cancel_dump_traceback_later()
    sys.stdout.flush()
    if fault is None and os.fstat(2).st_size > 0:
        fault, details = _said(place.parent / "stderr")
    if watch.broken and fault is None:
        fault, details = watch.broken[0][:120], "\n".join(watch.broken)
    if fault and fault.startswith("MemoryError"):
        gc.collect()
    return shape, fault, details


def _said(words: Path) -> tuple[str | None, str]:
    """What is wrong with what a library printed, which is then forgotten."""
    text = words.read_text(encoding="utf-8", errors="surrogateescape")
    os.ftruncate(2, 0)
    os.lseek(2, 0, os.SEEK_SET)
    fault = fault_of_output(text)
    return (f"prints: {fault}" if fault else None), text[:3000]


def _keep(folder: Path, finding: Finding, raw: bytes) -> None:
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", finding.what)[:80] + "-" + sha256(finding.what.encode()).hexdigest()[:6]
    (folder / f"{name}.input").write_bytes(raw)
    (folder / f"{name}.found").write_text(f"{finding.what}\n{finding.details}", encoding="utf-8", errors="replace")


def _reported(target: Target, folder: Path) -> Iterator[Finding]:
    for path in sorted(folder.glob("*.found")):
        what, _, details = path.read_text(encoding="utf-8").partition("\n")
        yield Finding(target.name, what, details)


def summary(name: str, inputs: int, seconds: float, findings: Sequence[Finding]) -> str:
    """One line of a target, and one of each finding."""
    lines = [f"{name:<14} {inputs:>9,} inputs  {seconds:6.1f} s  {len(findings) or 'no'} findings"]
    return "\n".join([*lines, *(f"    {finding.what}" for finding in findings)])
