"""How long a step was expected to take, by term, as data that the planner hands to verdicts and reports. No torch.

It knows no recipe and no model of a device, so that whoever reads records can read it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from bench.records.fields import Count, HexId, Name, PartName, Seconds, StepSeconds, Strict, Text
from bench.records.jsonfile import read_model, write_model
from bench.records.lone_rank import LoneRank
from bench.records.record import Record

MAX_BYTES = 4 << 20
# What the terms of a step may be (bench.plan.predict.TERMS).
TERMS = (
    "products", "attention", "memory", "tensor", "expert", "context", "pipeline", "host", "data", "optimizer", "bubble",
)  # fmt: skip
_COMMUNICATION = ("tensor", "expert", "context", "pipeline", "data")


def is_in_step(lone_rank: LoneRank | None, term: str) -> bool:
    """Whether a step holds that term: a rank alone neither exchanges nor waits."""
    return lone_rank is None or term not in (*_COMMUNICATION, "bubble")


class ExpectedExchange(Strict):
    """What the rank exchanges in a step, by "group operation": seconds of all its calls, if nothing hid them."""

    name: PartName
    calls: Count
    bytes: Count
    seconds: Seconds


class Expectation(Strict):
    """Of the runs of one recipe on one kind of device. Terms add up to the step; without bounds where none is promised.

    Of a rank alone the step is of what it does by itself: the terms of communication, and the bubble, are beside it.
    """

    recipe_hash: HexId
    device_name: Name  # the record's
    lone_rank: LoneRank | None = None
    profile: Name  # of the device, which it was predicted by
    step_seconds: StepSeconds
    low_seconds: Seconds | None
    high_seconds: Seconds | None
    level: Annotated[float, Field(gt=0, lt=1)]  # the share of jobs that lie between these
    terms: Annotated[dict[PartName, Seconds], Field(max_length=len(TERMS))]
    basis: Annotated[list[Text], Field(max_length=20)] = []  # what it rests on, a sentence each
    ranks_share_cores: bool = False  # while one waits another computes: of its parts nothing is measured apart
    exchanges: Annotated[list[ExpectedExchange], Field(max_length=200)] = []  # of the stage that takes longest

    @model_validator(mode="after")
    def _consistent(self) -> Expectation:
        if unknown := sorted(set(self.terms) - set(TERMS)):
            raise ValueError(f"terms: {unknown[0]!r} is none of {', '.join(TERMS)}")
        if (self.low_seconds is None) != (self.high_seconds is None):
            raise ValueError("low_seconds and high_seconds are stated together or not at all")
        low, high = self.low_seconds, self.high_seconds
        if low is not None and high is not None and not low <= self.step_seconds <= high:
            raise ValueError(f"step_seconds {self.step_seconds:g} is not between low_seconds and high_seconds")
        whole = sum(seconds for name, seconds in self.terms.items() if self.is_in_step(name))
        if abs(whole - self.step_seconds) > 1e-6 * self.step_seconds:
            raise ValueError(f"step_seconds is {self.step_seconds:g}, and its terms are {whole:g} together")
        return self

    def is_in_step(self, term: str) -> bool:
        """Whether the step holds that term."""
        return is_in_step(self.lone_rank, term)

    def is_of(self, record: Record) -> bool:
        """Whether the record is of such a run."""
        ours, its = (
            (self.recipe_hash, self.device_name, self.lone_rank),
            (record.recipe.hash, record.device.name, record.lone_rank),
        )
        return ours == its


class Expectations(Strict):
    """A file of them."""

    schema_: Literal[1] = Field(alias="schema", default=1)
    expectations: Annotated[list[Expectation], Field(max_length=1000)]


def read_expectations(path: Path) -> list[Expectation]:
    """Those of a file; a ValueError of one line says what is wrong with it."""
    return read_model(path, Expectations, max_bytes=MAX_BYTES).expectations


def write_expectations(path: Path, expectations: list[Expectation]) -> None:
    """Atomically."""
    write_model(path, Expectations(schema=1, expectations=expectations))
