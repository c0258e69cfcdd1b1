"""Which part of the step moved, and by how much of the whole change: from the split that every run records.

Seconds show where the time went. Calls and bytes of collectives are exact, so any difference there is a change of the
program, not noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from bench.judge.metrics import COLLECTIVE, MODULE, PHASE, STEP

_CALLS, _BYTES = "collective_calls.", "collective_bytes."
_LEAST_SHARE = 0.1  # of the whole change: a smaller part is not named in the sentence
_EXACT = 1e-9


@dataclass(frozen=True)
class Part:
    """A phase, or what is inside phases, a kind of collective or of module: seconds of a step before and after.

    Those of modules come from one profiled step a run, which takes longer than the others.
    """

    kind: str
    name: str
    before_seconds: float
    after_seconds: float
    share: float  # of the step's change; negative where it moved the other way

    @property
    def change_seconds(self) -> float:
        return self.after_seconds - self.before_seconds


@dataclass(frozen=True)
class Counted:
    """Calls or bytes a step, over all ranks, of one kind of collective that are not what they were."""

    name: str
    unit: str
    before: float
    after: float


@dataclass(frozen=True)
class Attribution:
    """The parts of a step by how much they moved, the largest first, and the exact counts that differ."""

    step_change_seconds: float
    parts: tuple[Part, ...]
    counted: tuple[Counted, ...]
    expected: str = ""  # what the step was expected to take, in words (bench.judge.beside); empty: not known

    @property
    def sentence(self) -> str:
        """The closing sentence of a verdict; empty where nothing was recorded."""
        moved = ", ".join(self._moved("phase")[:2])
        if moved and (collectives := self._moved("collective")):
            moved += f" (of it {collectives[0]})"
        if moved and (modules := self._moved("module")):
            moved += f"; of the modules {modules[0]} of a profiled step"
        counts = "; ".join(
            f"{each.name}: {each.before:,.6g} {each.unit} a step became {each.after:,.6g}" for each in self.counted[:2]
        )
        where = f"the step moved {self.step_change_seconds:+.3g} s, most in {moved}" if moved else ""
        return "; ".join(each for each in (where, counts) if each)

    def _moved(self, kind: str) -> list[str]:
        """The parts of one kind that are large enough to be named, the largest first."""
        return [
            f"{part.name} {part.change_seconds:+.3g} s"
            for part in self.parts
            if part.kind == kind and part.share >= _LEAST_SHARE
        ]


def attribute(before: Sequence[Mapping[str, float]], after: Sequence[Mapping[str, float]]) -> Attribution:
    """Compare the figures (bench.judge.metrics) of two sides' runs, each by its median over runs."""
    old, new = _medians(before), _medians(after)
    change = new[STEP] - old[STEP]
    parts = [
        Part(kind, name.removeprefix(prefix), old.get(name, 0.0), new.get(name, 0.0), _share(old, new, name, change))
        for prefix, kind in ((PHASE, "phase"), (COLLECTIVE, "collective"), (MODULE, "module"))
        if any(name.startswith(prefix) for name in old) and any(name.startswith(prefix) for name in new)
        for name in dict.fromkeys([*old, *new])
        if name.startswith(prefix)
    ]
    counted = [
        Counted(name.removeprefix(prefix), unit, old.get(name, 0.0), new.get(name, 0.0))
        for prefix, unit in ((_CALLS, "calls"), (_BYTES, "bytes"))
        if any(name.startswith(prefix) for name in old) and any(name.startswith(prefix) for name in new)
        for name in dict.fromkeys([*old, *new])
        if name.startswith(prefix) and _differs(old.get(name, 0.0), new.get(name, 0.0))
    ]
    return Attribution(change, tuple(sorted(parts, key=lambda part: -part.share)), tuple(counted))


def _share(old: Mapping[str, float], new: Mapping[str, float], name: str, change: float) -> float:
    return (new.get(name, 0.0) - old.get(name, 0.0)) / change if change else 0.0


def _differs(before: float, after: float) -> bool:
    return abs(after - before) > _EXACT * max(abs(before), abs(after))


def _medians(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for run in runs for name in run)
    return {name: median(run[name] for run in runs if name in run) for name in names}
