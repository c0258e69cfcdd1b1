"""What one benchmark run was and what it measured: schema 1, one JSON file a run.

A number travels with its provenance, so a record holds the raw per-step samples of every rank next to the
recipe, layout, device, software and commit that made them. Statistics are derived later, in `stats`; nothing
is averaged here. A record checks itself when it is built and when it is read, so code behind this door never
meets an odd one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)

from bench.records import contradictions
from bench.records.environment import allowed_environment
from bench.records.fields import (
    Count,
    DeviceKind,
    Dtype,
    HexId,
    Name,
    PartName,
    Positive,
    Rate,
    Seconds,
    StepSeconds,
    Strict,
    Text,
    UtcTime,
)
from bench.records.jsonfile import check_plain_json, read_model, write_model
from bench.records.layout import MAX_RANKS, Layout
from bench.records.lone_rank import LoneRank

MAX_RECORD_BYTES = 64 * 2**20
MAX_STEPS = 100_000
MAX_SPANS_OF_RANK = 20_000
MAX_MODULES = 200
_MAX_REASONS = 100
MAX_ASKED, MAX_ASKED_CHARACTERS = 100, 1000


Asked = Annotated[
    str, StringConstraints(max_length=MAX_ASKED_CHARACTERS, pattern=r"^--(recipe|set|steps|data|tokenizer)=")
]


CodeDigests = Annotated[dict[Name, HexId], Field(max_length=100)]


class RecipeUsed(Strict):
    """The recipe that ran: `hash` identifies `resolved`, which is the recipe after every override."""

    name: Name
    hash: HexId
    resolved: dict[str, Any]

    @field_validator("resolved")
    @classmethod
    def _bounded(cls, value: dict[str, Any]) -> dict[str, Any]:
        check_plain_json(value)
        return value


class Device(Strict):
    """One processor. `peak_flops_per_second` is dense, for `dtype`; null where no honest figure is known."""

    kind: DeviceKind
    name: Name
    memory_bytes: Positive | None
    peak_flops_per_second: Rate | None
    peak_source: Text | None
    dtype: Dtype

    @model_validator(mode="after")
    def _peak_has_a_source(self) -> Device:
        if (self.peak_flops_per_second is None) != (self.peak_source is None):
            raise ValueError("peak_flops_per_second and peak_source are stated together or not at all")
        return self


class Commit(Strict):
    """The code that ran; nulls where it was not run from a git checkout."""

    sha: HexId | None
    dirty: bool | None


class Host(Strict):
    """The machine of rank 0.

    `load_average_1m` is of before the start, and holds what the job's own run before leaves in it.
    """

    cores: Positive
    memory_bytes: Positive
    load_average_1m: Annotated[float, Field(ge=0, le=1e6)]
    cpu_name: Name
    # During the run, of all cores together; null where the system does not say. Stolen: by the hypervisor for other
    # guests. Throttled: waited for, over this group's quota.
    stolen_seconds: Seconds | None = None
    throttled_seconds: Seconds | None = None
    # How many cores other programs used during the run, on average; null where the system does not say.
    others_cores: Annotated[float, Field(ge=0, le=1e6)] | None = None
    # A guest, which shares its cores' caches and memory with guests that it cannot see; null where that is not known.
    is_virtual: bool | None = None


class Session(Strict):
    """What a run shares with those that it may be exchanged with: machine, boot, day and job.

    The ids are digests, so that a record names no machine. `boot` is null where the system does not say. `day` is the
    one on which the benchmark was started, in UTC. `job` is the scheduler's, null where there is none.
    """

    machine: HexId
    boot: HexId | None
    day: Annotated[str, StringConstraints(pattern=r"^\d{4}-\d{2}-\d{2}$")]
    job: Name | None


class Work(Strict):
    """What one step does, for the whole job: `model_flops_per_step` counts no recomputation."""

    tokens_per_step: Positive
    model_flops_per_step: Rate
    num_micro_batches: Positive
    sequence_length: Positive
    global_batch: Positive
    parameters_total: Positive
    parameters_active: Positive

    @model_validator(mode="after")
    def _consistent(self) -> Work:
        if self.tokens_per_step > self.sequence_length * self.global_batch:
            raise ValueError("tokens_per_step is more than sequence_length x global_batch")
        if self.parameters_active > self.parameters_total:
            raise ValueError("parameters_active is larger than parameters_total")
        return self


class Step(Strict):
    """One optimizer step. A null `loss` or `grad_norm` was not finite; a null `aux_loss` or `z_loss` was not used.

    `dropped_pairs` are (token, expert) pairs that found their expert full, null where none can be.

    A null `learning_rate`, or a null `grad_norm` in a valid record, was not in an ingested log.
    """

    step: Count
    loss: float | None
    aux_loss: float | None
    grad_norm: float | None
    learning_rate: Annotated[float, Field(ge=0)] | None
    skipped: bool
    z_loss: float | None = None
    dropped_pairs: Count | None = None

    @property
    def number(self) -> int:
        """As people count: the first step is step 1."""
        return self.step + 1


class Collective(Strict):
    """One kind of collective on one rank: seconds inside it each step; calls and bytes of all steps together."""

    seconds: Annotated[list[Seconds], Field(max_length=MAX_STEPS)]
    calls: Count
    bytes: Count


class ModuleSeconds(Strict):
    """A kind of module's own operators, without those of modules inside it, in one profiled step."""

    forward: Seconds
    backward: Seconds


