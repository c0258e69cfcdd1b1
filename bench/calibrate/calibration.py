"""A calibration: which ranks are looked at, what is measured of each, and the profile that comes of it."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone

import numpy as np
import psutil
from scipy.optimize import nnls

from bench.calibrate.collectives import CollectiveTime, cores_of, lines
from bench.calibrate.crowding import ROUNDS, crowd_jobs, crowd_misses, crowd_seconds, with_crowding, with_whole_steps
from bench.calibrate.host import HostCost, HostSample, LoneStep, fitted, median_of
from bench.calibrate.in_step import as_run
from bench.calibrate.operators import OperatorJob, OperatorTimes, Timed
from bench.calibrate.steadiness import changes_of_speed
from bench.calibrate.uncalled import uncalled
from bench.cases import usual_recipe
from bench.lone_rank import LoneJob, starter
from bench.plan.device import Device
from bench.plan.measured import (
    Measured,
    TimedAttention,
    TimedCollective,
    TimedOperator,
    TimedProduct,
    TimedTraffic,
)
from bench.plan.measured_device import OperatorTable
from grok1.config.load import ONE_RANK, load_recipe
from grok1.config.recipe import Recipe
from grok1.config.stages import first_rank_of_stage
from grok1.device.kind import Kind
from grok1.distributed.launch import check_machine, launch, preload_in_ranks

ENTRIES = {name: f"bench.calibrate.{name}:run_rank" for name in ("operators", "host", "collectives")}
_TIMES = 3  # at which steps are taken
CPU_JOBS = (2, 4, 8, 16)  # ranks of the jobs in which collectives are timed
_SHARE_OF_OPERATORS = 0.5  # of the budget; steps and collectives take the rest
_NOT_MEASURED = "not measured: the tables take its place, or nothing of it was run"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Sample:
    """One rank of one job whose operators and step are timed."""

    recipe: Recipe
    rank: int = 0


@dataclass
class Findings:
    """What was measured."""

    operators: list[OperatorTimes] = field(default_factory=list)
    steps: list[LoneStep] = field(default_factory=list)
    collectives: list[TimedCollective] = field(default_factory=list)
    launches_seconds: list[list[float]] = field(default_factory=list)  # a rank's step, in each launch of it

    @property
    def is_cold(self) -> bool:
        """Whether operators were timed alone, and not within their ranks' steps."""
        return not any(step.operators for step in self.steps)


def default_samples(device: Kind) -> list[Sample]:
    """Ranks whose operators are of all sizes that this device is used for."""
    if device != "cpu":
        return [Sample(load_recipe(usual_recipe(device)))]
    stock = tuple(
        f"kernels.{part}={choice}"
        for part, choice in (
            ("experts", "sequential"),
            ("dispatch", "megatron"),
            ("cross_entropy", "megatron"),
            ("linear", "megatron"),
        )
    )
    tiny = load_recipe("grok1-tiny")
    alone = (
        ("grok1-nano", ()),
        ("grok1-tiny", ()),
        ("grok1-tiny", ("training.micro_batch=4",)),
        ("grok1-tiny", stock),
        ("grok1-small", ("training.global_batch=2",)),
    )
    one = [Sample(load_recipe(name, [*ONE_RANK, *changes])) for name, changes in alone]
    return [*one, Sample(tiny), Sample(tiny, first_rank_of_stage(tiny.parallel, 1))]


def named_samples(names: Sequence[str], overrides: Sequence[str]) -> list[Sample]:
    """The first rank of each stage of these recipes."""
    recipes = [load_recipe(name, list(overrides)) for name in names]
    return [
        Sample(recipe, first_rank_of_stage(recipe.parallel, stage))
        for recipe in recipes
        for stage in sorted({0, recipe.parallel.pipeline - 1})
    ]


def calibrate(device: Kind, samples: Sequence[Sample], minutes: float, say: Say) -> Device:
    """Measure this machine's device. `say` hears what is about to be measured.

    Raises:
        LaunchError, DeviceError: the device is absent, or a rank does not fit it.
    """
    preload_in_ranks("grok1.training.run", "grok1.training.fake_step", "bench.peers")
    for each in samples:
        check_machine(each.recipe, device, 1)
    crowd = crowd_jobs() if device == "cpu" else []
    # a machine changes its speed: steps are taken at several times, those of ranks alone and of ranks beside each other
    runs, steps = [crowd_seconds(crowd, say)], [_steps_alone(device, samples, say, 1)]
    before = _collective_times(device, say)
    cold = _operators(device, samples, minutes, say)
    for turn in range(2, _TIMES + 1):
        runs.append(crowd_seconds(crowd, say))
        steps.append(_steps_alone(device, samples, say, turn))
    after = _collective_times(device, say)
    exchanges = [row for ranks in before for row in lines(before[ranks] + after[ranks], ranks, cores_of(device))]
    found = findings(cold, steps, exchanges)
    profile = device_of(device, found)
    misses = crowd_misses(profile, crowd, runs)
    unsteady = changes_of_speed(found.launches_seconds, misses)
    for change in unsteady:
        say(f"warning: {change}; calibrate again when the machine is quiet")
    profile = with_crowding(profile, misses)
    if device == "cpu":
        ranks = zip((each.recipe for each in samples), found.steps, strict=True)
        alone = [(recipe, step.seconds) for recipe, step in ranks if recipe.parallel.world_size == 1]
        together = zip(crowd, (miss.step_seconds for miss in misses), strict=True)
        profile = with_whole_steps(profile, [*alone, *together])
    return profile.model_copy(update={"description": "; ".join([profile.description, *unsteady])})


