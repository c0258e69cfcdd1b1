"""Baselines that several commands write at once, and what `record -o` may replace: nothing stored is lost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from bench.baselines import store
from bench.commands import baseline
from bench.judge.baseline import load_baselines, read_baselines
from tests.bench.commands.test_baseline import promoted, refused, write_runs
from tests.in_process import Command
from tests.limits import HANG_SECONDS

BASELINES = Path("baselines")


@contextmanager
def beside_the_first_write(monkeypatch: pytest.MonkeyPatch, other: Callable[[], object]) -> Iterator[None]:
    """`other` begins once the first writer has read, and ends before it writes, unless it has to wait for it."""
    plain_write, started = store.write, threading.Event()
    second = threading.Thread(target=other)

    def write(*arguments: Any) -> Path:
        if not started.is_set():
            started.set()
            second.start()
            second.join(0.3)
        return plain_write(*arguments)

    monkeypatch.setattr(store, "write", write)
    yield
    second.join(HANG_SECONDS)
    assert not second.is_alive()


def candidates(bench: Command, synthetic_record) -> None:
    for place, name in enumerate(("one", "two")):
        runs = write_runs(synthetic_record, Path(name), first=1 + 10 * place, software={"torch": f"2.{place}.0"})
        assert bench("baseline", "record", runs, "-o", f"{name}.json")[0] == 0


def test_two_promotions_at_once_are_both_kept(bench: Command, synthetic_record, monkeypatch) -> None:
    candidates(bench, synthetic_record)
    second = store.read_candidate(Path("two.json"))
    with beside_the_first_write(monkeypatch, lambda: store.promote(BASELINES, second, "two")):
        assert bench("baseline", "promote", "one.json", "--rationale", "one")[0] == 0
    assert {each.rationale for each in load_baselines(BASELINES)} == {"one", "two"}


@pytest.mark.parametrize("was_there", [False, True])
def test_of_two_records_into_one_file_at_once_one_is_refused(
    bench: Command, synthetic_record, monkeypatch, was_there: bool
) -> None:
    """Each takes minutes of runs, and what it wrote would be gone."""
    candidates(bench, synthetic_record)
    runs = write_runs(synthetic_record, Path("three"), first=31, software={"torch": "2.3.0"})
    path, second = Path("one.json"), store.read_candidate(Path("two.json"))
    if not was_there:
        path.unlink()
    told: list[str] = []
    before = store.seen(path)

    def other() -> None:
        try:
            store.write_candidate(path, second, before, BASELINES)
        except ValueError as error:
            told.append(str(error))

    with beside_the_first_write(monkeypatch, other):
        assert bench("baseline", "record", runs, "-o", path)[0] == 0
    assert [line.partition(";")[0] for line in told] == [
        "one.json: another command wrote it while this one ran, and it is left as it is"
    ]
    assert store.read_candidate(path).software["torch"] == "2.3.0"
    assert bench("baseline", "record", runs, "-o", path)[0] == 0  # one after the other, as ever


def test_a_candidate_that_came_meanwhile_under_the_usual_name_is_kept(
    bench: Command, synthetic_record, monkeypatch
) -> None:
    runs = write_runs(synthetic_record, Path("runs"), first=1, software={"torch": "2.3.0"})
    made = store.candidate_of

    def slow(*arguments: Any, **settings: Any) -> Any:
        found = made(*arguments, **settings)
        store.write(store.default_path(baseline.CANDIDATES, found), [found])
        return found

    monkeypatch.setattr(store, "candidate_of", slow)
    refused(bench("baseline", "record", runs), "another command wrote it while this one ran")


def test_a_promotion_while_another_is_retired_is_kept(bench: Command, synthetic_record, monkeypatch) -> None:
    candidates(bench, synthetic_record)
    second = store.read_candidate(Path("two.json"))
    store.promote(BASELINES, store.read_candidate(Path("one.json")), "one")
    (label,) = (each.label for each in load_baselines(BASELINES))
    with beside_the_first_write(monkeypatch, lambda: store.promote(BASELINES, second, "two")):
        store.retire(BASELINES, label, "old", date(2025, 2, 1))
    assert [each.role for each in load_baselines(BASELINES)] == ["retired", "judge"]


@pytest.mark.parametrize("where", ["runs.json", "label"])
def test_runs_that_are_added_at_once_are_all_kept(bench: Command, synthetic_record, monkeypatch, where: str) -> None:
    promoted(bench, synthetic_record)
    (label,) = (each.label for each in load_baselines(BASELINES))
    target = where if where.endswith(".json") else label
    later = [
        write_runs(synthetic_record, Path(f"day-{day}"), 2, first=10 * day, created_at=f"2025-02-0{day}T12:00:00Z")
        for day in (1, 2)
    ]
    refusals: list[ValueError] = []

    def other() -> None:
        try:
            baseline.add(target, [later[1]], BASELINES)
        except ValueError as error:  # a baseline has another label once runs were added to it
            refusals.append(error)

    with beside_the_first_write(monkeypatch, other):
        assert bench("baseline", "add", target, later[0])[0] == 0
    if refusals:
        (label,) = (each.label for each in load_baselines(BASELINES))
        assert bench("baseline", "add", label, later[1])[0] == 0
    path = Path(target) if target != label and Path(target).is_file() else next(BASELINES.rglob("*.json"))
    (kept,) = read_baselines(path)
    assert len(kept.runs) == 9


def test_a_lock_that_is_never_let_go_is_named(bench: Command, synthetic_record, monkeypatch) -> None:
    candidates(bench, synthetic_record)
    monkeypatch.setattr("bench.records.lock.LOCK_SECONDS", 0.05)
    with store.held(BASELINES):
        refused(bench("baseline", "promote", "one.json", "--rationale", "x"), "baselines: locked by another process")
    assert bench("baseline", "promote", "one.json", "--rationale", "x")[0] == 0


def test_record_replaces_a_candidate_and_nothing_else(bench: Command, synthetic_record) -> None:
    promoted(bench, synthetic_record)
    more = write_runs(synthetic_record, Path("more"), first=11)
    assert bench("baseline", "record", more, "-o", "runs.json")[0] == 0
    (stored,) = BASELINES.rglob("*.json")
    Path("notes.json").write_text('{"mine": 1}')
    for path in (stored, Path("notes.json")):
        before = path.read_bytes()
        refused(
            bench("baseline", "record", more, "-o", path), f"{path}: exists and is no candidate", "baseline promote"
        )
        assert path.read_bytes() == before
