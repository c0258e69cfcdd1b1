"""What a training run measured: the typed result that ranks gather, `--json` writes and the harness records. No torch.

Field names are the keys of the JSON, so they are short where a key was; each class says its units. Legend: S steps of
the run, L layers, E experts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from grok1.config.axes import SHOWN_ABOVE_ONE


@dataclass(frozen=True)
class StepMetrics:
    """What one step computed, the same on every rank. Losses are means over the global batch."""

    step: int  # from 0
    loss: float
    aux_loss: float
    grad_norm: float
    learning_rate: float
    skipped: bool  # the optimizer left the weights alone
    z_loss: float | None = None  # without its coefficient, as aux_loss is; None where there is none
    dropped_pairs: int | None = None  # (token, expert), of all layers; None where experts have no capacity

    @property
    def is_finite(self) -> bool:
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)

    def as_json(self) -> dict[str, object]:
        """Plain data under the names of the fields; the last two only where there are such."""
        return {
            key: value
            for key, value in asdict(self).items()
            if value is not None or key not in ("z_loss", "dropped_pairs")
        }


@dataclass(frozen=True)
class CollectiveSamples:
    """One kind of collective on one rank: seconds of each step [S]; calls and bytes of all steps together.

    Bytes are of the larger side of each call.
    """

    seconds: list[float]
    calls: int
    bytes: int


@dataclass(frozen=True)
class ModuleSeconds:
    """Seconds of one kind of module's own operators in a profiled step, without those of modules inside it."""

    forward: float
    backward: float


@dataclass(frozen=True)
class PhaseSpan:
    """A stretch of one phase, in seconds since its step began on that rank."""

    phase: str
    start_seconds: float
    end_seconds: float


@dataclass(frozen=True)
class RankSamples:
    """What one rank measured. Lists hold one number a step [S]."""

    rank: int
    stage: int  # of the pipeline
    step_seconds: list[float]
    phases_seconds: dict[str, list[float]]
    communication_seconds: list[float]  # that all kinds of collectives held the rank up; calls and bytes are theirs
    communication_calls: list[int]
    communication_bytes: list[int]
    collectives: dict[str, CollectiveSamples]  # by "group operation", as in "tensor all_reduce"
    timeline: list[PhaseSpan]  # of the last step, in the order of time
    peak_bytes: int
    reserved_bytes: int | None  # None where the device's allocator does not say
    host_bytes: int  # resident size of the process
    memory_bytes: list[int] = field(default_factory=list)  # in use after each step; on a CPU, resident in the process
    modules_seconds: dict[str, ModuleSeconds] = field(default_factory=dict)  # most first; empty where not profiled


@dataclass(frozen=True)
class LayoutUsed:
    """How many ways the job was split, and over how many machines."""

    world_size: int
    tensor: int
    pipeline: int
    expert: int
    expert_tensor: int
    data: int
    nodes: int
    ranks_per_node: int
    context: int = 1
    virtual_pipeline: int = 1


@dataclass(frozen=True)
class DeviceUsed:
    """One processor of the job; its peak is dense, in `dtype`, and None where no source settles it."""

    kind: str
    name: str
    memory_bytes: int | None
    peak_flops_per_second: float | None
    peak_source: str | None
    dtype: str


@dataclass(frozen=True)
class RunResult:
    """One training run, gathered on rank 0."""

    steps: list[StepMetrics]
    ranks: list[RankSamples]
    expert_load: list[list[int]]  # tokens [L, E] of all steps together
    startup_seconds: float  # from the launch to the first step
    layout: LayoutUsed
    device: DeviceUsed
    software: dict[str, str]  # versions by package, and commits
    code_digests: dict[str, str]  # of the sources on rank 0's disk as it began, by package
    # In words: what other nodes ran than the first, and what was edited on the first while it ran.
    code_differences: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, object]:
        """Plain data under the names of the fields, steps from 1; modules and differences where there are."""
        content = asdict(self) | {"steps": [{**step.as_json(), "step": step.step + 1} for step in self.steps]}
        for axis in SHOWN_ABOVE_ONE:
            if content["layout"][axis] == 1:
                del content["layout"][axis]
        if not self.code_differences:
            del content["code_differences"]
        for rank in content["ranks"]:
            if not rank["modules_seconds"]:
                del rank["modules_seconds"]
        return content


# ---- what rank 0 says while it runs -------------------------------------------------------------------------


@dataclass(frozen=True)
class StepDone:
    """A line of the running log."""

    metrics: StepMetrics
    step_seconds: float
    peak_bytes: int


@dataclass(frozen=True)
class Resumed:
    """The ranks hold the state of a checkpoint."""

    folder: Path
    step: int  # behind it, so many


@dataclass(frozen=True)
class CheckpointSaved:
    """A checkpoint is whole on the disk."""

    folder: Path  # of all steps: what --load takes
    step: int  # behind it, so many
    seconds: float


@dataclass(frozen=True)
class OperatorUse:
    """One operator in a profiled step: seconds of its own, and calls."""

    seconds: float
    calls: int


@dataclass(frozen=True)
class CollectiveUse:
    """One kind of collective in one step."""

    seconds: float
    calls: int
    bytes: int


@dataclass(frozen=True)
class StepProfile:
    """One profiled step of one rank, longer than others for being profiled. Modules and operators: most first.

    Both are empty where the profiler does not tell of operators, as on NPUs.
    """

    rank: int
    step: int  # from 1, as it was asked for
    trace: str | None  # the file
    step_seconds: float
    modules: dict[str, ModuleSeconds]
    operators: dict[str, OperatorUse]
    collectives: dict[str, CollectiveUse]
    trouble: str | None = None  # what went wrong with the profiler, which left the run alone


@dataclass(frozen=True)
class ProfileDone:
    """The profiled steps of one rank."""

    profiles: list[StepProfile]


@dataclass(frozen=True)
class RunMeasured:
    """All that the run is for is measured: what happens to the ranks from here on does not undo it.

    `result` is None where rank 0 is on another node.
    """

    result: RunResult | None


@dataclass(frozen=True)
class Warned:
    """Something that went wrong beside the run, in one line."""

    text: str


Event = StepDone | Resumed | CheckpointSaved | ProfileDone | RunMeasured | Warned
Emit = Callable[[Event], None]  # says an event to whoever started the ranks
