"""One rank of a job that ran without the others: the tier between the ledger and the whole job. No torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from bench.records.fields import Count, Strict


class LoneRank(Strict):
    """A run of one rank of the layout without the others, on the sizes of the whole job.

    Its collectives and sends returned at once and moved nothing: what it computed means nothing, and its steps are its
    own work alone. `routing_shares` are each expert's of the (token, expert) pairs, as planned; empty: all alike.
    """

    rank: Count
    routing_shares: Annotated[list[Annotated[float, Field(ge=0, le=1)]], Field(max_length=4096)] = []

    @property
    def told(self) -> str:
        """In words, as part of a key."""
        uneven = f", routed {', '.join(f'{share:g}' for share in self.routing_shares)}" if self.routing_shares else ""
        return f"rank {self.rank} alone{uneven}"


def told_tier(lone_rank: LoneRank | None) -> str:
    """What ran, in words: runs of different tiers are never compared."""
    return "the whole job" if lone_rank is None else lone_rank.told
