"""What to do after a verdict: one sentence, and one command that can be typed as it is.

A stranger's words never become more of a command than one word: cases are letters, digits, dots and dashes, commits are
hexadecimal, and what was asked of a case is quoted.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable

from bench.judge.difference import MIN_BASELINE_RUNS
from bench.judge.remedy import ab_command, base_of, words_of
from bench.records.record import Record
from reports.case import CaseResult, Measured
from reports.headline import deciding_row
from reports.tables.sides import are_several, sides_of

Step = tuple[str, str | None]  # in words, and as a command
_MOST_NAMED = 10  # of records
_PLAIN_WORD = re.compile(r"""--[a-z]+=[A-Za-z0-9._/=,:+\["'\]-]{1,300}""")


def next_step(case: CaseResult) -> Step | None:
    """None where there is nothing to do."""
    state = case.verdict.state
    if state == "pass":
        return None
    if state == "void" and are_several(case.measured) and all(run.record.valid for run in case.runs):
        return "Judge the runs of each program alone, as those of the first:", _judge_first(case)
    if state in ("void", "missing"):
        return "Mend the cause, then run it again:", _rerun(case)
    if state in ("fail", "no_baseline") and any(run.record.planted_percent for run in case.runs):
        return "These runs were made slower on purpose. Without that:", _rerun(case)
    if state == "fail":
        return _after_a_failure(case)
    if state == "inconclusive":
        return _after_no_answer(case)
    if len(case.measured) < MIN_BASELINE_RUNS or are_several(case.measured):  # a baseline is of one program
        return f"Make a baseline of {MIN_BASELINE_RUNS} runs, each on a quiet machine:", _make(case)
    why = "Keep this speed as the baseline" if state == "improved" else "These runs can become its baseline"
    return f"{why}:", _record(case)


def _after_a_failure(case: CaseResult) -> Step:
    base, ours = _base(case), {run.record.commit.sha for run in case.runs}
    if base is None:
        return "Run it again, to see whether it stays so:", _rerun(case, MIN_BASELINE_RUNS)
    if ours == {base} and case.runs:
        kind = case.runs[0].record.device.kind
        return (
            "The baseline is of this very commit: look for the cause in the machine:",
            f"python -m bench doctor --device {kind}",
        )
    return "Run both commits in turns on this machine, to tell the code from the machine:", _ab(case, base)


def _after_no_answer(case: CaseResult) -> Step:
    row, base = deciding_row(case.verdict), _base(case)
    remedy = row.remedy if row is not None else None
    if remedy is not None and remedy.runs is not None:
        which = " that nothing disturbs" if remedy.left_out else ""
        return f"About {remedy.runs} runs{which} would settle it:", _rerun(case, remedy.runs)
    if base is None:
        return "More runs may settle it:", _rerun(case, max(2 * MIN_BASELINE_RUNS, 2 * len(case.runs)))
    return "Settle it by running both commits in turns on this machine:", _ab(case, base)


def _name(case: CaseResult) -> str | None:
    """The case, where its name has nothing that a shell or a command would take for more."""
    name = case.verdict.case
    return name if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name) else None


def _as_run(case: CaseResult) -> str | None:
    """The case and what was asked of it, as words after --case; None where they are not safe to type."""
    name, asked = _name(case), case.runs[0].record.asked if case.runs else []
    if name is None or not all(_PLAIN_WORD.fullmatch(word) for word in asked):
        return None
    return " ".join([name, *map(shlex.quote, asked)])


def _base(case: CaseResult) -> str | None:
    try:
        sha = base_of(case.stored) if case.stored is not None else ""
    except ValueError:
        return None
    return sha if re.fullmatch("[0-9a-f]{7,64}", sha) else None


def _rerun(case: CaseResult, runs: int | None = None) -> str | None:
    what, more = _as_run(case), f" --runs {runs}" if runs else ""
    where = _where(case.runs[0].record) if case.runs else ""
    return what and f"pytest bench/test_pretrain.py --benchmark --case {what}{where}{more}"


def _where(record: Record) -> str:
    """On which processors; of several nodes what is typed on each, with its number and the first one's address."""
    device, layout = f" --device {record.device.kind}", record.layout
    if layout.nodes == 1:
        return device
    nodes = f"--nnodes {layout.nodes} --node-rank R --master-addr A --nproc-per-node {layout.ranks_per_node}"
    return f"{device} {nodes}"


def _ab(case: CaseResult, base: str) -> str | None:
    if _as_run(case) is None:
        return None
    run = case.runs[0].record
    return ab_command(base[:12], run.case, words_of(run))


def _make(case: CaseResult) -> str | None:
    """It runs the case on this machine; of several nodes the runs come first."""
    what, record = _as_run(case), case.runs[0].record if case.runs else None
    if record is None or record.layout.nodes > 1:
        return _rerun(case, MIN_BASELINE_RUNS)
    return what and f"python -m bench baseline record --case {what} --device {record.device.kind}"


def _record(case: CaseResult) -> str | None:
    """These runs alone: beside them may lie those of other commits, recipes or numbers of steps."""
    few = len(case.measured) <= _MOST_NAMED
    name, files = _name(case), _files(case, case.measured) if few else [f"results/records/{_name(case)}-*.json"]
    return name and " ".join(["python -m bench baseline record", *files])


def _judge_first(case: CaseResult) -> str | None:
    files = " ".join(_files(case, sides_of(case.measured)[0].runs[:_MOST_NAMED]))
    return _name(case) and f"python -m bench gate {files}"


def _files(case: CaseResult, runs: Iterable[Measured]) -> list[str]:
    return [f"results/records/{_name(case)}-{each.record.id}.json" for each in runs]
