"""What was timed on the very device that a profile is of: operators by shape, collectives by size of group. No torch.

`python -m bench calibrate` writes these tables. Times are of one call and of one rank: processor time where ranks share
cores, so that they can be added up over ranks.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from bench.records.fields import Strict

_Seconds = Annotated[float, Field(ge=1e-12, le=1e4)]
_Rate = Annotated[float, Field(ge=1, le=1e20)]
_Latency = Annotated[float, Field(ge=0, le=1e4)]
_Size = Annotated[int, Field(ge=1, le=2**40)]

# several names of one exchange, as megatron's lines and the ledger call them
_ALIKE = {
    "_all_gather_base": "all_gather_into_tensor",
    "all_gather": "all_gather_into_tensor",
    "_reduce_scatter_base": "reduce_scatter_tensor",
    "reduce_scatter": "reduce_scatter_tensor",
    "broadcast": "all_reduce",
    "receive": "send",
}


def same_exchange(operation: str) -> str:
    """The one name under which an exchange is timed."""
    return _ALIKE.get(operation, operation)


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("holds a character that is not printable")
    return text


Words = Annotated[str, Field(min_length=1, max_length=500), AfterValidator(_printable)]


class TimedProduct(Strict):
    """A matrix product [rows, depth] x [depth, columns]."""

    rows: _Size
    columns: _Size
    depth: _Size
    seconds: _Seconds


class TimedAttention(Strict):
    """A causal attention core; FLOPs as the ledger counts them."""

    phase: Words  # "forward" or "backward"; recomputing is as forward
    flops: _Size
    seconds: _Seconds


class TimedTraffic(Strict):
    """Operators of a component in a phase that move bytes: what they take by what they carry and by call."""

    component: Words
    phase: Words
    bytes_a_second: _Rate
    call_seconds: _Latency


class TimedOperator(Strict):
    """One operator with one set of shapes, strides, types and arguments: the seconds of one call."""

    signature: Words
    kind: Words  # the operator and how its operands lie: calls of one kind are interpolated among each other
    flops: Annotated[int, Field(ge=0, le=2**62)]  # matrix and vector FLOPs, as the ledger counts them
    bytes: Annotated[int, Field(ge=0, le=2**62)]  # read and written
    seconds: _Seconds


class TimedCollective(Strict):
    """A collective on a group of so many ranks: call_seconds + bytes / bytes_a_second; bytes of its larger side.

    Where ranks share cores, seconds are a rank's share of them: wall seconds x cores / ranks of the job that measured.
    """

    operation: Words  # as the ledger names it: all_gather_into_tensor, send, ...
    ranks: Annotated[int, Field(ge=2, le=65_536)]
    call_seconds: _Latency
    bytes_a_second: _Rate
    job_ranks: Annotated[int, Field(ge=2, le=65_536)] | None = None  # of the job that measured; all were alive
    residual: _Latency  # median of |log(measured / fitted)| over the sizes that were timed


class Crowding(Strict):
    """How much longer than alone ranks take that run beside each other: runs over their predictions without it.

    Of ranks that share cores all but the bytes of exchanges, which take what they took when they were timed: calls of
    them count nothing there, since who waits leaves its core to others. Else `factor` is of these calls.
    """

    job_ranks: Annotated[int, Field(ge=2, le=65_536)]
    factor: Annotated[float, Field(ge=0.1, le=20.0)]
    computing_factor: Annotated[float, Field(ge=0.5, le=2.0)] = 1.0  # where each rank has a core


class WholeSteps(Strict):
    """What steps of jobs of so many ranks took, over what the closed forms of a plan make of them: a geometric mean."""

    job_ranks: Annotated[int, Field(ge=1, le=65_536)]
    factor: Annotated[float, Field(ge=0.1, le=20.0)]


class Measured(Strict):
    """Tables of one device. What is not in them is computed from the profile's rates and efficiencies."""

    source: Words  # machine, versions, when
    products: Annotated[list[TimedProduct], Field(max_length=5000)] = []
    attention: Annotated[list[TimedAttention], Field(max_length=1000)] = []
    traffic: Annotated[list[TimedTraffic], Field(max_length=1000)] = []
    collectives: Annotated[list[TimedCollective], Field(max_length=1000)] = []
    operators: Annotated[list[TimedOperator], Field(max_length=20_000)] = []
    crowding: Annotated[list[Crowding], Field(max_length=100)] = []
    whole_steps: Annotated[list[WholeSteps], Field(max_length=100)] = []
