"""The tables of a report about what was measured: each takes cases, or a run of one, and gives Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from bench.judge.stats import Summary
from bench.judge.verdict import Verdict
from bench.records.record import Record
from reports.case import CaseResult, Measured, Run
from reports.markdown import Markup, table, text

_RESOLVED_ROWS = 400
_MAX_RUNS = 20
_MAX_NAMES = 40
_MAX_LAYERS = 64


def overview(cases: Sequence[CaseResult], changes: Sequence[str]) -> str:
    """One row a case: the figures a reader came for, with a link to the rest; `changes` of speed are given."""
    headers = ["verdict", "case", "processors", "runs", "tokens/s/p", "change", "s/step", "p5 to p95", "CV"]
    headers += ["TFLOP/s/p", "MFU", "peak GiB", "loss"]
    rows = [
        [
            verdict_word(case.verdict),
            Markup(f"[{text(case.verdict.case)}](#case-{index + 1})"),
            *_overview(case, change),
        ]
        for index, (case, change) in enumerate(zip(cases, changes, strict=True))
    ]
    return table(headers, rows, numbers=range(3, 12))


def _overview(case: CaseResult, change: str) -> list[str]:
    run = case.median_run
    if run is None:
        return ["–", str(len(case.runs)), *["–"] * 9]
    record, summary = run.record, run.summary
    return [
        f"{record.layout.world_size} x {record.device.name}",
        str(len(case.runs)),
        f"{summary.tokens_per_second_per_processor:,.5g}",
        change,
        f"{summary.median_step_seconds:.4g}",
        f"{summary.p5_step_seconds:.4g} to {summary.p95_step_seconds:.4g}",
        percent(summary.cv),
        f"{summary.tflops_per_second_per_processor:.4g}",
        "–" if summary.mfu is None else percent(summary.mfu),
        gibibytes(summary.peak.max_bytes) if summary.peak.max_bytes else "–",
        f"{number(summary.loss_first)} to {number(summary.loss_last)}",
    ]


def runs(case: CaseResult) -> str:
    """One row a run: the void ones first, then the slowest."""
    ordered = sorted(case.runs, key=lambda run: (run.record.valid, -_seconds(run)))
    rows = [_run(run, case.median_run) for run in ordered[:_MAX_RUNS]]
    headers = ["run", "s/step", "p5 to p95", "CV", "steps, of which warm-up", "peak GiB", "last loss", "state"]
    return table(headers, rows, numbers=range(1, 7)) + more(len(ordered), _MAX_RUNS, "runs")


def _seconds(run: Run) -> float:
    return 0.0 if run.summary is None else run.summary.median_step_seconds


def _run(run: Run, median: Measured | None) -> list[str]:
    record, summary = run.record, run.summary
    state = "ok" if record.valid else f"void: {record.void_reasons[0]}"
    if median is not None and record is median.record:
        state += ", the median run"
    if summary is None:
        return [record.id[:8], *["–"] * 6, state]
    return [
        record.id[:8],
        f"{summary.median_step_seconds:.4g}",
        f"{summary.p5_step_seconds:.4g} to {summary.p95_step_seconds:.4g}",
        percent(summary.cv),
        f"{len(record.steps)}, {summary.steady_from}",
        gibibytes(summary.peak.max_bytes) if summary.peak.max_bytes else "–",
        number(summary.loss_last),
        state + (", never settled" if summary.warmup_rule == "unsettled" else ""),
    ]


def collectives(record: Record, summary: Summary) -> str:
    """Each kind of collective of a run: seconds as the mean over ranks, calls and bytes of all ranks."""
    step, steps = summary.median_step_seconds, len(record.steps)
    kinds = sorted(summary.collective_seconds.items(), key=lambda item: -item[1])
    rows = [
        (
            name,
            f"{seconds:.4g}",
            percent(seconds / step),
            f"{summary.collective_calls[name] / steps:,.6g}",
            traffic(summary.collective_bytes[name] / steps),
        )
        for name, seconds in kinds[:_MAX_NAMES]
    ]
    headers = ["group and operation", "seconds a step", "of the step", "calls a step", "moved a step"]
    return table(headers, rows, numbers=range(1, 5)) + more(len(kinds), _MAX_NAMES)


def time_split(record: Record, summary: Summary) -> str:
    """Where the time of a step went: each phase as the mean over ranks."""
    step = summary.median_step_seconds
    phases = list(summary.phase_seconds.items())
    rows = [(name, f"{seconds:.4g}", percent(seconds / step)) for name, seconds in phases[:_MAX_NAMES]]
    rest = step - sum(summary.phase_seconds.values())
    rows.append(("outside these, or waiting for the slowest rank", f"{rest:.4g}", percent(rest / step)))
    rows.append(("step of the slowest rank", f"{step:.4g}", percent(1.0)))
    return table(["phase", "seconds", "of the step"], rows, numbers=(1, 2))


def modules(summary: Summary) -> str:
    """Each kind of module: seconds of its own operators in the profiled step, mean over the ranks that say."""
    whole = sum(summary.module_seconds.values())
    found = sorted(summary.module_seconds.items(), key=lambda item: -item[1])
    rows = [(name, f"{seconds:.4g}", percent(seconds / whole)) for name, seconds in found[:_MAX_NAMES] if whole]
    return table(["module", "seconds", "of all modules"], rows, numbers=(1, 2)) + more(len(found), _MAX_NAMES)


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
    told = table(["layer", "tokens", "least", "most", "most / mean"], rows[:_MAX_LAYERS], numbers=range(5))
    return told + more(len(rows), _MAX_LAYERS, "layers")


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
    return table(["key", "value"], rows[:_RESOLVED_ROWS]) + more(len(rows), _RESOLVED_ROWS, "values")


def _flatten(prefix: str, value: object) -> list[tuple[str, object]]:
    if not isinstance(value, dict):
        return [(prefix, value)]
    return [row for key, child in value.items() for row in _flatten(f"{prefix}.{key}" if prefix else key, child)]


def verdict_word(verdict: Verdict) -> str:
    """A verdict's state as people read it."""
    return verdict.state.replace("_", " ").upper()


def more(count: int, shown: int, what: str = "") -> str:
    """What follows a table that was cut short; nothing where it was not."""
    return f"\n\nand {count - shown:,} more{f' {what}' if what else ''}" if count > shown else ""


def percent(share: float) -> str:
    """A share as percent with one decimal."""
    return f"{100 * share:.1f} %"


def gibibytes(count: float) -> str:
    """Bytes as GiB, without the unit."""
    return f"{count / 2**30:.2f}"


def traffic(count: float) -> str:
    """Bytes on the wire, in powers of ten as networks are sold."""
    size, unit = next(((size, unit) for size, unit in _UNITS if count >= size), _UNITS[-1])
    return f"{count / size:,.4g} {unit}"


_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B"))


def number(value: float | None) -> str:
    """A loss or norm; null means it was not finite."""
    return "not finite" if value is None else f"{value:.5g}"
