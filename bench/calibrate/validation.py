"""Predictions of jobs that a calibration did not see, beside runs of them. No torch here; the runs are launched."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

from scipy.stats import kendalltau
from tabulate import tabulate

from bench.calibrate.crowding import SHARING, NamedJob, planned_seconds, predictions, recipes_of
from bench.plan.device import Device
from bench.plan.measured_device import MeasuredPrediction
from grok1.config.load import ONE_RANK
from grok1.config.recipe import Recipe
from grok1.distributed.launch import launch
from grok1.training.job import prepare

_STOCK = (
    "kernels.experts=sequential", "kernels.dispatch=megatron",
    "kernels.cross_entropy=megatron", "kernels.linear=megatron",
)  # fmt: skip
_FOUR_LAYERS = "model.num_layers=4"


def _pair(axis: str) -> tuple[str, ...]:
    return (*ONE_RANK, "parallel.world_size=2", *((f"parallel.{axis}=2",) if axis else ()))


# none of them is among bench.calibrate.calibration.default_samples
FEW_RANKS: tuple[NamedJob, ...] = (
    ("nano, 4 layers", "grok1-nano", (*ONE_RANK, _FOUR_LAYERS)),
    ("nano, micro-batch 2", "grok1-nano", (*ONE_RANK, "training.micro_batch=2")),
    ("nano, 64 tokens", "grok1-nano", (*ONE_RANK, "training.sequence_length=64")),
    ("tiny, 2 layers", "grok1-tiny", (*ONE_RANK, "model.num_layers=2")),
    ("tiny, micro-batch 2", "grok1-tiny", (*ONE_RANK, "training.micro_batch=2")),
    ("tiny, full recompute", "grok1-tiny", (*ONE_RANK, "training.recompute=full")),
    ("tiny, 128 tokens, batch 2", "grok1-tiny", (*ONE_RANK, "training.sequence_length=128", "training.global_batch=2")),
    ("nano, megatron's parts", "grok1-nano", (*ONE_RANK, *_STOCK)),
    ("small, 2 layers, batch 1", "grok1-small", (*ONE_RANK, "model.num_layers=2", "training.global_batch=1")),
    ("tiny, TP2 ETP2", "grok1-tiny", (*_pair("tensor"), "parallel.expert_tensor=2")),
    ("tiny, PP2", "grok1-tiny", _pair("pipeline")),
    ("tiny, EP2 DP2", "grok1-tiny", _pair("expert")),
    ("tiny, DP2", "grok1-tiny", _pair("")),
    ("nano, PP2, micro-batch 2", "grok1-nano", (*_pair("pipeline"), "training.micro_batch=2")),
)  # fmt: skip


def _many(ranks: int, tensor: int, pipeline: int, expert: int, expert_tensor: int) -> NamedJob:
    axes = {"world_size": ranks, "tensor": tensor, "pipeline": pipeline, "expert": expert}
    words = [f"parallel.{name}={value}" for name, value in {**axes, "expert_tensor": expert_tensor}.items()]
    name = f"nano, {ranks} ranks, TP{tensor} PP{pipeline} EP{expert} ETP{expert_tensor}"
    return name, "grok1-nano", (*ONE_RANK, *words, "training.global_batch=16")


MANY_RANKS = (
    _many(4, 1, 1, 4, 1), _many(4, 2, 1, 2, 2), _many(4, 4, 1, 1, 4), _many(4, 2, 2, 1, 2),
    _many(8, 1, 1, 8, 1), _many(8, 2, 2, 2, 2), _many(8, 4, 1, 2, 4), _many(8, 4, 2, 1, 4),
    _many(16, 1, 1, 8, 1), _many(16, 2, 2, 4, 2), _many(16, 4, 1, 4, 4), _many(16, 4, 2, 2, 4),
)  # fmt: skip


# jobs that were calibrated: how far their steps lie from their predictions is what the machine changed meanwhile, and
# the residual of the fit of the host's cost, or of the crowding
FEW_CONTROLS: tuple[NamedJob, ...] = (
    ("nano, one rank", "grok1-nano", ONE_RANK),
    ("tiny, one rank", "grok1-tiny", ONE_RANK),
)
MANY_CONTROLS = SHARING


@dataclass
class Trial:
    """A job, what is predicted of it, and the steps that ran."""

    name: str
    recipe: Recipe
    predicted: MeasuredPrediction
    planned_seconds: float  # what `python -m bench plan` says of it by the same profile
    seconds: list[float] = field(default_factory=list)
    processor_seconds: list[float] = field(default_factory=list)

    @property
    def error(self) -> float:
        """Predicted over measured step, less 1."""
        return self.predicted.step_seconds / median(self.seconds) - 1.0

    @property
    def planned_error(self) -> float:
        """Planned over measured step, less 1."""
        return self.planned_seconds / median(self.seconds) - 1.0

    @property
    def processor_error(self) -> float:
        """The same of processor seconds, exchanges left out of the predicted side alone: a check on one rank."""
        return self.predicted.processor_seconds / median(self.processor_seconds) - 1.0


def trials(jobs: Sequence[NamedJob], device: Device) -> list[Trial]:
    """Each job with its prediction; none is run."""
    recipes = recipes_of(jobs)
    each_job = zip(jobs, recipes, predictions(recipes, device), strict=True)
    return [
        Trial(name, recipe, predicted, planned_seconds(recipe, device)) for (name, _, _), recipe, predicted in each_job
    ]


def run(some: Sequence[Trial], launches: int, steps: int, may_go_on: Callable[[], bool]) -> None:
    """Run every job so many times, in turns; the first turn runs whatever the time is."""
    for turn in range(launches):
        for each in some:
            if turn and not may_go_on():
                return
            found = launch(
                prepare(each.recipe, steps), each.recipe, "cpu", entry="bench.calibrate.observed:run_rank",
                timeout_seconds=200.0,
            )  # fmt: skip
            each.seconds.append(median(found["seconds"]))
            each.processor_seconds.append(median(found["processor_seconds"]))


@dataclass(frozen=True)
class Accuracy:
    """How far predictions lie from runs; regret and tau are of jobs that compete, those of one number of ranks."""

    median_error: float
    worst_error: float
    regret: float
    tau: float

    def line(self) -> str:
        """For a terminal."""
        return f"{self.errors}, regret {self.regret:.1%}, Kendall tau {self.tau:.2f}"

    @property
    def errors(self) -> str:
        """The same without what a factor on all predictions leaves as it is."""
        return f"median error {self.median_error:.1%}, worst {self.worst_error:.1%}"


def slowdown(controls: Sequence[Trial]) -> float:
    """Median of measured over predicted: how much longer than when they were calibrated these jobs took."""
    return median(1.0 / (1.0 + each.error) for each in controls)


def accuracy(some: Sequence[Trial], times: float = 1.0) -> Accuracy:
    """Of these jobs, each prediction `times` as long; the worst regret and the median tau over numbers of ranks."""
    return _accuracy(some, [times * each.predicted.step_seconds for each in some])


def plan_accuracy(some: Sequence[Trial]) -> Accuracy:
    """The same of what a plan says of these jobs."""
    return _accuracy(some, [each.planned_seconds for each in some])


def _accuracy(some: Sequence[Trial], seconds: Sequence[float]) -> Accuracy:
    by_ranks: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for said, each in zip(seconds, some, strict=True):
        by_ranks[each.recipe.parallel.world_size].append((said, median(each.seconds)))
    errors = [abs(said / took - 1.0) for group in by_ranks.values() for said, took in group]
    regrets, taus = [], []
    for group in by_ranks.values():
        predicted, measured = (list(column) for column in zip(*group, strict=True))
        regrets.append(measured[predicted.index(min(predicted))] / min(measured) - 1.0)
        taus.append(float(kendalltau(predicted, measured).statistic) if len(group) > 1 else 1.0)
    return Accuracy(median(errors), max(errors), max(regrets), median(taus))


def table(some: Sequence[Trial]) -> str:
    """A row a job: predicted, measured, error; the same of processor seconds; what was looked up; what a plan says."""
    rows = [
        [each.name, f"{1e3 * each.predicted.step_seconds:.1f}", f"{1e3 * median(each.seconds):.1f}"]
        + [f"{1e3 * min(each.seconds):.1f} to {1e3 * max(each.seconds):.1f}", f"{each.error:+.1%}"]
        + [f"{1e3 * each.predicted.processor_seconds:.1f}", f"{1e3 * median(each.processor_seconds):.1f}"]
        + [f"{each.processor_error:+.1%}", f"{each.predicted.looked_up:.0%}", str(len(each.seconds))]
        + [f"{1e3 * each.planned_seconds:.1f}", f"{each.planned_error:+.1%}"]
        for each in some
    ]
    headers = ["job", "predicted ms", "measured ms", "min to max", "error", "predicted processor ms"]
    headers += ["measured", "error", "looked up", "launches", "planned ms", "error"]
    return tabulate(rows, headers, tablefmt="pipe", disable_numparse=True)
