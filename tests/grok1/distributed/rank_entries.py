"""What a rank may do, go wrong mostly, as entries for the launcher."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import threading
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from grok1.distributed.groups import joined
from grok1.distributed.progress import PROGRESS
from grok1.training import assembly, profiling, run, step

_IMPORTED_BY = os.getpid()

LONG_SECONDS = 3600  # longer than any test may take: a run that waits for such a rank is ended by pytest's limit


def raise_on_rank_one(_job: Any, where: Any, _emit: Any) -> None:
    """Rank 1 raises; the others wait, as they would in a collective."""
    if where.rank == 1:
        raise RuntimeError("the sky fell on rank one")
    time.sleep(LONG_SECONDS)


def die_on_rank_one(_job: Any, where: Any, _emit: Any) -> None:
    """Rank 1 is killed, as by the out-of-memory killer."""
    if where.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(LONG_SECONDS)


def die_while_it_profiles(_job: Any, where: Any, emit: Any) -> None:
    """Rank 1 is killed while a profiler keeps files of its own."""
    if where.rank == 1:
        recording = profiling._Recording()
        recording.start()
        emit(str(recording._folder))
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(LONG_SECONDS)


def refuse(_job: Any, _where: Any, _emit: Any) -> None:
    """A rank finds the user's input wrong."""
    raise ValueError("the corpus is empty; add text")


def wait_for_ever(_job: Any, where: Any, emit: Any) -> None:
    """Rank 0 says its process id, then all hang."""
    emit({"pid": os.getpid(), "rank": where.rank})
    time.sleep(600)


def meet(recipe: Any, where: Any, _emit: Any) -> int:
    """How many ranks have met."""
    with joined(where, recipe.parallel, 0) as ranks:
        torch.distributed.barrier()
        return int(ranks.world_size)


def meet_and_say_the_process(recipe: Any, where: Any, emit: Any) -> None:
    """Rank 0 says its process id once all have met, and stays until it gets SIGUSR2."""
    seen = threading.Event()
    signal.signal(signal.SIGUSR2, lambda *_: seen.set())
    with joined(where, recipe.parallel, 0):
        torch.distributed.barrier()
        if where.rank == 0:
            emit(os.getpid())
            seen.wait(LONG_SECONDS)
        torch.distributed.barrier()


def hang_on_rank_one(recipe: Any, where: Any, _emit: Any) -> None:
    """In the third step rank 1 does something else for ever, and the other waits for it."""
    with joined(where, recipe.parallel, 0):
        for number in range(3):
            with PROGRESS.step(number):
                if number == 2 and where.rank == 1:
                    time.sleep(600)
                torch.distributed.barrier()


def stop_on_rank_one(_job: Any, where: Any, _emit: Any) -> None:
    """Rank 1 is stopped before any step."""
    if where.rank == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(600)


def be_slow_for_good_reasons(_job: Any, where: Any, _emit: Any) -> str:
    """A first step that compiles, and a save, each take longer than the limit that the test gives."""
    for number, seconds in enumerate((4.0, 0.1, 0.1)):
        with PROGRESS.step(number):
            time.sleep(seconds)
    time.sleep(4.0)
    return "done"


def describe_threads(job: Any, where: Any, _emit: Any) -> dict[str, Any]:
    """Rank 0's threads once its groups are built: how many in all, the schedules; and how many groups it is in."""
    with joined(where, job.recipe.parallel, 0):
        threads = list(Path("/proc/self/task").iterdir())
        return {
            "threads": len(threads),
            "groups": len(dist.distributed_c10d._world.pg_map),
            "policies": sorted({os.sched_getscheduler(int(thread.name)) for thread in threads}),
        }


def train_and_say_the_weights(job: Any, where: Any, emit: Any) -> Any:
    """Each rank says a digest of its trained weights."""
    made: list[step.Stepper] = []

    class Kept(step.Stepper):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            made.append(self)

    setattr(assembly, "Stepper", Kept)  # noqa: B010  # this process runs nothing else
    result = run.run_rank(job, where, emit)
    digest = hashlib.sha256()
    for name, weight in made[0].model.named_parameters():
        digest.update(name.encode() + weight.detach().contiguous().view(torch.uint8).numpy().tobytes())
    emit({"rank": where.rank, "weights": digest.hexdigest()})
    return result


def say_what_was_imported(job: Any, where: Any, emit: Any) -> Any:
    """What a rank imported itself, whether this module too, and whether it has torch's compiler."""
    before = set(sys.modules)
    result = run.run_rank(job, where, emit)
    emit(
        {
            "own": os.getpid() == _IMPORTED_BY,
            "imported": sorted(set(sys.modules) - before),
            "compiler": "torch._inductor.compile_fx" in sys.modules,
        }
    )
    return result


def train_in_small_buckets(job: Any, where: Any, emit: Any) -> Any:
    """As above, with gradients in many buckets where they are bucketed; and when their reductions started."""
    from megatron.core.distributed import param_and_grad_buffer

    from grok1.model import model

    starts: Counter[str] = Counter()
    start = param_and_grad_buffer._ParamAndGradBucketGroup.start_grad_sync
    finalize = step.Stepper._finalize_gradients
    ended: list[bool] = []

    def noted(group: Any, **options: Any) -> None:
        starts["after the backward" if ended else "during the backward"] += 1
        start(group, **options)

    def finalized(*args: Any, **kwargs: Any) -> None:
        ended.append(True)
        finalize(*args, **kwargs)
        ended.clear()

    param_and_grad_buffer._ParamAndGradBucketGroup.start_grad_sync = noted
    step.Stepper._finalize_gradients = finalized  # type: ignore[method-assign]  # this process runs nothing else
    config: Any = vars(model)["DistributedDataParallelConfig"]
    vars(model)["DistributedDataParallelConfig"] = partial(config, bucket_size=2_000)
    result = train_and_say_the_weights(job, where, emit)
    emit({"rank": where.rank, "starts": dict(starts)})
    return result
