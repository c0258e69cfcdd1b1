"""A step whose pipeline is played through, for finalists, and to see what the formula leaves out. No torch.

The formula takes each stage's wait as (p - 1)/v of the mean stage. Where stages differ, by the head or by layers, what
they wait is decided by which of them feeds the slowest. A transfer between stages holds the stage that sends.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from bench.plan.device import Device
from bench.plan.layouts import Floats
from bench.plan.predict import OF_MICRO_BATCH, Jobs, PlaceTimes, Prediction, place_times, predict
from bench.plan.schedule import Played, play
from bench.plan.work import Attention, Exchange, Product, Traffic, Work

_ENDS = ("embedding", "head", "loss")  # components of one chunk alone, the first or the last
Figure = Product | Attention | Traffic | Exchange


def predict_played(work: Work, device: Device, dtype: str | None = None) -> Prediction:
    """As `predict`, with each job's schedule played: seconds a job, so for few. On shared cores it is `predict`."""
    found = predict(work, device, dtype)
    if device.cores:
        return found
    times, jobs = place_times(work, device, dtype), Jobs(work)
    busy = jobs.micro_batches * jobs.most(times.of_micro_batch)
    seconds = np.array([played(work, device, job, dtype).seconds for job in range(len(jobs.layout))])
    terms = found.terms | {"bubble": np.maximum(0.0, seconds - busy)}
    return Prediction(found.layout, np.asarray(sum(terms.values())), terms)


def played(work: Work, device: Device, job: int, dtype: str | None = None) -> Played:
    """The schedule of the job at that position, with the times of its stages."""
    jobs = Jobs(work)
    whole = place_times(work, device, dtype)
    forward = _passing(place_times(_part(work, _is_forward), device, dtype), whole)
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


def _passing(forward: PlaceTimes, whole: PlaceTimes) -> Floats:
    """A forward's share of a micro-batch: of what the host and the transfers take, as of the rest."""
    of_pipeline = whole.micro_batch["pipeline"]
    work = _device_seconds(whole) - of_pipeline
    share = np.divide(_device_seconds(forward), work, out=np.zeros(len(work)), where=work > 0)
    return np.asarray(whole.of_micro_batch * share)


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
