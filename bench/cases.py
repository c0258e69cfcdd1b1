"""The table of benchmark cases: adding a benchmark is adding a row."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from grok1.config.refusals import quoted


@dataclass(frozen=True)
class Case:
    """One row: a recipe run for a fixed number of steps, so many times, on these devices by default."""

    name: str
    recipe: str
    steps: int
    runs: int
    devices: tuple[str, ...]


CASES = (
    Case("grok1-tiny", "grok1-tiny", steps=20, runs=1, devices=("cpu",)),
    Case("grok1-nano", "grok1-nano", steps=12, runs=1, devices=()),
    Case("grok1-levers-16", "grok1-levers-16", steps=12, runs=1, devices=()),
    Case("grok1-40b", "grok1-40b", steps=20, runs=1, devices=("npu",)),
    Case("grok1-40b-tuned", "grok1-40b-tuned", steps=20, runs=1, devices=("cuda",)),
    Case("grok1-40b-2layer", "grok1-40b-2layer", steps=15, runs=1, devices=()),
    Case("grok1-1gpu", "grok1-1gpu", steps=20, runs=1, devices=()),
    Case("grok1-60b", "grok1-60b", steps=20, runs=1, devices=()),
)


def usual_recipe(device: str) -> str:
    """What a command takes on this device where no recipe is named: that of its first case."""
    return select(None, device)[0].recipe


def select(names: list[str] | None, device: str) -> list[Case]:
    """The named cases, each once, else those that run on this device by default.

    Raises:
        ValueError: a name that is not in the table.
    """
    by_name = {case.name: case for case in CASES}
    if not names:
        return [case for case in CASES if device in case.devices]
    unknown = [name for name in names if name not in by_name]
    if unknown:
        near = difflib.get_close_matches(unknown[0], by_name, n=3, cutoff=0.6)
        meant = f"did you mean {' or '.join(near)}?" if near else f"choose from {', '.join(by_name)}"
        raise ValueError(f"unknown case {quoted(unknown[0])}; {meant}")
    return [by_name[name] for name in dict.fromkeys(names)]
