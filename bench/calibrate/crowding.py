"""What ranks of one CPU take more beside each other than alone: jobs of several ranks, run and predicted."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import lsq_linear

from bench.calibrate.observed import EVEN_ROUTING
from bench.calibrate.signatures import count_steps, job_shape
from bench.plan.device import Device
from bench.plan.layouts import layouts_of
from bench.plan.measured import Crowding
from bench.plan.measured_device import MeasuredPrediction, predict_measured
from bench.plan.timed import time_layouts
from bench.plan.whole_steps import whole_steps
from grok1.config.load import ONE_RANK, load_recipe
from grok1.config.recipe import Recipe
from grok1.distributed.launch import launch
from grok1.training.job import prepare

NamedJob = tuple[str, str, tuple[str, ...]]  # a name, a recipe, what is changed in it
ROUNDS = 7  # steps of a launch, of ranks alone too
_CROWDED_BOUNDS = (0.1, 20.0), (0.8, 1.5)  # of the factors of what is crowded and of computing

_PAIR, _FOUR, _EIGHT, _SIXTEEN = ((*ONE_RANK, f"parallel.world_size={ranks}") for ranks in (2, 4, 8, 16))
_EXPERT, _TENSOR = "parallel.expert=2", ("parallel.tensor=2", "parallel.expert_tensor=2")
_FOURTHS = ("parallel.tensor=4", "parallel.expert_tensor=4")
# of more ranks than this machine may have cores: they wait for each other's
SHARING: tuple[NamedJob, ...] = (
    ("nano, 4 ranks, TP2 ETP2", "grok1-nano", (*_FOUR, *_TENSOR)),
    ("nano, 16 ranks, TP2 PP2 EP2 ETP2", "grok1-nano", (*_SIXTEEN, "parallel.pipeline=2", _EXPERT, *_TENSOR)),
)
# jobs of several ranks that are run, to see what ranks take more beside each other than alone
CROWDED: tuple[NamedJob, ...] = (
    ("nano, DP2", "grok1-nano", _PAIR),
    ("nano, TP2 ETP2", "grok1-nano", (*_PAIR, *_TENSOR)),
    ("nano, EP2", "grok1-nano", (*_PAIR, _EXPERT)),
    ("tiny, 2 layers, EP2", "grok1-tiny", (*_PAIR, _EXPERT, "model.num_layers=2")),
    *SHARING,
    ("nano, 8 ranks, TP2 EP2 ETP2", "grok1-nano", (*_EIGHT, *_TENSOR, _EXPERT)),
    ("nano, 8 ranks, TP4 ETP4", "grok1-nano", (*_EIGHT, *_FOURTHS)),
    ("nano, 16 ranks, TP4 PP2 ETP4", "grok1-nano", (*_SIXTEEN, "parallel.pipeline=2", *_FOURTHS)),
    ("tiny, 4 ranks, TP2 EP2 ETP2", "grok1-tiny", (*_FOUR, *_TENSOR, _EXPERT)),
    ("tiny, 16 ranks", "grok1-tiny", ()),
)


@dataclass(frozen=True)
class Miss:
    """A run of several ranks beside its prediction, and how much of that crowding makes longer, or is exchanges."""

    step_seconds: float
    predicted_seconds: float
    crowded_seconds: float
    exchange_seconds: float = 0.0
    ranks: int = 2
    has_cores: bool = True  # a core for each rank

    @property
    def alone_seconds(self) -> float:
        """What is predicted of it but for exchanges."""
        return self.predicted_seconds - self.exchange_seconds


def recipes_of(jobs: Iterable[NamedJob]) -> list[Recipe]:
    """Each with even routing."""
    return [load_recipe(recipe, [*changes, EVEN_ROUTING]) for _, recipe, changes in jobs]


def crowd_jobs() -> list[Recipe]:
    """The recipes of CROWDED."""
    return recipes_of(CROWDED)


def predictions(jobs: Sequence[Recipe], device: Device) -> list[MeasuredPrediction]:
    """What a profile predicts of these jobs, from the counts of dry runs."""
    counted = zip(jobs, count_steps(jobs), strict=True)
    return [predict_measured(counts, job_shape(recipe), device) for recipe, counts in counted]


def crowd_seconds(jobs: Sequence[Recipe], say: Callable[[str], None]) -> list[float]:
    """A launch of each job: the median of its steps."""
    found = []
    for recipe in jobs:
        say(f"a run of {recipe.name} on {recipe.parallel.world_size} ranks")
        taken = launch(prepare(recipe, ROUNDS), recipe, "cpu", entry="bench.calibrate.observed:run_rank")
        found.append(statistics.median(taken["seconds"]))
    return found


def crowd_misses(device: Device, jobs: Sequence[Recipe], launches: Sequence[Sequence[float]]) -> list[Miss]:
    """The median of each job's launches beside what the profile predicts of it without crowding.

    Args:
        device: a CPU's profile without crowding.
        jobs: of several ranks.
        launches: `crowd_seconds` of these jobs, at several times: one launch may always have been disturbed.
    """
    misses = []
    for recipe, without, seconds in zip(jobs, predictions(jobs, device), zip(*launches, strict=True), strict=True):
        ranks = recipe.parallel.world_size
        parts = without.crowded_seconds, without.terms["exchange"]
        has_cores = ranks <= (device.cores or ranks)
        misses.append(Miss(statistics.median(seconds), without.step_seconds, *parts, ranks, has_cores))
    return misses


def with_crowding(device: Device, misses: Sequence[Miss]) -> Device:
    """The profile with a factor a number of ranks: what makes of the jobs' predictions, best, their measured steps."""
    measured = device.measured
    assert measured is not None
    by_ranks: dict[int, list[Miss]] = defaultdict(list)
    for each in misses:
        by_ranks[each.ranks].append(each)
    factors = [(ranks, *crowding_of(each)) for ranks, each in sorted(by_ranks.items())]
    rows = [Crowding(job_ranks=ranks, factor=factor, computing_factor=other) for ranks, factor, other in factors]
    return device.model_copy(update={"measured": measured.model_copy(update={"crowding": rows})})


