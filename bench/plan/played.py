"""A step whose pipeline is played through, for finalists, and to see what the formula leaves out. No torch.

The formula takes each stage's wait as (p - 1)/v of the mean stage. Where stages differ, by the head or by layers, what
they wait is decided by which of them feeds the slowest. A transfer between stages holds the stage that sends.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from bench.plan.device import Device
from bench.plan.layouts import Floats, Ints
from bench.plan.predict import OF_MICRO_BATCH, Jobs, PlaceTimes, Prediction, launches_of, place_times, predict
from bench.plan.schedule import Played, play
from bench.plan.work import Attention, Exchange, Product, Traffic, Work

_ENDS = ("embedding", "head", "loss")  # components of one chunk alone, the first or the last
_ROUNDING = 1e-9  # of a step: sums of other orders differ by less
Figure = Product | Attention | Traffic | Exchange


def predict_played(work: Work, device: Device, dtype: str | None = None) -> Prediction:
    """As `predict`, with each job's schedule played: seconds a job, so for few. On shared cores it is `predict`."""
    found = predict(work, device, dtype)
    if device.cores:
        return found
    times, jobs = place_times(work, device, dtype), Jobs(work)
    busy = jobs.micro_batches * jobs.most(times.of_micro_batch)
    seconds = np.array([played(work, device, job, dtype).seconds for job in range(len(jobs.layout))])
    waits = np.where(seconds > busy * (1 + _ROUNDING), seconds - busy, 0.0)
    terms = found.terms | {"bubble": waits}
    return Prediction(found.layout, np.asarray(sum(terms.values())), terms)


def played(work: Work, device: Device, job: int, dtype: str | None = None) -> Played:
    """The schedule of the job at that position, with the times of its stages."""
    jobs = Jobs(work)
    whole = place_times(work, device, dtype)
    forward = _passing(work, whole, device, dtype)
    ends = place_times(_part(work, _is_end), device, dtype)
    end_forward = place_times(_part(work, lambda each: _is_end(each) and _is_forward(each)), device, dtype)
    chunks, stages = int(jobs.chunks[job]), int(jobs.pipeline[job])
    rows = _place_of_stages(jobs, job)
    forward_SC = _of_chunks(forward[rows], _device_seconds(end_forward)[rows], chunks)
    both_SC = _of_chunks(whole.of_micro_batch[rows], _device_seconds(ends)[rows], chunks)
    assert len(forward_SC) == stages
    return play(forward_SC, np.maximum(0.0, both_SC - forward_SC), 0.0, int(jobs.micro_batches[job]))


def _part(work: Work, keeps: Callable[[Figure], bool]) -> Work:
    """The work of these figures alone."""
    return replace(
        work,
        products=tuple(filter(keeps, work.products)),
        attention=tuple(filter(keeps, work.attention)),
        traffic=tuple(filter(keeps, work.traffic)),
        exchanges=tuple(filter(keeps, work.exchanges)),
    )


def _is_forward(figure: Figure) -> bool:
    return figure.phase == "forward"


def _is_end(figure: Figure) -> bool:
    return getattr(figure, "component", "") in _ENDS


def _device_seconds(times: PlaceTimes) -> Floats:
    """Without the host's."""
    return np.asarray(sum(times.micro_batch[name] for name in OF_MICRO_BATCH if name != "host"))


def _passing(work: Work, whole: PlaceTimes, device: Device, dtype: str | None) -> Floats:
    """A forward's seconds of a micro-batch: its launches of what all launches take, of the rest as the device works.

    So, a device that works faster while the host launches takes no time from one pass and gives it to the other.
    Transfers between stages are shared as all else.
    """
    part = _part(work, _is_forward)
    forward = _device_seconds(place_times(part, device, dtype))
    working = _device_seconds(whole) - whole.micro_batch["pipeline"]
    passes = _part(work, lambda each: each.phase != "pipeline")
    launches, of_forward = launches_of(passes, device), launches_of(part, device)
    launching = launches_of(work, device) * device.host.seconds_a_call.value
    launching = launching + work.layers * device.efficiency.layer_seconds.value
    rest = whole.of_micro_batch - launching
    return np.asarray(launching * _share(of_forward, launches) + rest * _share(forward, working))


def _share(part: Floats | Ints, whole: Floats | Ints) -> Floats:
    """What a part is of the whole; nothing of nothing."""
    return np.divide(part, whole, out=np.zeros(len(whole)), where=whole > 0)


def _place_of_stages(jobs: Jobs, job: int) -> list[int]:
    """The place that stands for each stage."""
    first = int(jobs.start[job])
    places = np.flatnonzero(jobs.of_place == job)
    return [first + at for at, count in enumerate(jobs.stages[places]) for _ in range(int(count))]


def _of_chunks(stage_S: Floats, end_S: Floats, chunks: int) -> Floats:
    """[stages, chunks] seconds: a stage's evenly, but for what its end has, which is in the first or the last chunk."""
    found = np.repeat(((stage_S - end_S) / chunks)[:, None], chunks, axis=1)
    if len(stage_S) > 1:
        found[0, 0] += end_S[0]
        found[-1, -1] += end_S[-1]
    else:
        found[0] += end_S[0] / chunks
    return found
