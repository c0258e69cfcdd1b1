"""What a plan says of speed, as text: layouts ranked by time, and one layout's time by terms. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.plan.device import Device
from bench.plan.layouts import Ints
from bench.plan.played import played
from bench.plan.predict import TERMS, Jobs, Prediction, place_times, predict
from bench.plan.speed import Speed
from bench.plan.whole_steps import step_factors
from bench.plan.work import Work
from bench.records.figures import column
from bench.records.terminal import pairs, plain, table

# What the terms are of, for people who read one for the first time
MEANINGS = {
    "products": "matrix products",
    "attention": "attention cores",
    "memory": "norms, activations, routing, loss: what only moves bytes",
    "tensor": "exchanges of tensor ranks, as far as they show",
    "expert": "exchanges of tokens among experts",
    "context": "exchanges of a sequence's parts",
    "pipeline": "transfers between stages",
    "host": "launching, as far as it shows",
    "data": "gradients reduced and weights gathered, as far as it shows",
    "optimizer": "clipping and AdamW",
    "bubble": "stages that wait for others",
}
_LEAST_SHOWN = 0.05  # share of a step from which a term is named in the ranking
_TERMS_SHOWN = 3


@dataclass(frozen=True)
class Ranked:
    """Layouts in the order of their predicted time, a row each."""

    names: Sequence[str]
    prediction: Prediction
    speed: Speed
    intervals: Sequence[str] | None = None  # of the step, in words
    need_bytes: Ints | None = None  # of the fullest rank, with communicators and margin


def ranking(ranked: Ranked, most: int = 10) -> str:
    """The fastest layouts as a table: time, speed, memory and what the time is mostly of."""
    order = np.argsort(ranked.prediction.step_seconds, kind="stable")[:most]
    headers = ["layout", "s/step", *(["interval"] if ranked.intervals else []), "tokens/s/p", "MFU"]
    headers += ["GiB"] if ranked.need_bytes is not None else []
    numbers = range(1, len(headers))
    rows = []
    seconds = column(ranked.prediction.step_seconds[order].tolist())
    for row, step in zip(order.tolist(), seconds, strict=True):
        cells: list[object] = [ranked.names[row], step]
        cells += [ranked.intervals[row]] if ranked.intervals else []
        cells += [f"{ranked.speed.tokens_per_second[row]:,.1f}", f"{ranked.speed.mfu[row]:.1%}"]
        cells += [f"{ranked.need_bytes[row] / 2**30:.2f}"] if ranked.need_bytes is not None else []
        rows.append([*cells, largest_terms(ranked.prediction, row)])
    return table([*headers, "mostly"], rows, numbers=list(numbers))


def largest_terms(prediction: Prediction, row: int) -> str:
    """The largest terms with their shares: "products 61 %, expert 14 %"."""
    shares = {name: float(term[row] / prediction.step_seconds[row]) for name, term in prediction.terms.items()}
    largest = sorted(shares, key=lambda name: -shares[name])[:_TERMS_SHOWN]
    return ", ".join(f"{name} {shares[name]:.0%}" for name in largest if shares[name] >= _LEAST_SHOWN)


def explain(
    name: str, work: Work, device: Device, prediction: Prediction, speed: Speed, job: int, factor: float = 1.0
) -> str:
    """One layout's time by terms, its stages, and its schedule played through beside the formula.

    Args:
        name: of the layout.
        job: its position in the work.
        factor: an anchor's, which is in the prediction and the speed.
    """
    seconds = float(prediction.step_seconds[job])
    peak = f"{speed.peak_flops / 1e12:.4g} TFLOP/s ({speed.dtype})"
    facts = [
        ("layout", name),
        ("device", f"{device.name}: {device.description}"),
        ("step", f"{seconds:.4g} s"),
        ("speed", f"{speed.tokens_per_second[job]:,.1f} tokens/s/p, MFU {speed.mfu[job]:.1%} of {peak}"),
    ]
    return "\n\n".join([pairs(facts), _terms(prediction, job), _stages(work, device, job, factor), _sources(device)])


def _terms(prediction: Prediction, job: int) -> str:
    step = prediction.step_seconds[job]
    terms = [(name, float(prediction.terms[name][job])) for name in TERMS if prediction.terms[name][job] > 0]
    terms.sort(key=lambda term: -term[1])
    rows = [
        [name, figure, f"{seconds / step:.1%}", MEANINGS[name]]
        for (name, seconds), figure in zip(terms, column(seconds for _, seconds in terms), strict=True)
    ]
    return table(["term", "s", "share", "of"], rows, numbers=[1, 2])


def _stages(work: Work, device: Device, job: int, factor: float) -> str:
    """Seconds of a micro-batch at each stage that differs; and what the schedule makes of it."""
    jobs, times = Jobs(work), place_times(work, device)
    factor *= float(step_factors(device, jobs.world_size)[job])
    places = np.flatnonzero(jobs.of_place == job).tolist()
    named = [name for name in times.micro_batch if times.micro_batch[name][places].any()]
    parts = [*(times.micro_batch[name] for name in named), times.of_micro_batch]
    figures = [column((1e3 * factor * part[places]).tolist()) for part in parts]
    rows = [[_stage_name(work, jobs, place), *of] for place, *of in zip(places, *figures, strict=True)]
    columns = [f"{name} ms" for name in [*named, "all"]]
    shown = table(["stage", *columns], rows, numbers=range(1, len(columns) + 1))
    if device.cores or jobs.pipeline[job] == 1:
        return shown
    schedule = played(work, device, job)
    formula = predict(work, device).terms
    by_formula = sum(formula[name][job] for name in (*times.micro_batch, "bubble")) - device.host.seconds_a_step.value
    waits = schedule.bubble_seconds / schedule.seconds
    return (
        f"{shown}\n\nThe schedule, played through: {factor * schedule.seconds:.4g} s, by the formula "
        f"{factor * by_formula:.4g} s; stages "
        f"wait {waits.min():.1%} to {waits.max():.1%} of it."
    )


def _stage_name(work: Work, jobs: Jobs, place: int) -> str:
    first, count = int(work.stage[place]), int(jobs.stages[place])
    return str(first) if count == 1 else f"{first} to {first + count - 1}"


def _sources(device: Device) -> str:
    """Where the figures are from that the time hangs on most."""
    efficiency = device.efficiency
    rows = [
        (name, f"{each.value:.4g}", plain(each.source))
        for name in type(efficiency).model_fields
        if (each := getattr(efficiency, name)) is not None
    ]
    return table(["efficiency", "value", "source"], rows, numbers=[1])