def planned_seconds(recipe: Recipe, device: Device) -> float:
    """Of a step, as `python -m bench plan` says by this profile."""
    return float(time_layouts(layouts_of(recipe), device).prediction.step_seconds[0])


def with_whole_steps(device: Device, jobs: Sequence[tuple[Recipe, float]]) -> Device:
    """The profile with what these jobs' steps took, over what the closed forms make of them.

    Args:
        device: a CPU's profile.
        jobs: recipes, and seconds of their steps.
    """
    measured = device.measured
    assert measured is not None
    planned = [planned_seconds(recipe, device) for recipe, _ in jobs]
    ranks = [recipe.parallel.world_size for recipe, _ in jobs]
    rows = whole_steps(ranks, [seconds for _, seconds in jobs], planned)
    return device.model_copy(update={"measured": measured.model_copy(update={"whole_steps": rows})})


def crowding_of(misses: Sequence[Miss]) -> tuple[float, float]:
    """The factors of crowded seconds and of computing that leave the least squares of relative errors.

    Of jobs of one number of ranks. Where ranks share cores all computing is crowded, and the second is 1.
    """
    steps = np.array([each.step_seconds for each in misses])
    parts = np.array([[each.crowded_seconds, each.alone_seconds * each.has_cores] for each in misses])
    more = 1.0 - np.array([each.predicted_seconds for each in misses]) / steps
    least, most = (np.array(factors) - 1.0 for factors in zip(*_CROWDED_BOUNDS, strict=True))
    crowded, computing = 1.0 + lsq_linear(parts / steps[:, None], more, bounds=(least, most), tol=1e-12).x
    return float(crowded), float(computing)
