"""A real run of a job, as short as it can be: wall seconds of each step, and every rank's processor seconds.

Runs that stand beside predictions are told EVEN_ROUTING, because even routing is what is predicted. In the first steps
of grok1-nano, tiny and small a learned router leaves a third of the experts without a token, and what nobody computes
takes no time: a step of grok1-tiny took 0.81 of one with even routing.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from grok1.distributed.rendezvous import Rendezvous
from grok1.training.job import Job

EVEN_ROUTING = "training.routing=random"
_WARM_UP = 2


def run_rank(job: Job, where: Rendezvous, _emit: Callable[[object], None]) -> dict[str, list[float]] | None:
    """ "seconds" of each step after the warm-up, and "processor_seconds" of each, summed over ranks; of rank 0."""
    import torch.distributed as dist

    from grok1.training.assembly import build_stepper, joined_with_data

    with joined_with_data(job, where) as (ranks, batches):
        stepper = build_stepper(job.recipe, ranks, batches)
        seconds, own = [], []
        for step in range(_WARM_UP + job.num_steps):
            dist.barrier()
            start, processor = time.perf_counter(), time.process_time()
            stepper.run(step)
            seconds.append(time.perf_counter() - start)
            own.append(time.process_time() - processor)
        every: list[list[float]] = [[] for _ in range(ranks.world_size)]
        dist.all_gather_object(every, own)
        if ranks.rank:
            return None
        summed = [sum(each) for each in zip(*every, strict=True)]
        return {"seconds": seconds[_WARM_UP:], "processor_seconds": summed[_WARM_UP:]}
