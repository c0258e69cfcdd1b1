"""What a recorded run is expected to take: its recipe's own layout by a device profile, as data for reports. No torch.

Only where a profile is named, or is that of the record's device, is anything expected.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from bench.plan.calibration_file import read_calibration
from bench.plan.certainty import Certainty
from bench.plan.chips import profile_of_device
from bench.plan.collectives import exchange_seconds
from bench.plan.device import Device, device_names, load_device
from bench.plan.grok1_work import work_at, work_of
from bench.plan.groups import groups_of
from bench.plan.intervals import LEVEL
from bench.plan.layouts import Places, layouts_of
from bench.plan.played import predict_played
from bench.plan.predict import place_times
from bench.plan.whole_steps import step_factors
from bench.plan.work import Work
from bench.records.expectation import Expectation, ExpectedExchange, is_in_step
from bench.records.lone_rank import LoneRank
from bench.records.record import Record
from grok1.config.load import build_recipe
from grok1.config.recipe import Recipe
from grok1.config.refusals import quoted

_NO_ROWS = "no interval: the profile was measured on a machine, of which no published row is"
_SHARED_CORES = "ranks share cores: while one waits another computes, so that the step alone is compared"
_OF_WHOLE_JOBS = "these rows are of whole jobs: none is of a rank alone"


def check_device(record: Record, device: Device) -> None:
    """Refuse a profile that cannot be of the device on which the run was recorded.

    A profile of the user's own is believed, but for a CPU's where an accelerator ran, or the reverse.

    Raises:
        ValueError: and what ran.
    """
    ran, known = record.device, profile_of_device(record.device.name)
    is_other_chip = known is not None and known != device.name and device.name in device_names()
    if is_other_chip or (ran.kind == "cpu") != (device.cores is not None):
        raise ValueError(
            f"record {record.id} ran on {quoted(ran.name)}, and the profile is {device.name}: take that of its device"
        )


def recipe_of_record(record: Record) -> Recipe | None:
    """The recipe that a record holds; None of a log that was ingested without one, or of another time's recipe."""
    fields = dict(record.recipe.resolved)
    if not {"model", "parallel", "training"} <= fields.keys():
        return None
    try:
        recipe = build_recipe(f"recipe of record {record.id}", fields)
    except ValueError:
        return None
    return recipe if recipe.hash() == record.recipe.hash else None


def expectation_of(record: Record, profile: str | None = None) -> Expectation:
    """What that record's run is expected to take.

    Args:
        record: of a run of ours, or of a log ingested with its recipe.
        profile: the name or file of a device profile; None: the shipped one of the record's device.

    Raises:
        ValueError: nothing can be expected of it, and why: no profile, one that lacks a figure, or no recipe.
    """
    named = profile or profile_of_device(record.device.name)
    if named is None:
        raise ValueError(
            f"no device profile is known to be of {quoted(record.device.name)}; name one with --device-profile"
        )
    recipe = recipe_of_record(record)
    if recipe is None:
        raise ValueError(
            f"record {record.id} of {quoted(record.case)} holds no recipe of this version: ingest its log with "
            "--recipe, or run it again"
        )
    return expectation_by(record, recipe, load_device(named))


def known_expectations(records: Iterable[Record], profile: str | None = None) -> list[Expectation]:
    """What is expected of these runs, once a kind: nothing of those whose device has no profile, nor of void ones.

    Raises:
        ValueError: a named profile cannot say.
    """
    found: list[Expectation] = []
    for record in records:
        if not record.valid or any(each.is_of(record) for each in found):
            continue
        try:
            found.append(expectation_of(record, profile))
        except ValueError:
            if profile is not None:
                raise
    return found


def expectation_by(record: Record, recipe: Recipe, device: Device) -> Expectation:
    """The same, of a recipe and a profile at hand."""
    if record.lone_rank is not None:
        work = rank_work(recipe, record.lone_rank)
        return _expectation(record, recipe, device, _terms_of_rank(work, device), _exchanges(work, 0, device))
    work = work_of(layouts_of(recipe))
    terms = {name: float(seconds[0]) for name, seconds in predict_played(work, device).terms.items()}
    slowest = int(place_times(work, device).of_micro_batch.argmax())
    return _expectation(record, recipe, device, terms, _exchanges(work, slowest, device))


