"""How long a step takes, and what of: each place's work, put together as the pipeline's schedule does. No torch.

A micro-batch takes a stage the sum of its operators and of those exchanges that nothing hides. A step takes
m max(t) + (p - 1)/v mean(t) over its stages, of m micro-batches, p stages and v chunks, and then what follows the
pipeline: the optimizer, and of gradients' reduction and weights' gathering what shows, which is all that does not run
beside a pass. Where ranks share cores, it takes at least the
work of all ranks over the cores: then the pipeline's bubbles are filled by other ranks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bench.plan.collectives import exchange_seconds
from bench.plan.device import Device
from bench.plan.layouts import Floats, Ints
from bench.plan.operators import attention_seconds, calls_of, product_seconds, traffic_seconds
from bench.plan.whole_steps import step_factors
from bench.plan.work import Exchange, Work

OF_MICRO_BATCH = ("products", "attention", "memory", "tensor", "expert", "context", "pipeline", "host")
OF_STEP = ("data", "optimizer")
_PASSES = ("forward", "backward")  # phases of an exchange of the step that runs beside them
TERMS = (*OF_MICRO_BATCH, *OF_STEP, "bubble")


@dataclass(frozen=True)
class Prediction:
    """A row a job. The terms add up to the step; those of a micro-batch are the slowest stage's, over all of them."""

    layout: Ints
    step_seconds: Floats
    terms: dict[str, Floats]


@dataclass(frozen=True)
class PlaceTimes:
    """Seconds of each place by term: of one micro-batch, and of the step beside them."""

    micro_batch: dict[str, Floats]
    step: dict[str, Floats]

    @property
    def of_micro_batch(self) -> Floats:
        return np.asarray(sum(self.micro_batch.values()))

    @property
    def of_step(self) -> Floats:
        return np.asarray(sum(self.step.values()))


def predict(work: Work, device: Device, dtype: str | None = None) -> Prediction:
    """The step of each job of the work.

    Args:
        dtype: of the products, where they are narrower than the activations: "fp8".

    Raises:
        ValueError: the profile has no peak for the type, or no rate between nodes where groups cross them.
    """
    times = place_times(work, device, dtype)
    jobs = Jobs(work)
    fixed = device.host.seconds_a_step.value
    on_schedule = _on_schedule(times, jobs, fixed)
    terms = on_schedule
    if device.cores:
        shared = _on_shared_cores(times, jobs, fixed, device.cores)
        is_shared = np.asarray(sum(shared.values())) > np.asarray(sum(on_schedule.values()))
        terms = {name: np.where(is_shared, shared[name], on_schedule[name]) for name in TERMS}
    factors = step_factors(device, jobs.world_size)
    terms = {name: factors * term for name, term in terms.items()}
    return Prediction(jobs.layout, np.asarray(sum(terms.values())), terms)


# ---- one place -------------------------------------------------------------------------------------------


def place_times(work: Work, device: Device, dtype: str | None = None) -> PlaceTimes:
    """What a micro-batch and what follows the pipeline take at each place."""
    places, efficiency = len(work.stage), device.efficiency
    micro_batch = {name: np.zeros(places) for name in OF_MICRO_BATCH}
    step = {name: np.zeros(places) for name in OF_STEP}
    if work.products:
        micro_batch["products"] = product_seconds(work.products, work.width, device, dtype).sum(axis=0)
    for attention in work.attention:
        micro_batch["attention"] = micro_batch["attention"] + attention_seconds(attention, work.width, device)
    for traffic in work.traffic:
        times, name = (micro_batch, "memory") if traffic.per == "micro_batch" else (step, "optimizer")
        times[name] = times[name] + traffic_seconds(traffic, device)
    fused = efficiency.fused_tensor_exposed if work.fuses_tensor else None
    exposed = {
        "tensor": (fused or efficiency.tensor_exposed).value,
        "context": efficiency.context_exposed.value,
        "pipeline": efficiency.pipeline_exposed.value * work.shown_transfers,
        "data": efficiency.data_exposed.value,
    }
    for exchange in work.exchanges:
        name = term_of(exchange)
        times = step if name == "data" else micro_batch
        is_whole = name == "data" and not (work.hides_data or exchange.phase in _PASSES)
        share = 1.0 if is_whole else exposed.get(name, 1.0)
        times[name] = times[name] + exchange_seconds(exchange, device, work.world_size) * share
    micro_batch["host"] = _host_seconds(work, micro_batch, device)
    return PlaceTimes(micro_batch, step)


