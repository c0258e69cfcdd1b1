"""Records of one case side by side: what differs first, then figures, differences and how sure they are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.judge.baseline import recorded_baseline
from bench.judge.words import times
from bench.records.record import Record
from bench.synthetic import build_synthetic_record
from reports import document
from reports.case import assess
from reports.tables.side_by_side import side_by_side


def runs(count: int, seconds: float = 39.8, first: int = 0, **changes: Any) -> list[Record]:
    """Within a minute, so of one session."""
    return [
        build_synthetic_record(seed=first + number, median_seconds=seconds * (1 + 0.002 * (number % 3)), **changes)
        for number in range(count)
    ]


def told(*records: Record) -> str:
    return "\n".join(side_by_side(assess(records, [])))


def test_runs_with_nothing_between_them_are_no_comparison() -> None:
    assert told(*runs(3)) == ""


def test_what_differs_stands_before_the_figures_and_what_is_equal_is_folded() -> None:
    text = told(*runs(1), *runs(1, first=1, software={"torch": "2.8.0"}, host={"cores": 64}))
    differs, equal, figures = (text.index(part) for part in ("### What differs", "<details>", "### Figures of all"))
    assert differs < text.index("software: torch") < equal < figures
    assert "192 cores" in text[differs:equal]
    assert "OMP_NUM_THREADS" in text[equal:figures]


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"commit": {"sha": "1" * 40}}, "commit"),
        ({"commit": {"dirty": True}}, "commit"),
        (
            {"recipe": {"hash": "f" * 12, "resolved": {"training": {"learning_rate": 0.5}}}},
            "value: training.learning_rate",
        ),
        ({"device": {"name": "another"}}, "device"),
        ({"session": {"machine": "b" * 16, "boot": None, "day": "2025-01-31", "job": None}}, "machine"),
        ({"layout": {"nodes": 1, "ranks_per_node": 16}}, "layout: nodes"),
        ({"environment": {"OMP_NUM_THREADS": "2"}}, "environment: OMP_NUM_THREADS"),
    ],
)
def test_each_kind_of_provenance_makes_another_side(changes: dict[str, Any], name: str) -> None:
    text = told(*runs(1), *runs(1, first=1, **changes))
    assert f"| {name} " in text[: text.index("<details>")]


def test_a_slower_side_is_said_first_with_its_interval() -> None:
    text = told(*runs(6), *runs(6, 45.0, first=10, commit={"sha": "1" * 40}))
    found = re.search(r"^- B is (1\.1\d+) ± (0\.0\d+) times slower than A in tokens/s/p$", text, re.MULTILINE)
    assert found
    assert float(found[1]) == pytest.approx(45.0 / 39.8, abs=0.01)
    assert re.search(r"\| tokens/s/p .* -1[12]\.\d \(-1\d\.\d to -1\d\.\d\) % ", text)
    assert re.search(r"\| forward, s .* \+\d\.\d \(.*\) % of a step ", text)


def test_too_few_runs_have_no_interval_and_say_so() -> None:
    text = told(*runs(1), *runs(1, 45.0, first=10, commit={"sha": "1" * 40}))
    assert "- B is 1.13 times slower than A in tokens/s/p; so few runs do not tell how sure that is" in text
    assert "There are no intervals, as A has fewer than the 5 runs" in text
    assert " to +" not in text[text.index("### Figures of all") :]


def test_a_row_has_one_unit_and_equal_decimals_and_phases_share_theirs() -> None:
    device = {"peak_flops_per_second": None, "peak_source": None}
    fast, slow = runs(1, 0.25, device=device), runs(1, 0.0314, first=10, device=device, commit={"sha": "1" * 40})
    lines = [line for line in told(*fast, *slow).splitlines() if line.startswith("| ")]
    rows = {cells[1]: cells[2:4] for cells in ([cell.strip() for cell in line.split("|")] for line in lines)}
    for name in ("tokens/s/p", "ms/step, median", "PFLOP/s/p", "peak memory, GiB", "forward, ms", "data, ms"):
        one, other = (cell.partition(".")[2] for cell in rows[name])
        assert len(one) == len(other), (name, rows[name])


def test_memory_has_no_level_of_a_session() -> None:
    """What a job needs it needs in every session, so that a hundredth more of it is seen."""
    more = [rank.model_dump() | {"peak_bytes": rank.peak_bytes * 101 // 100} for rank in runs(1)[0].ranks]
    text = told(*runs(6), *runs(6, first=10, created_at="2025-03-01T00:00:00Z", commit={"sha": "1" * 40}, ranks=more))
    assert re.search(r"\| peak memory, GiB .* \+1\.0 \(\+1\.0 to \+1\.0\) % ", text)


def test_equal_sides_are_not_called_different() -> None:
    assert "- no difference of B from A is seen in tokens/s/p: " in told(
        *runs(6), *runs(6, first=10, commit={"sha": "1" * 40})
    )


def test_machines_are_columns_of_one_table() -> None:
    machines = [{"machine": letter * 16, "boot": None, "day": "2025-01-31", "job": None} for letter in "abc"]
    sides = [run for number, each in enumerate(machines) for run in runs(1, first=number, session=each)]
    assert "| | A | B | B from A | C | C from A |" in re.sub(" +", " ", told(*sides))


HOSTILE = "<script>alert(1)</script>|`x` $$ [a](javascript:b)"


def test_hostile_provenance_stays_text() -> None:
    text = told(*runs(1), *runs(1, first=1, software={HOSTILE: HOSTILE}, recipe={"resolved": {HOSTILE: HOSTILE}}))
    assert "<script" not in text
    assert "](javascript" not in text


def test_the_report_has_it_and_a_report_of_one_side_has_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document, "_pictures", lambda case, width: {})
    one = document.write_report(runs(2), [], tmp_path / "one").read_text()
    two = document.write_report(
        [*runs(1), *runs(1, first=1, commit={"sha": "1" * 40})], [], tmp_path / "two"
    ).read_text()
    assert ["side by side" in text for text in (one, two)] == [False, True]


@pytest.mark.parametrize(
    ("others", "said"),
    [
        ((1.2,), "B is 1.20 times slower than A in tokens/s/p; so few runs do not tell how sure that is"),
        ((1.2, 0.9), "A to C ran at "),
    ],
)
def test_a_report_of_several_sides_begins_with_how_far_apart_they_are_and_never_with_a_median_of_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, others: tuple[float, ...], said: str
) -> None:
    monkeypatch.setattr(document, "_pictures", lambda case, width: {})
    sides = [
        runs(1, 39.8 * ratio, first=number, commit={"sha": str(number) * 40})
        for number, ratio in enumerate((1.0, *others))
    ]
    path = document.write_report([record for side in sides for record in side], [], tmp_path)
    first, beside = path.read_text().split('<a id="sides-1"></a>')
    assert f"# NO BASELINE: grok1-40b, side by side: {said}" in first
    assert said in (tmp_path / "comment.md").read_text()
    assert "| figure" not in first
    assert "### Figures of all sides" in beside
    assert f"the median of {len(sides)} runs of {len(sides)} programs or machines" in beside


def test_runs_of_several_programs_are_not_offered_as_one_baseline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(document, "_pictures", lambda case, width: {})
    mixed = [*runs(3), *runs(3, first=3, commit={"sha": "1" * 40})]
    offered = [document.write_report(each, [], tmp_path / str(len(each))).read_text() for each in (runs(5), mixed)]
    assert ["These runs can become its baseline" in text for text in offered] == [True, False]


def test_logs_that_tell_the_same_are_two_sides_and_can_become_one_baseline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether they are before and after or the same again, only who wrote them knows."""
    monkeypatch.setattr(document, "_pictures", lambda case, width: {})
    logs = [runs(1, first=number, source=f"ingested from run-{number}.log")[0] for number in range(5)]
    first = document.write_report(logs, [], tmp_path).read_text().split('<a id="sides-1"></a>')[0]
    assert "side by side: A to E ran at" in first
    assert "| figure" not in first
    assert "These runs can become its baseline" in first


