"""The doctor: all checks from the bottom up, each in its own ranks, so that what one breaks does not reach the next."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.doctor import collectives, layer, layout, machine, memory, oracle, speed, training
from bench.doctor.datasheet import BANDWIDTHS
from bench.doctor.findings import Finding, failed, not_run
from bench.doctor.layer import LayerResult
from bench.doctor.reference import on_cpu
from grok1.config.load import ONE_RANK, load_recipe
from grok1.config.recipe import Recipe
from grok1.config.sections import Parallel
from grok1.device.kind import Kind
from grok1.distributed.launch import RankFailedError, launch, preload_in_ranks

CPU_RANKS = 8  # of a laptop; every kind of group of grok1-nano's layout still has two ranks
TOOLS: dict[Kind, str] = {"cpu": "top", "cuda": "nvidia-smi, nvidia-smi topo -m", "npu": "npu-smi info, hccn_tool"}


@dataclass(frozen=True)
class Entries:
    """What ranks run, as "module:function"; tests put faulty ones in their place."""

    speed: str = "bench.doctor.speed:run_rank"
    collectives: str = "bench.doctor.collectives:run_rank"
    layer: str = "bench.doctor.layer:run_rank"
    oracle: str = "grok1.fidelity.verify:run_rank"
    steps: str = "bench.doctor.training:run_rank"
    memory: str = "bench.doctor.memory:run_rank"


@dataclass(frozen=True)
class Patient:
    """What is examined, and how long one check may take before it counts as hanging."""

    kind: Kind
    recipe: Recipe
    ranks: int = 0  # 0: all devices; on a CPU, CPU_RANKS
    dump: Path = oracle.DUMP
    limit_seconds: float = 0.0  # of one start of ranks; 0: 120 on a CPU, 600 elsewhere
    entries: Entries = Entries()


@dataclass
class Doctor:
    """One examination. `say` hears what is about to run."""

    patient: Patient
    say: Callable[[str], None] = lambda what: None
    machine: machine.Machine = field(default_factory=lambda: machine.Machine("cpu"))
    layout: Parallel = field(default_factory=lambda: Parallel(world_size=1))
    _peak_bytes: int = 0

    def run(self, checks: Sequence[Check] | None = None) -> Iterator[Finding]:
        """Each finding as soon as it is known; of all CHECKS, unless some are given."""
        preload_in_ranks("grok1.training.run", "bench.doctor.layer", "grok1.fidelity.verify")
        self.say("driver, software, devices")
        self.machine = machine.examine(self.patient.kind)
        blocked: dict[str, str] = {}  # by check: the check whose failure makes it meaningless
        for check in CHECKS if checks is None else checks:
            cause = next((blocked[each] for each in check.needs if each in blocked), "")
            findings = [not_run(check.name, f"{cause} failed")] if cause else _tried(check, self)
            for finding in findings:
                if finding.blocks:
                    cause = cause or finding.check
                yield finding
            if cause:
                blocked[check.name] = cause

    # ---- the checks, lowest first ----------------------------------------------------------------------

    def driver(self) -> Iterator[Finding]:
        yield machine.judge_driver(self.machine)

    def software(self) -> Iterator[Finding]:
        kind = self.patient.kind
        yield machine.judge_software(self.machine, machine.project_ranges(kind), machine.pins_for(kind))

    def devices(self) -> Iterator[Finding]:
        wanted = self.patient.ranks or (CPU_RANKS if self.patient.kind == "cpu" else self.machine.devices)
        self.layout = layout.cut_layout(self.patient.recipe, max(1, wanted))
        yield machine.judge_devices(self.machine, self.patient.ranks or self.layout.world_size)

    def speed(self) -> Iterator[Finding]:
        from grok1.device.accelerator import PEAKS

        self.say("matrix products and copies")
        alone = 1 if self.patient.kind == "cpu" else self.layout.world_size
        found = self._events(None, _ranks_only(alone), self.patient.entries.speed)
        name, tool = self.machine.device_name, TOOLS[self.patient.kind]
        yield speed.judge("matrix products", found, PEAKS.get(name), tool)
        yield speed.judge("memory bandwidth", found, BANDWIDTHS.get(name), tool)

    def collectives(self) -> Iterator[Finding]:
        if self.layout.world_size == 1:
            yield not_run("collectives", "one rank talks to nobody")
            return
        self.say(f"collectives, {layout.short(self.layout)}")
        small = self._nano("fp32")
        found = self._events(small, small, self.patient.entries.collectives)
        yield from collectives.judge(found, self.patient.kind != "cpu", TOOLS[self.patient.kind])

    def layer(self) -> Iterator[Finding]:
        for dtype in self._dtypes():
            self.say(f"one layer in {dtype}, on {self.patient.kind} and on the CPU")
            ours = layout.one_layer(self.patient.recipe, dtype)
            found = self._launched(ours, ours, self.patient.entries.layer)
            plain = layout.one_layer(self.patient.recipe, dtype, layout.PLAIN)
            due = on_cpu("layer", plain, self.patient.kind)
            yield layer.judge(dtype, found, LayerResult(due["output"], due["gradient"]))

    def oracle(self) -> Iterator[Finding]:
        from grok1.fidelity.dump import check_dump
        from grok1.fidelity.dump_recipe import oracle_recipe
        from grok1.fidelity.job import VerifyJob

        for dtype in ("fp32", "bf16"):
            if not self.patient.dump.is_file():
                yield oracle.missing(self.patient.dump, dtype)
                continue
            self.say(f"the oracle in {dtype}")
            recipe = oracle_recipe(check_dump(self.patient.dump.absolute()), [f"training.dtype={dtype}"])
            job = VerifyJob(recipe, self.patient.dump.absolute())
            yield oracle.judge(dtype, self._launched(job, recipe, self.patient.entries.oracle))

    def steps(self) -> Iterator[Finding]:
        from grok1.training.job import prepare

        due = None
        for dtype in self._dtypes():
            self.say(f"ten steps in {dtype}, {layout.short(self.layout)}")
            job = prepare(self._nano(dtype), layout.STEPS)
            found = sorted(self._events(job, job.recipe, self.patient.entries.steps), key=lambda each: each.rank)
            due = due or on_cpu("steps", layout.reference_nano(self.layout), self.patient.kind)
            self._peak_bytes = max(each.peak_bytes for each in found)
            yield training.judge_steps(dtype, found, due["losses"].tolist(), due["grad_norms"].tolist())
            yield training.judge_replicas(dtype, found)

    def memory(self) -> Iterator[Finding]:
        if self.patient.kind == "cpu":
            yield memory.resident(self._peak_bytes)
            return
        self.say("memory of a step, and its ledger")
        job = layout.memory_job(self.patient.recipe, self.layout)
        found = self._events(job, job, self.patient.entries.memory)
        counted = on_cpu("ledger", job, self.patient.kind)
        by_stage = dict(zip(counted["stages"].tolist(), counted["peak_bytes"].tolist(), strict=True))
        yield memory.judge(found, by_stage)

    # ---- running ranks ---------------------------------------------------------------------------------

    def _dtypes(self) -> tuple[str, ...]:
        """fp32 is the sharper check, bf16 the one of the job; both, unless the job itself is fp32."""
        return ("fp32",) if self.patient.recipe.training.dtype == "fp32" else ("fp32", "bf16")

    def _nano(self, dtype: str) -> Recipe:
        return layout.nano(self.patient.recipe, self.layout, dtype)

    def _events(self, job: object, recipe: Recipe, entry: str) -> list[Any]:
        events: list[Any] = []
        self._launched(job, recipe, entry, events.append)
        if not events:  # silence is no pass
            raise RuntimeError("the ranks ended well and measured nothing")
        return events

    def _launched(
        self, job: object, recipe: Recipe, entry: str, on_event: Callable[[Any], None] = lambda event: None
    ) -> Any:
        limit = self.patient.limit_seconds or (120.0 if self.patient.kind == "cpu" else 600.0)
        with _deadline(limit):
            return launch(job, recipe, self.patient.kind, on_event=on_event, entry=entry, timeout_seconds=limit)


@dataclass(frozen=True)
class Check:
    """`needs` are the checks without which this one means nothing."""

    name: str
    needs: tuple[str, ...]
    run: Callable[[Doctor], Iterator[Finding]]


CHECKS = (
    Check("driver", (), Doctor.driver),
    Check("software", (), Doctor.software),
    Check("devices", ("driver", "software"), Doctor.devices),
    Check("speed", ("devices",), Doctor.speed),
    Check("collectives", ("speed",), Doctor.collectives),
    Check("layer", ("speed",), Doctor.layer),
    Check("oracle", ("layer",), Doctor.oracle),
    Check("ten steps", ("collectives", "oracle"), Doctor.steps),
    Check("memory", ("ten steps",), Doctor.memory),
)

_CRASH_REMEDY = (
    "the last line above is of the rank that failed first; the message is explained in docs/ascend.md or docs/gpus.md"
)
_HANG_REMEDY = (
    "a rank waits for another that does not come: check the links and the firewall between the processors, then repeat "
    "with fewer ranks (--ranks) to find the one"
)


def _tried(check: Check, doctor: Doctor) -> Iterator[Finding]:
    """The check's findings; an error of its ranks is one that fails."""
    try:
        yield from check.run(doctor)
    except RankFailedError as error:
        last = (error.details.strip().splitlines() or ["it said nothing"])[-1]
        yield failed(check.name, f"rank {error.rank} failed: {last}", _CRASH_REMEDY)
    except TimeoutError as error:
        yield failed(check.name, str(error), _HANG_REMEDY)
    except (ValueError, RuntimeError) as error:
        yield failed(check.name, " ".join(str(error).split()), _CRASH_REMEDY)


@contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    """Raises TimeoutError in the main thread when the time is over; a timer that was set before goes on afterwards."""

    def ring(_signal: int, _frame: object) -> None:
        raise TimeoutError(f"no answer within {seconds:g} s")

    handler = signal.signal(signal.SIGALRM, ring)
    started = time.monotonic()
    left, _ = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, max(0.1, left - (time.monotonic() - started)) if left else 0.0)
        signal.signal(signal.SIGALRM, handler)


def _ranks_only(count: int) -> Recipe:
    """A recipe of so many ranks that do not talk, and of next to no memory."""
    words = [*ONE_RANK, f"parallel.world_size={count}", f"training.global_batch={count}"]
    return load_recipe("grok1-nano", words)
