"""Types of the fields that records, baselines and histories share."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]
# Of a phase or collective: figures (bench.judge.metrics) put a prefix before it, and are named by a Name again.
PartName = Annotated[str, StringConstraints(min_length=1, max_length=150)]
Text = Annotated[str, StringConstraints(max_length=1000)]
HexId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8,64}$")]
Count = Annotated[int, Field(ge=0, le=2**62)]
Positive = Annotated[int, Field(ge=1, le=2**62)]
# A single step or phase longer than four months is a broken clock, and so is a step of less than a nanosecond: it would
# make rates and shares infinite.
Seconds = Annotated[float, Field(ge=0, le=1e7)]
StepSeconds = Annotated[float, Field(ge=1e-9, le=1e7)]
Rate = Annotated[float, Field(ge=1e-30, le=1e30)]
Figure = Annotated[float, Field(ge=0, le=1e30)]  # of a run by name, as bench.judge.metrics makes them


class Strict(BaseModel):
    """Frozen data that takes no unknown field, converts no type and holds no NaN."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


DeviceKind = Literal["cpu", "cuda", "npu"]
Dtype = Literal["fp32", "bf16", "fp16"]


def utc_moment(text: str) -> datetime:
    """The moment of a `created_at`; a ValueError says what is wrong with it."""
    try:
        # Python 3.10 does not read the Z suffix.
        moment = datetime.fromisoformat(text.removesuffix("Z") + ("+00:00" if text.endswith("Z") else ""))
    except ValueError:
        raise ValueError("is not an ISO 8601 time such as 2025-01-31T12:00:00Z") from None
    if moment.utcoffset() is None or moment.utcoffset() != timezone.utc.utcoffset(None):
        raise ValueError("is not in UTC: end it with Z or +00:00")
    return moment


def _in_utc(text: str) -> str:
    utc_moment(text)
    return text


UtcTime = Annotated[str, StringConstraints(max_length=40), AfterValidator(_in_utc)]
