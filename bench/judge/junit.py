"""Verdicts as a JUnit file, which every CI service shows: one test case a case, its sentence as the message."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from bench.judge.verdict import Verdict, exit_code
from bench.records.jsonfile import write_atomically

SUITE = "performance"
_SKIPPED = ("inconclusive", "no_baseline")


def write_junit(path: Path, verdicts: Sequence[Verdict], require_baseline: bool) -> None:
    """Write `as_junit`, atomically."""
    write_atomically(path, as_junit(verdicts, require_baseline))


def as_junit(verdicts: Sequence[Verdict], require_baseline: bool) -> bytes:
    """One test case a verdict: failed where a gate would be, skipped where there is no answer.

    A case without an answer fails too where `require_baseline` asks for one.
    """
    suite = ElementTree.Element("testsuite", name=SUITE)
    for verdict in verdicts:
        case = ElementTree.SubElement(suite, "testcase", classname=SUITE, name=_legal(verdict.case))
        outcome = _outcome(verdict, require_baseline)
        if outcome is None:
            ElementTree.SubElement(case, "system-out").text = _legal(verdict.sentence)
        else:
            ElementTree.SubElement(case, outcome, message=_legal(verdict.sentence), type=verdict.state)
    outcomes = [_outcome(verdict, require_baseline) for verdict in verdicts]
    suite.attrib |= {
        "tests": str(len(outcomes)),
        "failures": str(outcomes.count("failure")),
        "errors": "0",
        "skipped": str(outcomes.count("skipped")),
    }
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


def _outcome(verdict: Verdict, require_baseline: bool) -> str | None:
    if exit_code(verdict, require_baseline):
        return "failure"
    return "skipped" if verdict.state in _SKIPPED else None


def _legal(words: str) -> str:
    """What XML 1.0 can hold: a stranger's control characters and half characters would make the file unreadable."""
    return "".join(char if _is_legal(char) else "\N{REPLACEMENT CHARACTER}" for char in words)


def _is_legal(char: str) -> bool:
    return char in "\t\n\r" or " " <= char <= "\ud7ff" or "\ue000" <= char <= "\ufffd" or char >= "\U00010000"