def findings(
    cold: Sequence[OperatorTimes], times: Sequence[Sequence[LoneStep]], collectives: Sequence[TimedCollective]
) -> Findings:
    """Of ranks whose operators were timed alone and whose steps ran at several times: the median of these."""
    by_rank = [list(launches) for launches in zip(*times, strict=True)]
    steps = [median_of(launches) for launches in by_rank]
    timed = [as_run(alone, step.operators) for alone, step in zip(cold, steps, strict=True)]
    return Findings(timed, steps, list(collectives), [[each.seconds for each in launches] for launches in by_rank])


def _operators(device: Kind, samples: Sequence[Sample], minutes: float, say: Say) -> list[OperatorTimes]:
    """Each call of these ranks' steps, alone."""
    found: list[OperatorTimes] = []
    seconds = 60.0 * minutes * _SHARE_OF_OPERATORS / len(samples)
    for number, each in enumerate(samples, 1):
        say(f"{number} of {len(samples)}: operators of {each.recipe.name}, rank {each.rank}")
        job = OperatorJob(each.recipe, each.rank, seconds)
        found.append(launch(job, starter(), device, entry=ENTRIES["operators"]))
        for line in uncalled(found[-1].counts.operators, found[-1].refused):
            say(line)
    return found


def _steps_alone(device: Kind, samples: Sequence[Sample], say: Say, turn: int) -> list[LoneStep]:
    """A launch of each rank alone."""
    say(f"the steps of these ranks, {turn} of {_TIMES}")
    jobs = [LoneJob(each.recipe, each.rank, ROUNDS) for each in samples]
    return [launch(job, starter(), device, entry=ENTRIES["host"]) for job in jobs]


def _collective_times(device: Kind, say: Say) -> dict[int, list[CollectiveTime]]:
    """By ranks of the job: what each rank took for each collective."""
    found = {}
    for ranks in CPU_JOBS if device == "cpu" else ():
        say(f"collectives among {ranks} ranks")
        found[ranks] = collective_times(device, ranks)
    return found


def collective_times(device: Kind, ranks: int) -> list[CollectiveTime]:
    """All collectives in one job of so many ranks."""
    recipe = load_recipe("grok1-nano", [*ONE_RANK, f"parallel.world_size={ranks}", f"training.global_batch={ranks}"])
    heard: list[CollectiveTime] = []
    launch(recipe, recipe, device, on_event=heard.append, entry=ENTRIES["collectives"])
    return heard


# ---- the profile ---------------------------------------------------------------------------------------


def device_of(kind: Kind, found: Findings, name: str = "") -> Device:
    """The profile that these findings make."""
    timed = merged([each for times in found.operators for each in times.timed])
    host = host_cost(found, timed)
    timed = [replace(each, seconds=host.operator_share * each.seconds) for each in timed]
    products = [each for each in timed if each.product is not None]
    rates = [each.flops / each.seconds for each in products]
    peak = max(rates, default=1.0)
    bandwidth = max((each.bytes / each.seconds for each in timed if each.bytes > 1 << 22), default=1e9)
    chip = name or _processor(kind)
    when = datetime.now(timezone.utc).isoformat(timespec="seconds")
    source = f"measured on {chip}, {when}"
    where = f"{host.operator_share:.2f} of it cold" if found.is_cold else "within it"
    fit = f"a step less its operators, timed {where}; residual {host.residual:.3f}"
    pair = [each for each in found.collectives if each.operation == "all_gather_into_tensor" and each.ranks == 2]
    link, call = (pair[0].bytes_a_second, pair[0].call_seconds) if pair else (bandwidth, 0.0)
    unmeasured = {"value": 1.0, "source": _NOT_MEASURED}
    nothing = {"value": 0.0, "source": _NOT_MEASURED}
    exposed = ("tensor_exposed", "data_exposed", "context_exposed", "pipeline_exposed")
    fields = {
        "name": f"calibrated-{kind}",
        "description": f"this machine's {chip}, by python -m bench calibrate",
        "node_size": cores_of(kind) or 1,
        "cores": cores_of(kind),
        "peak": {"fp32" if kind == "cpu" else "bf16": {"value": peak, "source": f"fastest product {source}"}},
        "memory": {
            "bytes": {"value": float(psutil.virtual_memory().total), "source": "the kernel's"},
            "bytes_a_second": {"value": bandwidth, "source": f"fastest operator of over 4 MiB {source}"},
        },
        "links": {
            "kind": "switch",
            "bytes_a_second": {"value": link, "source": f"all-gather of two ranks {source}"},
            "call_seconds": {"value": call, "source": f"all-gather of two ranks {source}"},
            "rank_seconds": nothing,
            "nic_rank_seconds": nothing,
        },
        "host": {
            "is_hidden": kind != "cpu",
            "seconds_a_call": {"value": host.seconds_a_call, "source": f"{source}; {fit}"},
            "seconds_a_step": {"value": 0.0, "source": "not measured: the cost of calls holds it"},
        },
        "efficiency": {
            "products": {"value": statistics.median(rates) / peak if rates else 1.0, "source": f"median {source}"},
            "shape_penalty": nothing,
            **dict.fromkeys(("attention", "memory", "exchange", *exposed), unmeasured),
            "layer_seconds": nothing,
        },
        "measured": _tables(found, timed, source),
    }
    return Device.model_validate(fields)


