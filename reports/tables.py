"""The tables of a report: each function takes records, summaries and verdicts and gives Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.gate import Row, Verdict
from bench.record import Record
from bench.stats import Summary
from reports.markdown import table, text

_METRICS = {"tokens_per_second_per_processor": "tokens/s/p", "step_seconds": "s/step"}
_RESOLVED_ROWS = 400
_WARMUP = {
    "detected": "read from the data",
    "fixed share": "a fixed share, too few steps to tell",
    "unsettled": "the run never settled",
}


@dataclass(frozen=True)
class Result:
    """One record with everything derived from it; `summary` is None where no step was recorded."""

    record: Record
    summary: Summary | None
    verdict: Verdict


def overview(results: Sequence[Result]) -> str:
    """One row a run: the figures a reader came for."""
    headers = ["verdict", "case", "processors", "tokens/s/p", "s/step", "p5 to p95", "CV"]
    headers += ["TFLOP/s/p", "MFU", "peak GiB", "loss"]
    return table(headers, [_overview_row(result) for result in results], numbers=range(3, 10))


def _overview_row(result: Result) -> list[str]:
    record, summary = result.record, result.summary
    row = [verdict_word(result.verdict), record.case, f"{record.layout.world_size} x {record.device.name}"]
    if summary is None:
        return [*row, *["–"] * 8]
    return [
        *row,
        f"{summary.tokens_per_second_per_processor:,.5g}",
        f"{summary.median_step_seconds:.4g}",
        f"{summary.p5_step_seconds:.4g} to {summary.p95_step_seconds:.4g}",
        percent(summary.cv),
        f"{summary.tflops_per_second_per_processor:.4g}",
        "–" if summary.mfu is None else percent(summary.mfu),
        gibibytes(summary.peak.max_bytes) if summary.peak.max_bytes else "–",
        f"{number(summary.loss_first)} to {number(summary.loss_last)}",
    ]


def against_baselines(results: Sequence[Result]) -> str:
    """Every comparison that was made, then every baseline that was refused and why."""
    verdicts = list({id(result.verdict): result.verdict for result in results}.values())
    rows = [_comparison(verdict, row) for verdict in verdicts for row in verdict.rows]
    headers = [
        "case",
        "metric",
        "measured",
        "baseline",
        "change",
        "fails beyond",
        "result",
        "which baseline",
    ]
    parts = [table(headers, rows, numbers=range(2, 6)) if rows else "No stored baseline matches."]
    sources = dict.fromkeys((row.label, row.source) for verdict in verdicts for row in verdict.rows)
    parts += ["\n".join(f"- {text(label)}: {text(source)}." for label, source in sources)] if sources else []
    refused = [(v.case, r.label, "; ".join(r.differences)) for v in verdicts for r in v.refusals]
    if refused:
        parts += ["Refused, because the key differs:", table(["case", "baseline", "what differs"], refused)]
    return "\n\n".join(parts)


def _comparison(verdict: Verdict, row: Row) -> list[str]:
    return [
        verdict.case,
        _METRICS[row.metric],
        f"{row.measured:,.6g}",
        f"{row.baseline:,.7g}",
        f"{row.change_percent:+.1f} %",
        "–" if row.limit_percent is None else f"{row.limit_percent:+.3g} %",
        row.state,
        row.label,
    ]


def time_split(record: Record, summary: Summary) -> str:
    """Where the time of a step went: each phase as the mean over ranks."""
    step = summary.median_step_seconds
    rows = [(name, f"{seconds:.4g}", percent(seconds / step)) for name, seconds in summary.phase_seconds.items()]
    rest = step - sum(summary.phase_seconds.values())
    rows.append(("outside these, or waiting for the slowest rank", f"{rest:.4g}", percent(rest / step)))
    rows.append(("step of the slowest rank", f"{step:.4g}", percent(1.0)))
    return table(["phase", "seconds", "of the step"], rows, numbers=(1, 2))


def steadiness(record: Record, summary: Summary) -> str:
    """How far the figures can be trusted, and what the machine did with its time and memory."""
    reserved = [rank.reserved_bytes for rank in record.ranks if rank.reserved_bytes is not None]
    peak, share = summary.peak, summary.communication_share
    rows = [
        (
            "steps, of which warm-up",
            f"{len(record.steps)}, {summary.steady_from} ({_WARMUP[summary.warmup_rule]})",
        ),
        ("slowest rank over median rank", f"+{percent(summary.skew)}"),
        (
            "phases cover",
            "not measured" if summary.coverage is None else f"{percent(summary.coverage)} of a step",
        ),
        (
            "communication",
            "not measured" if share is None else f"{percent(share)} of a step, mean over ranks",
        ),
        ("pipeline bubble, ideal", percent(summary.bubble_ideal)),
        ("peak memory, most", _peak(peak.max_bytes, peak.max_rank)),
        ("peak memory, least", _peak(peak.min_bytes, peak.min_rank)),
        ("reserved memory, most", f"{gibibytes(max(reserved))} GiB" if reserved else "not measured"),
        ("start-up", "not measured" if record.startup_seconds is None else f"{record.startup_seconds:.3g} s"),
    ]
    return table(["", "value"], rows)


def _peak(used: int, rank: int) -> str:
    return f"{gibibytes(used)} GiB (rank {rank})" if used else "not measured"


def losses(record: Record, *, rows: int = 12) -> str:
    """The loss trace at about `rows` steps, always with the first and the last."""
    count = len(record.steps)
    picked = sorted({round(index * (count - 1) / max(1, rows - 1)) for index in range(rows)}) if count else []
    body = [
        (
            step.step,
            number(step.loss),
            "–" if step.aux_loss is None else f"{step.aux_loss:.4g}",
            number(step.grad_norm),
            "–" if step.learning_rate is None else f"{step.learning_rate:.3g}",
            "skipped" if step.skipped else "",
        )
        for step in (record.steps[index] for index in picked)
    ]
    return table(["step", "loss", "aux loss", "grad norm", "learning rate", ""], body, numbers=range(5))


def expert_load(record: Record, summary: Summary) -> str:
    """How evenly each layer's tokens fell on its experts: busiest over mean, and the extremes."""
    rows = [
        (
            layer,
            f"{sum(tokens):,}",
            f"{min(tokens):,}",
            f"{max(tokens):,}",
            "–" if ratio is None else f"{ratio:.3f}",
        )
        for layer, (tokens, ratio) in enumerate(zip(record.expert_load, summary.expert_imbalance, strict=True))
    ]
    return table(["layer", "tokens", "least", "most", "most / mean"], rows, numbers=range(5))