class Span(Strict):
    """A stretch of one phase within a step, in seconds from that step's start on that rank."""

    phase: PartName
    start_seconds: Seconds
    end_seconds: Seconds

    @model_validator(mode="after")
    def _forwards(self) -> Span:
        if self.end_seconds < self.start_seconds:
            raise ValueError(f"a span of {self.phase} ends before it starts")
        return self


class RankSamples(Strict):
    """What one rank measured, one number a step. An empty communication list was not measured."""

    rank: Count
    stage: Count
    step_seconds: Annotated[list[StepSeconds], Field(max_length=MAX_STEPS)]
    phases_seconds: Annotated[
        dict[PartName, Annotated[list[Seconds], Field(max_length=MAX_STEPS)]], Field(max_length=32)
    ]
    communication_seconds: Annotated[list[Seconds], Field(max_length=MAX_STEPS)]
    communication_calls: Annotated[list[Count], Field(max_length=MAX_STEPS)]
    communication_bytes: Annotated[list[Count], Field(max_length=MAX_STEPS)]
    peak_bytes: Count
    reserved_bytes: Count | None
    host_bytes: Count
    # By "group operation", as in "tensor all_gather": the parts of the communication above.
    collectives: Annotated[dict[PartName, Collective], Field(max_length=64)] = {}
    # By module, layers of one kind together: of one more step, which was profiled and so took longer than the others.
    # Empty but on the first rank of each stage.
    modules_seconds: Annotated[dict[PartName, ModuleSeconds], Field(max_length=MAX_MODULES)] = {}
    # Operators' own seconds in that step (of kernels alone, off the CPU), and their calls; null: not told apart.
    operators_seconds: Seconds | None = None
    operator_calls: Count | None = None
    # The last step, phase by phase, in the order of time.
    timeline: Annotated[list[Span], Field(max_length=MAX_SPANS_OF_RANK)] = []
    # In use after each step: of the device or, on a CPU, resident in the process. Empty: not recorded.
    memory_bytes: Annotated[list[Count], Field(max_length=MAX_STEPS)] = []

    def check_lengths(self, steps: int) -> None:
        """Refuse a list that does not hold one number for each of `steps`."""
        lists: dict[str, list[float] | list[int]] = {"step_seconds": self.step_seconds}
        lists |= {f"phases_seconds.{name}": values for name, values in self.phases_seconds.items()}
        lists |= {f"collectives.{name}.seconds": each.seconds for name, each in self.collectives.items()}
        for name in ("communication_seconds", "communication_calls", "communication_bytes", "memory_bytes"):
            if getattr(self, name):
                lists[name] = getattr(self, name)
        for name, values in lists.items():
            if len(values) != steps:
                raise ValueError(f"rank {self.rank}: {name} holds {len(values)} numbers for {steps} steps")


def _has_skipped(step: object) -> bool:
    return isinstance(step, dict) and step.get("skipped") is True and isinstance(step.get("step"), int)