def test_runs_of_several_programs_beside_a_baseline_stand_side_by_side_and_are_to_be_judged_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(document, "_pictures", lambda case, width: {})
    stored = recorded_baseline(runs(5, first=20), "invented")
    ours = runs(3)
    mixed = [*ours, *runs(3, 1.2 * 39.8, first=3, commit={"sha": "1" * 40})]
    text = document.write_report(mixed, [stored], tmp_path).read_text()
    first = text.split('<a id="sides-1"></a>')[0]
    assert "# VOID: grok1-40b, side by side: B is 1.20 " in first
    assert "runs of several programs: commit is " in first
    assert "Judge the runs of each program alone" in first
    assert " ".join(["bench gate", *(f"results/records/grok1-40b-{run.id}.json" for run in ours)]) in first
    assert "| figure" not in first


@given(st.floats(-60, 200), st.floats(0.001, 20), st.floats(0.001, 20))
def test_times_tell_the_ratio_and_half_of_its_interval(change: float, below: float, above: float) -> None:
    found = re.fullmatch(r"([\d.]+) ± ([\d.]+) times (slower|faster)", times(change, change - below, change + above))
    assert found
    ratio = float(found[1]) if found[3] == "slower" else 1 / float(found[1])
    assert ratio == pytest.approx(1 + change / 100, rel=0.01)
    assert float(found[1]) >= 1
    if found[3] == "slower":
        assert float(found[2]) == pytest.approx((below + above) / 200, abs=0.006)
