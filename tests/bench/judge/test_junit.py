"""What a CI service reads of the verdicts."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from xml.etree import ElementTree

import pytest

from bench.judge.baseline import recorded_baseline
from bench.judge.gate import judge
from bench.judge.junit import properties_of, write_junit
from bench.judge.rule import VerdictState
from bench.judge.stats import summarise
from bench.judge.verdict import Verdict
from bench.records.record import Record

ALL: tuple[VerdictState, ...] = ("pass", "improved", "fail", "void", "missing", "inconclusive", "no_baseline")


# junit-10.xsd of Jenkins: (attributes, those of them that it requires, children)
SCHEMA = {
    "testsuites": ({"name", "time", "tests", "failures", "errors"}, set(), {"testsuite"}),
    "testsuite": (
        {"name", "tests", "failures", "errors", "skipped", "time", "timestamp", "hostname", "id", "package", "file"},
        {"name", "tests", "failures", "errors"},
        {"testsuite", "properties", "testcase", "system-out", "system-err"},
    ),
    "properties": (set(), set(), {"property"}),
    "property": ({"name", "value"}, {"name", "value"}, set()),
    "testcase": (
        {"name", "time", "classname", "group"},
        {"name"},
        {"skipped", "error", "failure", "system-out", "system-err"},
    ),
    "failure": ({"type", "message"}, set(), set()),
    "skipped": ({"type", "message"}, set(), set()),
    "system-out": (set(), set(), set()),
}


def written(tmp_path: Path, verdicts: list[Verdict], require_baseline: bool = False) -> ElementTree.Element:
    write_junit(tmp_path / "out.xml", verdicts, require_baseline)
    root = ElementTree.parse(tmp_path / "out.xml").getroot()
    for element in root.iter():
        allowed, required, children = SCHEMA[element.tag]
        assert required <= set(element.attrib) <= allowed
        assert {child.tag for child in element} <= children
    return root


def properties(suite: ElementTree.Element) -> dict[str, str]:
    return {str(each.get("name")): str(each.get("value")) for each in suite.iter("property")}


@pytest.mark.parametrize(
    ("require_baseline", "failed", "skipped"),
    [
        (False, {"fail", "void", "missing"}, {"inconclusive", "no_baseline"}),
        (True, {"fail", "void", "missing", "inconclusive", "no_baseline"}, set()),
    ],
)
def test_each_state_is_what_the_gate_makes_of_it(tmp_path: Path, require_baseline, failed, skipped) -> None:
    root = written(tmp_path, [Verdict(state, f"case {state}", f"said of {state}") for state in ALL], require_baseline)
    cases = {case.get("name", "").removeprefix("case "): case for case in root.iter("testcase")}
    assert set(cases) == set(ALL)
    assert {name for name, case in cases.items() if case.find("failure") is not None} == failed
    assert {name for name, case in cases.items() if case.find("skipped") is not None} == skipped
    assert root.attrib == {"name": "performance", "tests": "7", "failures": str(len(failed)), "errors": "0"}
    for suite in root:
        state = str(suite.get("name")).removeprefix("case ")
        counts = {"failures": str(int(state in failed)), "skipped": str(int(state in skipped))}
        assert suite.attrib == {"name": f"case {state}", "tests": "1", "errors": "0", **counts}
        assert properties(suite) == {"verdict": state}
    assert cases["pass"].findtext("system-out") == "said of pass"
    assert [child.get("message") for child in cases["fail"]] == ["said of fail"]


def test_any_words_stay_readable_xml(tmp_path: Path) -> None:
    hostile = "<a b='\"'>&\x00\x1b\x0b\ud800\ufffe\u2029\u202e\u200b]]>\U0001f600"
    (case,) = written(tmp_path, [Verdict("fail", hostile, hostile)]).iter("testcase")
    assert case.get("name") == "<a b='\"'>&" + 8 * "\ufffd" + "]]>\U0001f600"
    assert list(case)[0].get("message") == case.get("name")


def test_the_figures_of_a_case_are_properties_of_its_suite(synthetic_record, tmp_path: Path) -> None:
    def runs(first: int, seconds: float) -> list[Record]:
        return [
            synthetic_record(seed=first + place, noise=0.001, median_seconds=seconds * (1 + 0.002 * place))
            for place in range(5)
        ]

    slow, stored = runs(10, 42.0), recorded_baseline(runs(0, 40.0), "to test with")
    verdict = judge(slow, [stored])
    (suite,) = written(tmp_path, [verdict])
    found = properties(suite)
    row = verdict.judged("step_seconds")
    assert row is not None
    assert row.evidence is not None
    assert (found["verdict"], found["runs"], found["baseline"]) == ("fail", "5", stored.label)
    assert float(found["step_seconds"]) == pytest.approx(median(summarise(each).median_step_seconds for each in slow))
    assert float(found["tokens_per_second_per_processor"]) == pytest.approx(
        median(summarise(each).tokens_per_second_per_processor for each in slow)
    )
    low, high = float(found["step_change_low_percent"]), float(found["step_change_high_percent"])
    assert (low, high) == pytest.approx((row.evidence.low_percent, row.evidence.high_percent), rel=1e-3)
    assert low < float(found["step_change_percent"]) < high


def test_a_case_without_a_baseline_has_its_figures_and_a_void_one_none(synthetic_record) -> None:
    lone = properties_of(judge(synthetic_record(), []))
    assert set(lone) == {"verdict", "runs", "step_seconds", "tokens_per_second_per_processor"}
    void = synthetic_record(valid=False, void_reasons=["loss is not finite"])
    assert properties_of(judge(void, [])) == {"verdict": "void"}