class Record(Strict):
    """One run of one case. A void record is kept for people to read; it is never judged nor a baseline."""

    # `schema` is the name on disk, but also a (deprecated) method of pydantic's models.
    schema_: Literal[1] = Field(alias="schema", default=1)
    id: HexId
    # When the run ended. Of an ingested log: as its last training line says, taken for UTC; or, where its lines have no
    # dates, when it was read, and `is_dated` is false.
    created_at: UtcTime
    is_dated: bool = True
    case: Name
    valid: bool
    void_reasons: Annotated[list[Text], Field(max_length=_MAX_REASONS)]
    recipe: RecipeUsed
    layout: Layout
    device: Device
    software: Annotated[dict[Name, Text], Field(max_length=100)]
    commit: Commit
    # Of each package's Python files (grok1, megatron.core, mindspeed) on rank 0's disk, as edits of one working tree
    # share a commit; empty in a record from before they were kept, or of a foreign log.
    code_digests: CodeDigests = {}
    environment: Annotated[dict[Name, Text], Field(max_length=500)]
    host: Host | None
    session: Session | None = None  # null: from before records said so, or of a foreign log
    work: Work
    startup_seconds: Seconds | None
    steps: Annotated[list[Step], Field(max_length=MAX_STEPS)]
    ranks: Annotated[list[RankSamples], Field(max_length=MAX_RANKS)]
    # Tokens that each expert of each layer was given, summed over the steps; empty where it was not counted.
    expert_load: Annotated[list[Annotated[list[Count], Field(max_length=4096)]], Field(max_length=1024)]
    # Null for a run of ours. Of an ingested log: where it came from and what its samples are. Such a record holds one
    # time a step for the whole job, as rank 0; it may lack the host, gradient norms and memory (0 bytes: not known).
    source: Text | None = None
    # Null for a run of the whole job. Else `ranks` holds this rank alone, and losses and norms are null.
    lone_rank: LoneRank | None = None
    # By how much each step was made longer on purpose, to see the gate fail; null: not at all.
    planted_percent: Annotated[float, Field(gt=0, le=1000)] | None = None
    # What the command line changed of the case, word by word, for commands that run it again; capitals are filled in.
    asked: Annotated[list[Asked], Field(max_length=MAX_ASKED)] = []

    @model_validator(mode="before")
    @classmethod
    def _void_where_an_update_was_skipped(cls, content: object) -> object:
        """Whatever the file says: records were valid with such steps once, and a hand may write one."""
        steps = content.get("steps") if isinstance(content, dict) else None
        skipped = [each for each in steps if _has_skipped(each)] if isinstance(steps, list) else []
        if not isinstance(content, dict) or content.get("valid") is not True or not skipped:
            return content
        reasons = [f"step {each['step'] + 1}: the optimizer skipped its update" for each in skipped[:_MAX_REASONS]]
        return {**content, "valid": False, "void_reasons": reasons}

    @field_validator("environment")
    @classmethod
    def _allow_listed(cls, value: dict[str, str]) -> dict[str, str]:
        refused = sorted(set(value) - set(allowed_environment(value)))
        if refused:
            raise ValueError(f"{refused[0]!r} is not allow-listed: keep allowed_environment() of it only")
        return value

    @field_validator("expert_load")
    @classmethod
    def _rectangular(cls, value: list[list[int]]) -> list[list[int]]:
        if len({len(layer) for layer in value}) > 1 or [] in value:
            raise ValueError("every layer must count the same experts")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Record:
        self._check_steps()
        self._check_ranks()
        if self.source is None and (self.host is None or any(step.learning_rate is None for step in self.steps)):
            raise ValueError("a record without a source is a run of ours: it states its host and learning rates")
        if self.source is None and self.work.tokens_per_step != self.work.sequence_length * self.work.global_batch:
            raise ValueError("work.tokens_per_step is not sequence_length x global_batch, as in every run of ours")
        micro_batches = self.layout.data * self.work.num_micro_batches
        if self.work.global_batch % micro_batches:
            raise ValueError(f"work.global_batch is not a multiple of data x num_micro_batches = {micro_batches}")
        contradictions.check_recipe(self)
        contradictions.check_day(self)
        contradictions.check_stages(self)
        return self

    def _check_steps(self) -> None:
        numbers = [step.step for step in self.steps]
        if any(later <= earlier for earlier, later in zip(numbers, numbers[1:], strict=False)):
            raise ValueError("steps are not in increasing order")
        if self.valid != (not self.void_reasons):
            raise ValueError("valid must be true exactly when void_reasons is empty")
        if not self.valid:
            return
        if not self.steps:
            raise ValueError("a record without steps cannot be valid")
        for step in self.steps:
            is_unknown = step.loss is None or (step.grad_norm is None and self.source is None)
            if is_unknown and self.lone_rank is None:
                raise ValueError(f"step {step.number} has a loss or grad_norm that is not finite: valid must be false")

    def _check_ranks(self) -> None:
        numbers = [rank.rank for rank in self.ranks]
        expected = set(range(self.layout.world_size))
        if len(set(numbers)) != len(numbers) or not set(numbers) <= expected:
            raise ValueError(f"ranks repeat or exceed world_size {self.layout.world_size}")
        if self.lone_rank is not None and not set(numbers) <= {self.lone_rank.rank} <= expected:
            raise ValueError(f"lone_rank is {self.lone_rank.rank}: ranks holds no other, and it is one of world_size")
        missing = self._ranks_that_say(expected) - set(numbers)
        if self.valid and missing:
            raise ValueError(f"rank {min(missing)} is missing: valid must be false")
        for rank in self.ranks:
            if rank.stage >= self.layout.pipeline:
                raise ValueError(f"rank {rank.rank}: stage {rank.stage} of {self.layout.pipeline} pipeline stages")
            rank.check_lengths(len(self.steps))
            if self.lone_rank is None:  # that counts its sends and receives, which wait for nobody, as kinds alone
                contradictions.check_sums(rank)

    def _ranks_that_say(self, every: set[int]) -> set[int]:
        if self.lone_rank is not None:
            return {self.lone_rank.rank}
        return every if self.source is None else {0}

    def write(self, path: Path) -> None:
        """Write the record as JSON, atomically."""
        write_model(path, self)

    @classmethod
    def read(cls, path: Path) -> Record:
        """Read a record; a ValueError of one line names the file and the field at fault."""
        return read_model(path, cls, max_bytes=MAX_RECORD_BYTES)
