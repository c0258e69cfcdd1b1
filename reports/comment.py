"""The comment on a pull request: the verdict, a row a case and what moved, in a screen of Markdown.

It starts with a marker, by which whoever posts it finds the one of the last run and replaces it, and links to the
report beside it. Its length is bounded by what is put into it: no cell, sentence or list is longer than stated here,
and a character takes at most six.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bench.judge.evidence import FAMILY_ERROR
from bench.judge.metrics import STEP
from bench.judge.verdict import Verdict
from bench.judge.words import confidence, interval_of
from bench.records.record import Record
from reports.case import CaseResult
from reports.formats import Unit, rate_unit, seconds_unit
from reports.headline import headline
from reports.markdown import Markup, details, state_cell, table, text
from reports.tables.overview import processors

MARKER = "<!-- grok1-performance -->"
LINK = "[The full report](report.html)"  # where it lies is for whoever posts it to say
MAX_LINES = 60
MAX_BYTES = 65_536  # GitHub's limit, which it counts in characters

_MAX_CASES = 10
_MAX_MOVED = 3
_MAX_SENTENCES = 8
_HEADLINE, _NAME, _FIGURE, _MOVED, _SENTENCE = 300, 60, 30, 400, 600  # characters, before they are escaped


def comment(cases: Sequence[CaseResult]) -> str:
    """At most 60 lines and 65,536 bytes, whatever the records say. The cases come with the worst first."""
    verdicts = [case.verdict for case in cases]
    parts = [f"{MARKER}\n### {text(headline(cases), _HEADLINE)}", _table(verdicts)]
    moved = [each for each in verdicts if each.attribution is not None and each.attribution.sentence]
    if moved:
        parts.append(_listed([_moved(each) for each in moved], _MAX_MOVED))
    whole = _listed([text(each.sentence, _SENTENCE) for each in verdicts], _MAX_SENTENCES)
    measured_on = _where(run.record for case in cases for run in case.runs)
    parts += [details("The verdicts in full", f"{whole}\n\n{_LEGEND}"), f"{measured_on}{LINK}"]
    return "\n\n".join(parts) + "\n"


_LEGEND = (
    "tokens/s/p: tokens per second per processor; s/step: seconds per step; both medians over the runs. Change: of "
    f"s/step, + is slower. Interval: its {confidence(FAMILY_ERROR)} confidence interval, adjusted for all that was "
    "judged together."
)


def _table(verdicts: Sequence[Verdict]) -> str:
    shown = verdicts[:_MAX_CASES]
    measured = [each.measured for each in shown if each.measured is not None]
    rate = rate_unit(each.tokens_per_second_per_processor for each in measured)
    step = seconds_unit(each.step_seconds for each in measured)
    headers = ["verdict", "case", "tokens/s/p", step.per("step"), "change", "interval", "runs", "baseline"]
    rows = [_row(each, rate, step) for each in shown]
    return table(headers, rows, numbers=range(2, 7)) + _more(len(verdicts), _MAX_CASES)


def _row(verdict: Verdict, rate: Unit, step: Unit) -> list[Markup]:
    row, measured = verdict.judged(STEP), verdict.measured
    ends = None if row is None else interval_of(row)
    return [
        Markup(state_cell(verdict.state)),
        Markup(_named(verdict)),
        *(
            Markup(text(cell, _FIGURE))
            for cell in (
                "–" if measured is None else rate.of(measured.tokens_per_second_per_processor),
                "–" if measured is None else step.of(measured.step_seconds),
                "–" if row is None else f"{row.change_percent:+.1f} %",
                "–" if ends is None else f"{ends} %",
                "–" if measured is None else str(measured.runs),
            )
        ),
        Markup("–" if row is None else text(row.label, _NAME)),
    ]


def _named(verdict: Verdict) -> str:
    """The case, and which of several; of long ones, both begin."""
    return text(verdict.case, _NAME) + (f" ({text(verdict.which, _NAME)})" if verdict.which else "")


def _moved(verdict: Verdict) -> str:
    sentence = "" if verdict.attribution is None else verdict.attribution.sentence
    return f"{_named(verdict)}: {text(sentence, _MOVED)}"


def _listed(lines: Sequence[str], most: int) -> str:
    return "\n".join(f"- {line}" for line in lines[:most]) + _more(len(lines), most)


def _more(count: int, shown: int) -> str:
    return f"\n\nand {count - shown:,} more" if count > shown else ""


def _where(records: Iterable[Record]) -> str:
    """The processors and the commit, where all runs share them."""
    found = {(processors(each), each.commit.sha, each.commit.dirty) for each in records}
    if len(found) != 1:
        return ""
    used, commit, is_changed = found.pop()
    at = f" at {text(commit[:10])}{' with changes' * bool(is_changed)}" if commit else ""
    return f"{text(used, _NAME)}{at}. "
