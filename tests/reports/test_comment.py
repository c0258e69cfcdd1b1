"""The comment on a pull request: short whatever it is told, and with nothing in it that a service would act on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from bench.judge.attribution import Attribution, Part
from bench.judge.baseline import Baseline, recorded_baseline
from bench.judge.evidence import Evidence
from bench.judge.rule import RowState, VerdictState
from bench.judge.verdict import Measured, Row, Verdict
from bench.records.record import Record
from reports.case import CaseResult, assess
from reports.comment import LINK, MARKER, MAX_BYTES, MAX_LINES, comment
from reports.document import write_report

HOSTILE = "x|<img src=y onerror=z>`@all` #1 ![a](b) --> \n/close \n\n# T $(touch p) \u202e " + MARKER
STATES: tuple[VerdictState, ...] = ("pass", "improved", "fail", "inconclusive", "no_baseline", "void", "missing")
ROW_STATES: tuple[RowState, ...] = ("pass", "improved", "fail", "inconclusive", "compared")


@pytest.fixture(scope="module")
def slow_against() -> tuple[list[Record], Baseline]:
    """Five runs, and a baseline that was 5 % faster."""
    from bench.synthetic import build_synthetic_record

    def runs(first: int, seconds: float) -> list[Record]:
        return [
            build_synthetic_record(seed=first + place, noise=0.001, median_seconds=seconds * (1 + 0.002 * place))
            for place in range(5)
        ]

    return runs(10, 42.0), recorded_baseline(runs(0, 40.0), "to test with")


def test_it_says_the_verdict_first_then_the_figures_and_where(slow_against) -> None:
    records, stored = slow_against
    lines = comment(assess(records, [stored])).splitlines()
    assert lines[:2] == [MARKER, "### FAIL: grok1-40b is 5.0 % slower (4.4 to 5.7)"]
    (row,) = (line for line in lines if line.startswith("| ✗ fail"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:5] == ["✗ fail", "grok1-40b", "1,554.7", "42.16", "+5.0 %"]
    assert re.fullmatch(r"\+4\.\d\d to \+5\.\d\d %", cells[5])
    assert cells[6:] == ["5", stored.label]
    assert any(line.startswith("- grok1-40b: the step moved +2.0") for line in lines)
    assert lines[-1] == f"16 x Ascend910B-synthetic at 0000000000. {LINK}"


def test_it_lies_beside_the_report_that_it_links_to(synthetic_record, tmp_path: Path) -> None:
    write_report([synthetic_record(steps=6)], [], tmp_path)
    said = (tmp_path / "comment.md").read_text(encoding="utf-8")
    assert said.startswith(f"{MARKER}\n### NO BASELINE: grok1-40b ran at ")
    (linked,) = re.findall(r"\]\(([^)]+)\)", said)
    assert (tmp_path / linked).is_file()


def test_of_several_cases_the_worst_is_first_and_all_are_counted(synthetic_record) -> None:
    void = synthetic_record(case="bad", valid=False, void_reasons=["loss is not finite"])
    lines = comment(assess([synthetic_record(), void], [])).splitlines()
    assert lines[1] == "### VOID: 2 cases, 1 void, 1 no baseline"
    assert [line.split("|")[2].strip() for line in lines if line.startswith(("| ✗ void", "| ○ no"))] == [
        "bad",
        "grok1-40b",
    ]


def test_a_column_has_one_unit_and_the_same_decimals(synthetic_record) -> None:
    device = {"peak_flops_per_second": None, "peak_source": None}
    steps = {"a": 0.25, "b": 0.0314}
    records = [synthetic_record(case=name, median_seconds=step, device=device) for name, step in steps.items()]
    header, *rows = (line for line in comment(assess(records, [])).splitlines() if line.startswith("| "))
    assert [cell.strip() for cell in header.split("|")][4] == "ms/step"
    shown = [row.split("|")[4].strip() for row in rows]
    assert sorted(map(float, shown)) == pytest.approx([31.4, 250.0], rel=0.02)
    assert {len(each.partition(".")[2]) for each in shown} == {1}


def test_what_ab_settled_is_not_told_by_the_row_that_was_in_doubt() -> None:
    row = Row("step_seconds", 1.1, 1.0, 10.0, 5.0, "inconclusive", "b", "s", evidence())
    said = comment([CaseResult(Verdict("fail", "c", "FAIL: c is slower by A/B", (row,)))])
    assert said.splitlines()[1] == "### FAIL: c is slower by A/B"


def evidence(**changes: Any) -> Evidence:
    values: dict[str, Any] = {
        "change_percent": 1.0, "low_percent": 0.5, "high_percent": 1.5, "visible_percent": 1.0, "worse_p": 0.1,
        "better_p": 0.9, "spread_percent": 1.0, "runs": (5, 5), "session_percent": None, "is_session_known": False,
        "session_origin": "",
    }  # fmt: skip
    return Evidence(**(values | changes))


WORDS = st.one_of(st.text(max_size=40), st.sampled_from([HOSTILE, HOSTILE * 6, "|" * 700, "\U0001f600" * 700, ""]))
NUMBERS = st.one_of(st.floats(width=64), st.sampled_from([1e300, -1e300, 0.0]))


@st.composite
def verdicts(draw: st.DrawFn) -> Verdict:
    state = draw(st.sampled_from(STATES))
    row_state = draw(st.sampled_from(ROW_STATES))
    figures = evidence(**{f"{name}_percent": draw(NUMBERS) for name in ("change", "low", "high")})
    metric = draw(st.sampled_from(["step_seconds", "tokens_per_second_per_processor", "peak_bytes", "phase_seconds.x"]))
    row = Row(
        metric,
        draw(NUMBERS),
        draw(NUMBERS),
        draw(NUMBERS),
        None,
        row_state,
        draw(WORDS),
        draw(WORDS),
        draw(st.sampled_from([None, figures])),
    )
    moved = Attribution(draw(NUMBERS), (Part("phase", draw(WORDS), 1.0, 2.0, 1.0),), ())
    return Verdict(
        state,
        draw(WORDS),
        draw(WORDS),
        draw(st.sampled_from([(), (row,)])),
        attribution=draw(st.sampled_from([None, moved])),
        measured=draw(st.sampled_from([None, Measured(draw(NUMBERS), draw(NUMBERS), 10**30)])),
    )


def check(said: str) -> None:
    """Short, one marker, one link, no line that a service takes for a command, no markup of strangers."""
    lines = said.splitlines()
    assert len(lines) <= MAX_LINES
    assert len(said.encode()) <= MAX_BYTES
    assert lines[0] == MARKER
    assert said.count("<!--") == 1
    assert re.findall(r"\]\([^)]*\)", said) == ["](report.html)"]
    assert not [line for line in lines if line.lstrip().startswith("/")]
    tags = set(re.findall(r"<[^ >][^>]*>", said)) - {MARKER}  # "< 0.1": with a space it begins none
    assert tags == {"<details>", "</details>", "<summary>", "</summary>"}
    assert "@" not in said


@settings(max_examples=60)
@given(st.lists(verdicts(), min_size=1, max_size=3), st.integers(1, 5))
def test_it_is_short_and_harmless_whatever_the_verdicts_say(some: list[Verdict], times: int) -> None:
    check(comment([CaseResult(each) for each in some * times]))


def test_the_longest_that_there_can_be_fits() -> None:
    wide = "|" * 2_000
    row = Row("step_seconds", 1e300, 1e300, 1e300, None, "fail", wide, wide, evidence(low_percent=-1e300))
    moved = Attribution(1.0, (Part("phase", wide, 1.0, 2.0, 1.0),), ())
    worst = Verdict("fail", wide, wide, (row,), attribution=moved, measured=Measured(1e300, 1e300, 10**30))
    said = comment([CaseResult(worst)] * 100)
    check(said)
    assert len(said.splitlines()) > 0.7 * MAX_LINES  # it is about the longest
    assert len(said.encode()) > 0.7 * MAX_BYTES
    check(comment([CaseResult(worst)]))


def test_of_one_rank_alone_it_does_not_speak_of_sixteen(lone_record) -> None:
    said = comment(assess([lone_record()], []))
    assert f"rank 5 of 16, Ascend910B-synthetic at 0000000000. {LINK}" in said
    assert "16 x" not in said


def test_it_is_one_table_one_list_and_one_fold(synthetic_record) -> None:
    records = [synthetic_record(case=f"{HOSTILE}{place}"[-150:], recipe={"name": f"n{place}"}) for place in range(3)]
    tokens = MarkdownIt("commonmark").enable("table").parse(comment(assess(records, [])))
    assert [each.type for each in tokens if each.level == 0 and each.nesting >= 0] == [
        "html_block",
        "heading_open",
        "table_open",
        "html_block",
        "bullet_list_open",
        "paragraph_open",
        "html_block",
        "paragraph_open",
    ]


def test_every_state_is_tried() -> None:
    assert {state for each in get_args(VerdictState) for state in (get_args(each) or (each,))} == set(STATES)
