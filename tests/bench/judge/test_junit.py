"""What a CI service reads of the verdicts."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench.judge.junit import write_junit
from bench.judge.rule import VerdictState
from bench.judge.verdict import Verdict

ALL: tuple[VerdictState, ...] = ("pass", "improved", "fail", "void", "missing", "inconclusive", "no_baseline")


def written(tmp_path: Path, verdicts: list[Verdict], require_baseline: bool = False) -> ElementTree.Element:
    write_junit(tmp_path / "out.xml", verdicts, require_baseline)
    suite = ElementTree.parse(tmp_path / "out.xml").getroot().find("testsuite")
    assert suite is not None
    return suite


@pytest.mark.parametrize(
    ("require_baseline", "failed", "skipped"),
    [
        (False, {"fail", "void", "missing"}, {"inconclusive", "no_baseline"}),
        (True, {"fail", "void", "missing", "inconclusive", "no_baseline"}, set()),
    ],
)
def test_each_state_is_what_the_gate_makes_of_it(tmp_path: Path, require_baseline, failed, skipped) -> None:
    suite = written(tmp_path, [Verdict(state, f"case {state}", f"said of {state}") for state in ALL], require_baseline)
    cases = {case.get("name", "").removeprefix("case "): case for case in suite}
    assert set(cases) == set(ALL)
    assert {name for name, case in cases.items() if case.find("failure") is not None} == failed
    assert {name for name, case in cases.items() if case.find("skipped") is not None} == skipped
    assert suite.attrib == {
        "name": "performance",
        "tests": "7",
        "failures": str(len(failed)),
        "errors": "0",
        "skipped": str(len(skipped)),
    }
    assert cases["pass"].findtext("system-out") == "said of pass"
    assert [child.get("message") for child in cases["fail"]] == ["said of fail"]


def test_any_words_stay_readable_xml(tmp_path: Path) -> None:
    hostile = "<a b='\"'>&\x00\x1b\x0b\ud800\ufffe]]>\U0001f600"
    (case,) = written(tmp_path, [Verdict("fail", hostile, hostile)])
    assert case.get("name") == "<a b='\"'>&\ufffd\ufffd\ufffd\ufffd\ufffd]]>\U0001f600"
    assert list(case)[0].get("message") == case.get("name")