def term_of(exchange: Exchange) -> str:
    """Which term an exchange belongs to."""
    if exchange.per == "step":
        return "data"
    if exchange.phase == "pipeline":  # of two interleaved stages, one direction goes over the whole job's group
        return "pipeline"
    if "expert" in exchange.group:
        return "expert"
    return "context" if exchange.group.startswith("context") else "tensor"


def _host_seconds(work: Work, micro_batch: dict[str, Floats], device: Device) -> Floats:
    """Launches, as far as the device does not work meanwhile, and what each layer takes whatever its size."""
    launching = launches_of(work, device) * device.host.seconds_a_call.value
    if device.host.is_hidden:
        launching = np.maximum(0.0, launching - np.asarray(sum(micro_batch.values())))
    return np.asarray(launching + work.layers * device.efficiency.layer_seconds.value)


def launches_of(work: Work, device: Device) -> Ints:
    """Of a micro-batch at each place."""
    of_micro_batch = [each for each in work.traffic if each.per == "micro_batch"]
    calls = calls_of([*work.products, *work.attention, *of_micro_batch], len(work.stage))
    if device.measured is None:  # a collective that was timed has its launch in its time
        calls = calls + sum(each.calls for each in work.exchanges if each.per == "micro_batch")
    return np.asarray(calls)


# ---- one job ---------------------------------------------------------------------------------------------


class Jobs:
    """The places of a work by job. A place may stand for the stages between it and the last one."""

    def __init__(self, work: Work) -> None:
        self.start = np.flatnonzero(np.r_[True, work.layout[1:] != work.layout[:-1]])
        self.layout = work.layout[self.start]
        self.of_place = np.repeat(np.arange(len(self.start)), np.diff(np.r_[self.start, len(work.layout)]))
        self.pipeline, self.chunks = work.pipeline[self.start], work.virtual_pipeline[self.start]
        self.micro_batches, self.world_size = work.micro_batches[self.start], work.world_size[self.start]
        counted = np.bincount(self.of_place, minlength=len(self.start))
        is_middle = (work.stage > 0) & (work.stage == 1) & (work.stage < work.pipeline - 1)
        self.stages = np.where(is_middle, 1 + (self.pipeline - counted)[self.of_place], 1)

    def most(self, column: Floats) -> Floats:
        """The largest value of each job's places."""
        return np.asarray(np.maximum.reduceat(column, self.start))

    def mean(self, column: Floats) -> Floats:
        """Over the stages of each job."""
        return np.asarray(np.add.reduceat(column * self.stages, self.start) / self.pipeline)

    def slowest(self, column: Floats) -> Ints:
        """The first place of each job that has its largest value."""
        return np.asarray(np.lexsort((-column, self.of_place))[self.start])


def _on_schedule(times: PlaceTimes, jobs: Jobs, fixed: float) -> dict[str, Floats]:
    """Each rank on a device of its own."""
    slowest = jobs.slowest(times.of_micro_batch)
    terms = {name: jobs.micro_batches * column[slowest] for name, column in times.micro_batch.items()}
    terms |= {name: jobs.most(column) for name, column in times.step.items()}
    terms["host"] = terms["host"] + fixed
    terms["bubble"] = (jobs.pipeline - 1) / jobs.chunks * jobs.mean(times.of_micro_batch)
    return terms


def _on_shared_cores(times: PlaceTimes, jobs: Jobs, fixed: float, cores: int) -> dict[str, Floats]:
    """The work of all ranks, spread over the cores."""
    ranks_a_core = jobs.world_size / cores
    terms = {name: jobs.micro_batches * jobs.mean(column) * ranks_a_core for name, column in times.micro_batch.items()}
    terms |= {name: jobs.mean(column) * ranks_a_core for name, column in times.step.items()}
    terms["host"] = terms["host"] + fixed * ranks_a_core
    return terms | {"bubble": np.zeros(len(jobs.layout))}