def provenance(record: Record) -> str:
    """Everything needed to run it again and to doubt it."""
    layout, work, host = record.layout, record.work, record.host
    dirty = {True: ", with uncommitted changes", False: "", None: ""}[record.commit.dirty]
    split = f"tensor {layout.tensor} x pipeline {layout.pipeline} x data {layout.data}"
    experts = f"expert {layout.expert}, tensor within an expert {layout.expert_tensor}"
    peak = record.device.peak_flops_per_second
    rows = [
        ("record", f"{record.id}, {record.created_at}"),
        ("recipe", f"{record.recipe.name}, hash {record.recipe.hash}"),
        ("layout", f"{layout.world_size} ranks on {layout.nodes} node(s): {split}; {experts}"),
        (
            "work",
            f"{work.global_batch} sequences x {work.sequence_length} tokens a step, "
            f"{work.num_micro_batches} micro-batches, {work.model_flops_per_step:.4g} FLOP a step",
        ),
        ("parameters", f"{work.parameters_total:,} ({work.parameters_active:,} active)"),
        ("device", f"{record.device.kind}, {record.device.name}, {record.device.dtype}"),
        (
            "peak of a processor",
            "not known: no MFU" if peak is None else f"{peak / 1e12:.5g} TFLOP/s ({record.device.peak_source})",
        ),
        ("commit", f"{record.commit.sha or 'not a git checkout'}{dirty}"),
        (
            "host",
            "not known"
            if host is None
            else f"{host.cpu_name}, {host.cores} cores, {gibibytes(host.memory_bytes)} GiB, "
            f"load {host.load_average_1m:.2f}",
        ),
        *([] if record.source is None else [("source", record.source)]),
        *((f"software: {name}", version) for name, version in sorted(record.software.items())),
        *((f"environment: {name}", value) for name, value in sorted(record.environment.items())),
    ]
    return table(["", "value"], rows)


def resolved_recipe(record: Record) -> str:
    """The recipe after overrides, one row a value."""
    rows = [(name, value) for name, value in _flatten("", record.recipe.resolved)]
    hidden = len(rows) - _RESOLVED_ROWS
    more = f"\n\n{hidden} more values are in the record." if hidden > 0 else ""
    return table(["key", "value"], rows[:_RESOLVED_ROWS]) + more


def _flatten(prefix: str, value: object) -> list[tuple[str, object]]:
    if not isinstance(value, dict):
        return [(prefix, value)]
    return [row for key, child in value.items() for row in _flatten(f"{prefix}.{key}" if prefix else key, child)]


def verdict_word(verdict: Verdict) -> str:
    """A verdict's state as people read it."""
    return verdict.state.replace("_", " ").upper()


def percent(share: float) -> str:
    """A share as percent with one decimal."""
    return f"{100 * share:.1f} %"


def gibibytes(count: int) -> str:
    """Bytes as GiB, without the unit."""
    return f"{count / 2**30:.2f}"


def number(value: float | None) -> str:
    """A loss or norm; null means it was not finite."""
    return "not finite" if value is None else f"{value:.5g}"
