"""Verdicts as a JUnit file, which every CI service shows: one suite a case, with its figures as properties and one test
case, whose message is the sentence.

Properties stand in suites alone: the schema that Jenkins holds files to (junit-10.xsd) allows none in a test case.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from bench.judge.metrics import RATE, STEP
from bench.judge.verdict import Verdict, exit_code
from bench.records.jsonfile import write_atomically

SUITE = "performance"
_SKIPPED = ("inconclusive", "no_baseline")


def write_junit(path: Path, verdicts: Sequence[Verdict], require_baseline: bool) -> None:
    """Write `as_junit`, atomically."""
    write_atomically(path, as_junit(verdicts, require_baseline))


def as_junit(verdicts: Sequence[Verdict], require_baseline: bool) -> bytes:
    """One suite a verdict: failed where a gate would be, skipped where there is no answer.

    A case without an answer fails too where `require_baseline` asks for one.
    """
    outcomes = [_outcome(verdict, require_baseline) for verdict in verdicts]
    root = ElementTree.Element("testsuites", {"name": SUITE, **_counts(outcomes)})
    for verdict, outcome in zip(verdicts, outcomes, strict=True):
        name = _legal(verdict.name)
        counts = {**_counts([outcome]), "skipped": str(int(outcome == "skipped"))}
        suite = ElementTree.SubElement(root, "testsuite", {"name": name, **counts})
        properties = ElementTree.SubElement(suite, "properties")
        for key, value in properties_of(verdict).items():
            ElementTree.SubElement(properties, "property", name=key, value=_legal(value))
        case = ElementTree.SubElement(suite, "testcase", classname=SUITE, name=name)
        if outcome is None:
            ElementTree.SubElement(case, "system-out").text = _legal(verdict.sentence)
        else:
            ElementTree.SubElement(case, outcome, message=_legal(verdict.sentence), type=verdict.state)
    ElementTree.indent(root)
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


def properties_of(verdict: Verdict) -> dict[str, str]:
    """What a JUnit file says of a case in numbers, by name: medians over its runs, and the change of a step."""
    found: dict[str, str] = {"verdict": verdict.state}
    if verdict.measured is not None:
        measured = verdict.measured
        found |= {RATE: f"{measured.tokens_per_second_per_processor:.7g}", STEP: f"{measured.step_seconds:.7g}"}
        found["runs"] = str(measured.runs)
    row = verdict.judged(STEP)
    if row is None:
        return found
    found |= {"baseline": row.label, "baseline_step_seconds": f"{row.baseline:.7g}"}
    found["step_change_percent"] = f"{row.change_percent:.4g}"
    if row.evidence is not None:
        found["step_change_low_percent"] = f"{row.evidence.low_percent:.4g}"
        found["step_change_high_percent"] = f"{row.evidence.high_percent:.4g}"
    return found


def _counts(outcomes: Sequence[str | None]) -> dict[str, str]:
    """As the schema knows them of a suite and of all suites."""
    return {"tests": str(len(outcomes)), "failures": str(outcomes.count("failure")), "errors": "0"}


def _outcome(verdict: Verdict, require_baseline: bool) -> str | None:
    if exit_code(verdict, require_baseline):
        return "failure"
    return "skipped" if verdict.state in _SKIPPED else None


def _legal(words: str) -> str:
    """What XML 1.0 can hold and a reader sees: a stranger's control characters and half characters would make the file
    unreadable, and separators of lines and marks of direction make it read as another.
    """
    return "".join(char if _is_legal(char) else "\N{REPLACEMENT CHARACTER}" for char in words)


def _is_legal(char: str) -> bool:
    return char in "\t\n\r" or char.isprintable()
