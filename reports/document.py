"""The report: a verdict first, the figures, how far to trust them, and where they come from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.gate import Baseline, Verdict, judge
from bench.jsonfile import write_atomically
from bench.ledger import Ledger
from bench.record import Record
from bench.stats import Summary, summarise
from reports import plots, tables
from reports.ledger import section_of
from reports.markdown import details, text
from reports.tables import Result

REPORT_NAME = "report.md"
# GitHub drops a step summary of more than 1 MiB.
_MAX_STEP_SUMMARY_BYTES = 1_000_000
_WORST_FIRST = ("void", "fail", "inconclusive", "no_baseline", "improved", "pass")


def write_report(
    records: Sequence[Record],
    baselines: Sequence[Baseline],
    output: Path,
    *,
    step_summary: Path | None = None,
    ledgers: Sequence[Ledger] = (),
) -> Path:
    """Write `report.md` and its plots into the folder `output` and return the report's path.

    The plots are written before the text that shows them. `step_summary` names a file that the report is
    appended to without its plots, as GitHub's job summaries take no files. Cost ledgers follow the cases.
    """
    results = assess(records, baselines)
    for index, result in enumerate(results):
        for name, picture in _pictures(result).items():
            write_atomically(output / _plot_name(index, name), picture)
    report = output / REPORT_NAME
    write_atomically(report, render(results, more=_ledgers(ledgers, output)).encode())
    if step_summary is not None:
        _append_summary(step_summary, render(results, with_plots=False, more=_ledgers(ledgers, None)))
    return report


def assess(records: Sequence[Record], baselines: Sequence[Baseline]) -> list[Result]:
    """Each record with its summary and verdict; runs of one case and recipe are judged together."""
    if not records:
        raise ValueError("no record to report on")
    groups: dict[tuple[str, ...], list[Record]] = {}
    for record in records:
        groups.setdefault(_group_key(record), []).append(record)
    verdicts = {key: judge(group, baselines) for key, group in groups.items()}
    return [Result(record, _summary(record), verdicts[_group_key(record)]) for record in records]


def verdicts_of(results: Sequence[Result]) -> list[Verdict]:
    """The distinct verdicts, the worst first."""
    distinct = list({id(result.verdict): result.verdict for result in results}.values())
    return sorted(distinct, key=lambda verdict: _WORST_FIRST.index(verdict.state))


def render(results: Sequence[Result], *, with_plots: bool = True, more: Sequence[str] = ()) -> str:
    """The whole report as Markdown, with `more` at its end."""
    verdicts = verdicts_of(results)
    parts = [_headline(verdicts)]
    if len(verdicts) > 1:
        parts.append("\n".join(f"- {text(verdict.sentence)}" for verdict in verdicts))
    parts += [
        tables.overview(results),
        _LEGEND,
        "## Against the baselines",
        tables.against_baselines(results),
    ]
    for index, result in enumerate(results):
        parts += _section(index, result, with_plots)
    return "\n\n".join([*parts, *more]) + "\n"


_LEGEND = (
    "tokens/s/p: tokens per second per processor. A step takes as long as its slowest rank; figures are "
    "medians over the steady steps, after the warm-up. CV: standard deviation over mean. MFU: model "
    "FLOP/s over the processor's stated peak."
)


def _headline(verdicts: list[Verdict]) -> str:
    if len(verdicts) == 1:
        return f"# {text(verdicts[0].sentence)}"
    counts = [
        f"{sum(verdict.state == state for verdict in verdicts)} {state.replace('_', ' ')}"
        for state in _WORST_FIRST
        if any(verdict.state == state for verdict in verdicts)
    ]
    return f"# {tables.verdict_word(verdicts[0])}: {len(verdicts)} cases, {', '.join(counts)}"


def _section(index: int, result: Result, with_plots: bool) -> list[str]:
    record, summary = result.record, result.summary
    parts = [f"## {text(record.case)}, run {record.id[:8]}"]
    if record.void_reasons:
        parts.append("\n".join(f"- void: {text(reason)}" for reason in record.void_reasons))
    if summary is not None:
        parts += _measured(index, record, summary, with_plots)
    parts += [
        details("Provenance: recipe, layout, device, software, environment", tables.provenance(record)),
        details("The whole recipe", tables.resolved_recipe(record)),
    ]
    return parts


def _ledgers(ledgers: Sequence[Ledger], folder: Path | None) -> list[str]:
    return [part for index, ledger in enumerate(ledgers) for part in section_of(ledger, folder, index)]


def _measured(index: int, record: Record, summary: Summary, with_plots: bool) -> list[str]:
    parts = [_image(index, "steps", "Time of each step")] if with_plots else []
    parts.append(tables.steadiness(record, summary))
    if summary.phase_seconds:
        parts += ["### Where the time goes"]
        parts += [_image(index, "phases", "Phases of a step")] if with_plots else []
        parts += [tables.time_split(record, summary)]
    parts += ["### Loss", tables.losses(record)]
    if record.expert_load:
        parts += ["### Expert load"]
        parts += [_image(index, "experts", "Expert load by layer")] if with_plots else []
        parts += [tables.expert_load(record, summary)]
    return parts


def _pictures(result: Result) -> dict[str, bytes]:
    if result.summary is None:
        return {}
    pictures = {"steps": plots.step_times(result.record, result.summary)}
    if result.summary.phase_seconds:
        pictures["phases"] = plots.phases(result.summary)
    if result.record.expert_load:
        pictures["experts"] = plots.expert_load(result.record)
    return pictures


def _image(index: int, name: str, caption: str) -> str:
    return f"![{caption}]({_plot_name(index, name)})"


def _plot_name(index: int, name: str) -> str:
    """Plain numbers, as a record's own words have no place in a path."""
    return f"plot-{index + 1}-{name}.png"


def _group_key(record: Record) -> tuple[str, ...]:
    identity = (record.layout, record.device, record.work)
    return (record.case, record.recipe.hash, *(part.model_dump_json() for part in identity))


def _summary(record: Record) -> Summary | None:
    return summarise(record) if record.steps and record.ranks else None


def _append_summary(path: Path, report: str) -> None:
    content = report.encode()
    if len(content) > _MAX_STEP_SUMMARY_BYTES:
        content = report.splitlines()[0].encode() + b"\n\nThe report is too long for a step summary: see report.md.\n"
    with path.open("ab") as stream:
        stream.write(content)
