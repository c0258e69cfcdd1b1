"""Baselines in and out of their folder: the candidate of some runs, what it replaces, and what is kept for people.

A recorded baseline's key is its case, recipe, size, layout, device and software. One judge a key: promoting replaces
it; another key, as of another version of torch, stands beside it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bench.baselines.noise import complaints
from bench.judge.baseline import (
    MAX_BASELINE_BYTES,
    NOT_BASELINES,
    Baseline,
    BaselineFile,
    read_baselines,
    recorded_baseline,
    require_folder,
    software_differences,
    stored_baselines,
)
from bench.judge.difference import MIN_BASELINE_RUNS
from bench.judge.gate import judge
from bench.places import writable_folder
from bench.records.jsonfile import first_fault, write_atomically
from bench.records.lock import only_writer
from bench.records.lone_rank import told_tier
from bench.records.record import Record
from bench.records.terminal import plain

_NOT_YET = "a candidate: nobody has accepted it yet"


def unfit(records: Sequence[tuple[Path, Record]], allow_busy: bool = False) -> list[str]:
    """Every complaint about every run that may not become part of a baseline, after the file's name.

    With `allow_busy` runs that were disturbed from outside may: what the gate does with them, it does knowingly.

    A run that the gate would call void for itself (an impossible speed, dropped tokens) may not either.
    """
    found = []
    for path, record in records:
        reasons = complaints(record, allow_busy)
        if not reasons and (verdict := judge(record, [])).state == "void":
            reasons = [verdict.sentence]
        found += [plain(f"{path}: run {record.id[:8]}: {reason}", 1000) for reason in reasons]
    return found


def candidate_of(records: Sequence[Record], *, tolerance_percent: float, floor_percent: float) -> Baseline:
    """A candidate baseline of undisturbed runs of one key, in which each run learnt what the first did.

    Raises:
        ValueError: too few runs, another key, other losses.
    """
    require_enough(len(records))
    if not records[0].software:
        raise ValueError(f"run {records[0].id} states no software, which is part of the key; ingest it with --software")
    candidate = recorded_baseline(records, _NOT_YET, tolerance_percent=tolerance_percent, floor_percent=floor_percent)
    for record in records:
        verdict = judge(record, [candidate])
        if verdict.state == "void":
            raise ValueError(f"run {record.id}: {verdict.sentence}; a baseline's runs must all compute the same")
    return candidate


def require_enough(runs: int) -> None:
    if runs < MIN_BASELINE_RUNS:
        raise ValueError(
            f"{runs} run{'s' * (runs != 1)}: a baseline that knows its noise needs at least {MIN_BASELINE_RUNS}; "
            f"run the benchmark with --runs {MIN_BASELINE_RUNS}"
        )


def read_candidate(path: Path) -> Baseline:
    """The one recorded baseline of a file, fit to judge."""
    found = read_baselines(path)
    if len(found) != 1:
        raise ValueError(f"{path}: holds {len(found)} baselines; a candidate is one, as `baseline record` writes it")
    candidate = found[0]
    if candidate.kind != "recorded" or candidate.role != "judge":
        raise ValueError(
            f"{path}: a {candidate.kind} baseline with the role {candidate.role}; a candidate is recorded and judges, "
            "as `baseline record` writes it"
        )
    if not candidate.software or not all(run.figures for run in candidate.runs):
        raise ValueError(f"{path}: states no software, or runs without figures; make it anew with `baseline record`")
    require_enough(len(candidate.runs))
    return candidate


def same_key(one: Baseline, other: Baseline) -> bool:
    """Whether two recorded baselines stand for the same runs."""
    return one.kind == other.kind == "recorded" and not key_differences(one, other) and one.software == other.software


def key_differences(candidate: Baseline, stored: Baseline) -> list[str]:
    """What of the key differs, in words; what the stored one does not state is not compared."""
    ours, theirs = _parts(candidate), _parts(stored)
    found = [
        f"{name} {value} (stored {theirs[name]})" for name, value in ours.items() if theirs[name] not in (None, value)
    ]
    if candidate.device.kinds != stored.device.kinds and not set(candidate.device.kinds) <= {*stored.device.kinds}:
        found.append(f"device.kinds {' '.join(candidate.device.kinds)} (stored {' '.join(stored.device.kinds)})")
    if not stored.device.accepts(candidate.device.name):
        found.append(f"device.name {candidate.device.name} (stored {stored.device.name})")
    return found + (software_differences(candidate.software, stored.software, "stored") if stored.software else [])


def _parts(baseline: Baseline) -> dict[str, Any]:
    return {
        "ran": told_tier(baseline.lone_rank),
        "case": baseline.case,
        "recipe.name": baseline.recipe.name,
        "recipe.hash": baseline.recipe.hash,
        "sequence_length": baseline.sequence_length,
        "global_batch": baseline.global_batch,
        "dtype": baseline.dtype,
        "parameters_total": baseline.parameters_total,
        **{f"layout.{name}": value for name, value in baseline.layout.model_dump().items()},
    }


def judge_of_key(candidate: Baseline, stored: Sequence[Baseline]) -> Baseline | None:
    """The stored judge that this candidate would replace."""
    return next((each for each in stored if each.role == "judge" and same_key(candidate, each)), None)


def nearest(candidate: Baseline, stored: Sequence[Baseline]) -> tuple[Baseline, list[str]] | None:
    """The stored baseline of this case or recipe that differs in the fewest parts, and in which."""
    related = [
        (each, key_differences(candidate, each))
        for each in stored
        if each.role != "retired" and (each.case == candidate.case or each.recipe.name == candidate.recipe.name)
    ]
    return min(related, key=lambda pair: len(pair[1]), default=None)


def default_path(folder: Path, baseline: Baseline) -> Path:
    """`<folder>/<device>/<case>.json`, whatever characters a stranger put into either."""
    device = _slug(baseline.device.name).lower()
    return folder / (f"device-{device}" if device in NOT_BASELINES else device) / f"{_slug(baseline.case)}.json"


def _slug(words: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", words).strip(".-")[:80] or "unnamed"


@contextmanager
def held(folder: Path) -> Iterator[Path]:
    """A folder of baselines that nobody else writes to in the meantime; what to read from and write to.

    Of an installed package it is the current folder's copy.

    Raises:
        ValueError: there is no such folder, it cannot be written to, or another process does not let go of it.
    """
    folder = writable_folder(folder)
    require_folder(folder)
    with only_writer(folder, folder / ".lock", "try again"):
        yield folder


@contextmanager
def held_candidate(path: Path, folder: Path) -> Iterator[None]:
    """The file of a candidate that nobody else writes to in the meantime, nor to the folder if it lies within."""
    is_within = path.resolve().is_relative_to(folder.resolve())
    with held(folder) if is_within else only_writer(path, Path(f"{path}.lock"), "try again"):
        yield


def seen(place: Path) -> dict[Path, tuple[int, int]]:
    """The candidates that are there now: a file, or all within a folder of them by device; told by inode and time."""
    files = place.glob("*/*.json") if place.is_dir() else [place]
    return {file: mark for file in files if (mark := _mark(file)) is not None}


def _mark(file: Path) -> tuple[int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def write_candidate(path: Path, made: Baseline, before: Mapping[Path, tuple[int, int]], folder: Path) -> Path:
    """Write a candidate where none is, or in place of one that was there before; where it is now.

    `before` is what `seen` said when the command began. Nobody else writes to it meanwhile, nor to the folder of
    baselines if it lies within.

    Raises:
        ValueError: what is there is none, or another command wrote it meanwhile, or it cannot be written.
    """
    with held_candidate(path, folder):
        require_replaceable(path)
        if (now := _mark(path)) is not None and now != before.get(path):
            raise ValueError(
                f"{path}: another command wrote it while this one ran, and it is left as it is; record the same "
                "records into another file with -o"
            )
        return write(path, [made])


def require_replaceable(path: Path) -> None:
    """Refuse to write a candidate over anything but a candidate: what was promoted has a reason of its own."""
    if path.is_dir():
        raise ValueError(f"{path}: is a folder; name a file with -o")
    if not path.is_file():
        return
    try:
        is_candidate = [each.rationale for each in read_baselines(path)] == [_NOT_YET]
    except ValueError:
        is_candidate = False
    if not is_candidate:
        raise ValueError(
            f"{path}: exists and is no candidate, which alone `record` may replace; give another file with -o, "
            "then store it with `baseline promote`"
        )


def promote(folder: Path, candidate: Baseline, rationale: str) -> tuple[Path, Baseline | None]:
    """Store a candidate in place of the judge of its key, or beside the others; the file, and what it replaced."""
    accepted = changed(candidate, rationale=required(rationale))
    with held(folder) as at:
        return _stored(at, accepted)


def _stored(folder: Path, accepted: Baseline) -> tuple[Path, Baseline | None]:
    stored = stored_baselines(folder)
    replaced = judge_of_key(accepted, [each for _, each in stored])
    for path, each in stored:
        if each.label == accepted.label and each is not replaced:
            raise ValueError(f"{path}: has the label {each.label!r} already; record other runs for a new baseline")
    path = next((path for path, each in stored if each is replaced), default_path(folder, accepted))
    beside = [each for at, each in stored if at == path]
    kept = [accepted if each is replaced else each for each in beside] + [accepted] * (replaced is None)
    return write(path, kept), replaced


def retire(folder: Path, label: str, reason: str, today: date) -> Path:
    """Let a baseline judge no more, and say why and since when in its rationale."""
    with held(folder) as at:
        stored = stored_baselines(at)
        path, baseline = find(at, stored, label)
        if baseline.role == "retired":
            raise ValueError(f"{baseline.label!r} is retired already: {baseline.rationale[-200:]}")
        rationale = f"{baseline.rationale} {today.isoformat()}: retired, {required(reason)}"
        retired = changed(baseline, role="retired", rationale=rationale)
        return write(path, [retired if each is baseline else each for file, each in stored if file == path])


def find(folder: Path, stored: Sequence[tuple[Path, Baseline]], label: str) -> tuple[Path, Baseline]:
    """The baseline of this label among what the folder holds, as stored or as `list` shows it, and its file."""
    found = [pair for pair in stored if pair[1].label == label]
    found = found or [pair for pair in stored if plain(pair[1].label) == label]
    if len(found) != 1:
        show = f"python -m bench baseline list --baselines {shlex.quote(str(folder))}"
        raise ValueError(f"no baseline has the label {label!r}; `{show}` shows them")
    return found[0]


def required(rationale: str) -> str:
    """What a person gave as the reason; it is what a later reader has to go by."""
    words = " ".join(rationale.split())
    if not words:
        raise ValueError("--rationale is empty; say in a sentence why, as it is what later readers have to go by")
    return words


def changed(baseline: Baseline, **changes: object) -> Baseline:
    """The same baseline with other fields, checked again."""
    content: Mapping[str, Any] = baseline.model_dump() | changes
    try:
        return Baseline.model_validate(content)
    except ValidationError as error:
        raise ValueError(f"{baseline.label!r}: {first_fault(error)}") from None


def write(path: Path, baselines: Sequence[Baseline]) -> Path:
    """Write a file of baselines, atomically; where it is now. A ValueError where it could not be read again."""
    try:
        content = BaselineFile(schema=1, baselines=list(baselines)).model_dump_json(indent=1, by_alias=True) + "\n"
    except ValidationError as error:
        raise ValueError(f"{path}: {first_fault(error)}") from None
    raw = content.encode()
    if len(raw) > MAX_BASELINE_BYTES:
        raise ValueError(
            f"{path}: would be {len(raw) / 2**20:.1f} MiB, more than the {MAX_BASELINE_BYTES // 2**20} MiB allowed; "
            "record fewer or shorter runs, or retire and remove what the file holds"
        )
    path = writable_folder(path.parent) / path.name
    write_atomically(path, raw)
    return path
