"""What the machine did to a run, known from outside of the program: one question for a baseline's and for new runs.

How a run's own steps vary, drift or stall may be the program's doing, so that it is no reason to set a run aside: that
would hide the regression which makes them vary. What the quota, the hypervisor and other jobs took is not the program's
doing. A baseline refuses such runs (bench.baselines.noise), and a verdict on such runs says so. Pure functions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bench.records.record import Host, Record

MAX_LOST_PERCENT = 1.0  # of the run's time, and of its cores' time


def disturbed(record: Record) -> list[str]:
    """What was taken from this run, a sentence each; empty where nothing was, or nothing is known.

    A record of a foreign log has no host, so that nothing is known of it.
    """
    host = record.host
    if host is None:
        return []
    return [*_lost(record, host), *_busy(record, host)]


def undisturbed(records: Sequence[Record], least: int) -> list[int]:
    """The places of the runs to judge: those that were not disturbed, as a baseline's were not.

    Where fewer than `least` are left, all: then a verdict on disturbed runs is better than none, and says so.
    """
    kept = [place for place, record in enumerate(records) if not disturbed(record)]
    return kept if len(kept) >= least else list(range(len(records)))


def told(records: Sequence[Record], left_out: int) -> str:
    """What a verdict says of its own runs that were disturbed; empty where none was."""
    found = [(record, why) for record in records if (why := disturbed(record))]
    if not found:
        return ""
    record, why = found[0]
    were = "was" if len(found) == 1 else "were"
    return f"{len(found)} of {len(records)} runs {were} disturbed from outside (run {record.id[:8]}: {why[0]}); " + (
        "what was disturbed is left out"
        if left_out
        else "before you trust this, run them again on a machine that is free"
    )


def _lost(record: Record, host: Host) -> Iterator[str]:
    throttled, stolen = host.throttled_seconds or 0.0, host.stolen_seconds or 0.0
    if not throttled and not stolen:
        return  # as of most runs, whose steps then need not be added up
    slowest = (max(times) for times in zip(*(rank.step_seconds for rank in record.ranks), strict=True))
    seconds = sum(slowest) + (record.startup_seconds or 0.0)
    if 100 * throttled > MAX_LOST_PERCENT * seconds:
        yield (
            f"throttled for {throttled:.4g} s of a run of {seconds:.4g} s by its CPU quota, "
            f"more than the {MAX_LOST_PERCENT:g} % allowed"
        )
    if 100 * stolen > MAX_LOST_PERCENT * seconds * host.cores:
        yield (
            f"the hypervisor stole {stolen:.4g} s of {host.cores} cores x {seconds:.4g} s, "
            f"more than the {MAX_LOST_PERCENT:g} % allowed"
        )


def _busy(record: Record, host: Host) -> Iterator[str]:
    """The load that this job's run before leaves behind, about one a rank, is not the work of others."""
    ranks = record.layout.ranks_per_node
    if record.device.kind == "cpu" and host.load_average_1m > host.cores + ranks:
        yield (
            f"the load average before the start was {host.load_average_1m:.1f}, more than {host.cores} cores and an "
            f"earlier run of {ranks} rank{'s' * (ranks > 1)} explain: others used this machine"
        )
