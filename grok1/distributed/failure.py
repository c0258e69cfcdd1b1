"""Why a job ends early: what one rank or node says of it, and which of several such reports is the cause. No torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_DETAILS = 12_000  # characters that another node is told
# what gloo, NCCL and HCCL say on a rank whose peer has gone: a consequence, never the cause
_BLAMES_A_PEER = re.compile(
    r"Connection (closed|reset) by peer|[Tt]imed out waiting|Socket Timeout|Broken pipe|remote process exited"
    r"|failed to connect|Connection refused|recvValue failed|sendBytes failed|HCCL.*(timeout|remote)"
)
_ORDER = {"died": 0, "interrupted": 0, "hung": 0, "refused": 1, "undone": 1, "error": 1, "lost": 2, "stalled": 4}
_CONSEQUENCE = 3


class Failure(BaseModel):
    """What went wrong on one rank, or with a whole node. Read from the network too, so it checks itself."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    # died: a process ended without a word; refused: the user's input; undone: what
    # a rank says all of in one line, as of a full disk; lost: a node that is no longer heard;
    # hung: a rank that keeps others waiting; stalled: a node whose ranks all wait
    kind: Literal["died", "interrupted", "refused", "undone", "error", "lost", "hung", "stalled"]
    when: float  # seconds since the epoch, by the clock of the node that says so
    rank: int | None = None  # of the whole job; None: the node as a whole
    node: str = Field(default="", max_length=512)  # as in "node 1 (host, address)"; empty on a job of one machine
    details: str = Field(max_length=MAX_DETAILS)

    def line(self) -> str:
        """The cause in one line: which rank and node, and what."""
        said = (self.details.strip().splitlines() or ["nothing was said"])[-1]
        if self.rank is None:
            return f"{self.node} {said}".strip()
        return f"rank {self.rank} on {self.node} failed: {said}"


def cause(failures: Sequence[Failure]) -> Failure:
    """The one that explains the others: a death or Ctrl-C, then an error of a rank's own, then the earliest."""

    def order(failure: Failure) -> tuple[int, float]:
        last_line = failure.details.rstrip().rpartition("\n")[2]
        if failure.kind == "error" and _BLAMES_A_PEER.search(last_line):
            return _CONSEQUENCE, failure.when
        return _ORDER[failure.kind], failure.when

    return min(failures, key=order)
