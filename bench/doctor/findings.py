"""What the doctor finds, as lines for a person and as one JSON file. No torch.

Each check gives one or more findings. A failed finding names the remedy; one that `blocks` makes the checks above it
meaningless, and those are then not run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from bench.records.fields import Count, DeviceKind, Name, Positive, Seconds, Strict, Text, UtcTime
from bench.records.terminal import plain

_LARGEST = 1e30
State = Literal["pass", "fail", "measured", "not run"]


class Finding(Strict):
    """One line. `measured` is a figure without a verdict: there is nothing to hold it against."""

    check: Name
    state: State
    said: Text
    remedy: Text = ""
    figures: dict[Name, Annotated[float, Field(ge=-_LARGEST, le=_LARGEST)]] = {}  # names end in their unit
    blocks: bool = False

    def line(self) -> str:
        """For a terminal: `fail     layer bf16  ...; remedy: ...`."""
        remedy = f"; remedy: {plain(self.remedy, 1000)}" if self.remedy else ""
        return f"{self.state:<8} {plain(self.check):<30} {plain(self.said, 1000)}{remedy}"


def passed(check: str, said: str, figures: Mapping[str, float] | None = None) -> Finding:
    """The check holds."""
    return Finding(check=check, state="pass", said=said, figures=_finite(figures))


def measured(check: str, said: str, figures: Mapping[str, float] | None = None) -> Finding:
    """A figure that nothing here can judge."""
    return Finding(check=check, state="measured", said=said, figures=_finite(figures))


def failed(
    check: str, said: str, remedy: str, figures: Mapping[str, float] | None = None, *, blocks: bool = True
) -> Finding:
    """The check does not hold; `blocks` unless what rests on it still means something."""
    return Finding(check=check, state="fail", said=said[:1000], remedy=remedy, figures=_finite(figures), blocks=blocks)


def _finite(figures: Mapping[str, float] | None) -> dict[str, float]:
    """What is not a number, or larger than JSON's readers take, is the largest that a finding holds."""
    return {name: min(value, _LARGEST) if math.isfinite(value) else _LARGEST for name, value in (figures or {}).items()}


def not_run(check: str, reason: str) -> Finding:
    """The check would mean nothing here."""
    return Finding(check=check, state="not run", said=reason)


class Report(Strict):
    """All findings of one run of the doctor, as `--json` writes them."""

    schema_version: Literal[1] = Field(alias="schema")
    created_at: UtcTime
    device: DeviceKind
    device_name: Text  # empty where the device could not be asked
    recipe: Name
    layout: dict[Name, Positive]  # the recipe's, cut to the processors that were used
    software: dict[Name, Text]  # versions by package
    commit: str | None
    seconds: Seconds
    findings: Annotated[list[Finding], Field(max_length=200)]

    @property
    def failures(self) -> int:
        """How many findings failed."""
        return sum(each.state == "fail" for each in self.findings)

    def summary(self) -> str:
        """The last line."""
        counts: dict[State, Count] = {}
        for each in self.findings:
            counts[each.state] = counts.get(each.state, 0) + 1
        words = ", ".join(f"{count} {state}" for state, count in counts.items())
        return f"{'FAIL' if self.failures else 'PASS'}: {words} on {self.device} in {self.seconds:.0f} s"