def _processor(kind: Kind) -> str:
    from grok1.device.processor import processor_name

    return processor_name() if kind == "cpu" else kind


def merged(timed: Sequence[Timed]) -> list[Timed]:
    """One row a signature: of those that several ranks timed, the median."""
    by_name: dict[str, list[Timed]] = defaultdict(list)
    for each in timed:
        by_name[each.signature].append(each)
    return [
        Timed(**{**vars(same[0]), "seconds": statistics.median(each.seconds for each in same)})
        for same in by_name.values()
    ]


def host_cost(found: Findings, timed: Sequence[Timed]) -> HostCost:
    """The host's cost, of the same table that predictions will use."""
    table = OperatorTable(_rows(timed))
    ranks = list(zip(found.steps, found.operators, strict=True))
    alone = [each for each in ranks if not each[1].counts.collectives]  # a stand-in's exchanges cost the host time too
    samples = [
        HostSample(
            step.seconds,
            sum(each.calls * table.seconds(each) for each in times.counts.operators),
            sum(each.calls for each in times.counts.operators),
        )
        for step, times in alone or ranks
    ]
    return fitted(samples, is_cold=found.is_cold)


def _rows(timed: Sequence[Timed]) -> list[TimedOperator]:
    return [
        TimedOperator(
            signature=each.signature, kind=each.kind, flops=each.flops, bytes=each.bytes, seconds=each.seconds
        )
        for each in timed
    ]


def _tables(found: Findings, timed: Sequence[Timed], source: str) -> Measured:
    sizes = {each.product: each.seconds for each in timed if each.product is not None}
    return Measured(
        source=source,
        products=[
            TimedProduct(rows=rows, columns=columns, depth=depth, seconds=seconds)
            for (rows, columns, depth), seconds in sizes.items()
        ],
        attention=_attention(timed),
        traffic=_traffic(found, {each.signature: each for each in timed}),
        collectives=found.collectives,
        operators=_rows(timed),
    )


def _attention(timed: Sequence[Timed]) -> list[TimedAttention]:
    cores = [each for each in timed if "attention" in each.kind and each.flops]
    return [
        TimedAttention(
            phase="backward" if "backward" in each.kind else "forward", flops=each.flops, seconds=each.seconds
        )
        for each in cores
    ]


def _traffic(found: Findings, timed: Mapping[str, Timed]) -> list[TimedTraffic]:
    """Of each component and phase, the line through its operators that multiply no matrices."""
    by_part: dict[tuple[str, str], set[str]] = defaultdict(set)
    for times in found.operators:
        for each in times.counts.operators:
            row = timed.get(each.signature)
            if row is not None and row.product is None and row.bytes and "attention" not in row.kind:
                by_part[(each.component, each.phase)].add(each.signature)
    rows = []
    for (part, phase), names in sorted(by_part.items()):
        seconds = np.array([timed[name].seconds for name in sorted(names)])
        sizes = np.array([timed[name].bytes for name in sorted(names)], dtype=float)
        (call, per_byte), _ = nnls(np.stack([1 / seconds, sizes / sizes.max() / seconds], axis=1), np.ones(len(names)))
        rate = min(1e19, sizes.max() / max(per_byte, 1e-12))
        rows.append(TimedTraffic(component=part, phase=phase, bytes_a_second=float(rate), call_seconds=float(call)))
    return rows


def progress(say: Say) -> Say:
    """Each line with the seconds since the start."""
    start = time.monotonic()
    return lambda what: say(f"[{time.monotonic() - start:5.0f} s] {what}")