def check_profile(recipe: Recipe, lone_rank: LoneRank, profile: str) -> None:
    """Refuse a profile that cannot say what that rank takes, before it runs."""
    place_times(rank_work(recipe, lone_rank), load_device(profile))


def rank_work(recipe: Recipe, lone_rank: LoneRank) -> Work:
    """What that rank does in a step, as the one place of a work."""
    layouts, rank = layouts_of(recipe), lone_rank.rank
    group = groups_of(layouts)["pipeline"]
    stage = np.array([rank // int(group.stride[0]) % int(group.ranks[0])], np.int64)
    return work_at(Places(layouts, np.zeros(1, np.int64), stage), _own_experts_first(recipe, lone_rank))


def _own_experts_first(recipe: Recipe, lone_rank: LoneRank) -> list[float] | None:
    """The routing's shares in the order in which this rank's experts are the first rank's."""
    shares, parallel = lone_rank.routing_shares, recipe.parallel
    first = lone_rank.rank // parallel.expert_tensor % parallel.expert * (len(shares) // parallel.expert)
    return [*shares[first:], *shares[:first]] or None


def _terms_of_rank(work: Work, device: Device) -> dict[str, float]:
    times, count = place_times(work, device), int(work.micro_batches[0])
    terms = {name: count * float(seconds[0]) for name, seconds in times.micro_batch.items()}
    terms |= {name: float(seconds[0]) for name, seconds in times.step.items()}
    terms["host"] += device.host.seconds_a_step.value
    factor = float(step_factors(device, np.ones(1, np.int64))[0])  # it runs alone
    return {name: factor * seconds for name, seconds in terms.items()}


def _expectation(
    record: Record, recipe: Recipe, device: Device, terms: dict[str, float], exchanges: list[ExpectedExchange]
) -> Expectation:
    """With the interval of the step, in proportion where the record is of a rank alone."""
    seconds = sum(value for name, value in terms.items() if is_in_step(record.lone_rank, name))
    certainty, layouts = Certainty(device, read_calibration()), layouts_of(recipe)
    interval = certainty.intervals(layouts, np.array([seconds]), [0])[0] if certainty.speaks else None
    ranks = 1 if record.lone_rank is not None else record.layout.world_size
    shares_cores = device.cores is not None and ranks > device.cores
    basis = [_NO_ROWS] if interval is None else [*interval.sentences, *([_OF_WHOLE_JOBS] if record.lone_rank else [])]
    return Expectation(
        recipe_hash=record.recipe.hash,
        device_name=record.device.name,
        lone_rank=record.lone_rank,
        profile=device.name,
        step_seconds=seconds,
        low_seconds=interval.low if interval else None,
        high_seconds=interval.high if interval else None,
        level=LEVEL,
        terms=terms,
        basis=[*basis, *([_SHARED_CORES] if shares_cores else [])],
        ranks_share_cores=shares_cores,
        exchanges=exchanges,
    )


def _exchanges(work: Work, place: int, device: Device) -> list[ExpectedExchange]:
    """What a place exchanges in a step, by group and operation, whether other work hides it or not."""
    found: dict[str, tuple[int, int, float]] = {}
    for each in work.exchanges:
        times = int(work.micro_batches[place]) if each.per == "micro_batch" else 1
        calls, size, seconds = found.get(name := f"{each.group} {each.operation}", (0, 0, 0.0))
        more = float(exchange_seconds(each, device, work.world_size)[place])
        found[name] = (
            calls + times * int(each.calls[place]),
            size + times * int(each.bytes[place]),
            seconds + times * more,
        )
    return [ExpectedExchange(name=name, calls=of[0], bytes=of[1], seconds=of[2]) for name, of in found.items() if of[0]]
