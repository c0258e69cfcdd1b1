"""The parsers of what the planner reads: published rows, frozen predictions, calibrations."""

from __future__ import annotations

import functools
from pathlib import Path
from random import Random

from tests.fuzz import mutate
from tests.fuzz.targets import Target, as_file

ROOT = Path(__file__).resolve().parents[2]
_ROWS = 8


@functools.cache
def _published() -> list[bytes]:
    """Some of the shipped rows, of all chips and metrics."""
    lines = (ROOT / "bench" / "plan" / "published_rows.csv").read_bytes().splitlines(keepends=True)
    return [b"".join([lines[0], *lines[1 :: len(lines) // _ROWS]])]


def _read_published(raw: bytes, folder: Path) -> str:
    """Predicted, frozen and scored."""
    from bench.commands.plan_rows import about_rows

    path, frozen = as_file(folder, "rows.csv", raw), folder / "frozen.json"
    shown = [about_rows(path, None, None, None, 0.9), about_rows(path, frozen, None, None, 0.9)]
    return "\n".join(each or "" for each in [*shown, about_rows(None, None, path, frozen, 0.9)])


def _bend_rows(raw: bytes, random: Random) -> bytes:
    """Cells replaced, or words anywhere."""
    if random.randrange(2):
        return mutate.bend_words(raw, random)
    lines = raw.splitlines(keepends=True)
    place = random.randrange(1, max(2, len(lines)))
    cells = lines[place].split(b",") if place < len(lines) else [b""]
    cells[random.randrange(len(cells))] = random.choice((b"", b"0", b"-1", b"1e9", b"999999999", b"nan", b"2.5", b'"'))
    return b"".join([*lines[:place], b",".join(cells), *lines[place + 1 :]])


@functools.cache
def _frozen() -> list[bytes]:
    from bench.plan.frozen import Frozen, FrozenPrediction

    prediction = FrozenPrediction(row="row 2", key="0" * 64, seconds=2.0, low=1.9, high=2.1, null_seconds=3.0)
    frozen = Frozen(level=0.9, made_with={"profile": "h100"}, figures={"products": 0.7}, predictions=[prediction])
    return [frozen.model_copy(update={"sha256": frozen.digest}).model_dump_json(by_alias=True).encode()]


def _read_frozen(raw: bytes, folder: Path) -> str:
    from bench.plan.frozen import read_frozen
    from bench.records.terminal import plain

    return "\n".join(plain(each.row) for each in read_frozen(as_file(folder, "frozen.json", raw)).predictions)


@functools.cache
def _devices() -> list[bytes]:
    """The shipped profiles, one of each kind of links."""
    return [
        (ROOT / "bench" / "plan" / "devices" / f"{name}.toml").read_bytes() for name in ("a100-sxm", "ascend-a2-376t")
    ]


@functools.cache
def _calibrated() -> list[bytes]:
    """A profile as a calibration writes it, with timed operators."""
    from bench.plan.device import load_device
    from bench.plan.measured import Measured, TimedAttention, TimedCollective, TimedProduct, TimedTraffic

    measured = Measured(
        source="here",
        products=[TimedProduct(rows=8, columns=16, depth=32, seconds=1e-5)],
        attention=[TimedAttention(phase="forward", flops=1000, seconds=1e-5)],
        traffic=[TimedTraffic(component="norms", phase="forward", bytes_a_second=1e9, call_seconds=0.0)],
        collectives=[
            TimedCollective(operation="all_reduce", ranks=2, call_seconds=1e-4, bytes_a_second=1e9, residual=0.1)
        ],
    )
    device = load_device("a100-sxm").model_copy(update={"cores": 2, "measured": measured})
    return [device.model_dump_json().encode()]


def _read_device(raw: bytes, folder: Path, name: str = "device.toml") -> str:
    """Read, and what is shown of it."""
    from bench.plan.device import load_device
    from bench.records.terminal import plain

    device = load_device(str(as_file(folder, name, raw)))
    stated = [getattr(device.efficiency, field) for field in type(device.efficiency).model_fields]
    sources = [each.source for each in stated if each is not None]
    return "\n".join(plain(each) for each in (device.name, device.description, *sources))


PLAN = [
    Target("device", _devices, mutate.bend_toml, _read_device),
    Target("calibrated device", _calibrated, mutate.bend_json, functools.partial(_read_device, name="device.json")),
    Target("published", _published, _bend_rows, _read_published, cost=40),
    Target("frozen", _frozen, mutate.bend_json, _read_frozen),
]
