"""A file of ours that is given where another kind is read is called what it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import BaseModel

from bench.judge.baseline import read_baselines
from bench.ledger.schema import Ledger, read_ledger
from bench.places import shipped
from bench.plan.device import Device, load_device, write_device
from bench.plan.frozen import Frozen, read_frozen
from bench.records.expectation import Expectations
from bench.records.kinds import another_kind
from bench.records.record import Record
from bench.selftest.series import Series, read_series
from bench.synthetic import build_synthetic_record


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, baselines = tmp_path_factory.mktemp("kinds"), shipped("baselines")
    build_synthetic_record(steps=5).write(folder / "record.json")
    write_device(folder / "device.json", load_device("h100-sxm"))
    return {
        "a record": folder / "record.json",
        "a device profile": folder / "device.json",
        "a ledger": baselines / "ledger" / "grok1-nano.json",
        "a series of runs": next(iter(sorted((baselines / "noise").glob("*.json")))),
        "a file of baselines": next(iter(sorted((baselines / "npu-910b").glob("*.json")))),
    }


READS: dict[str, Callable[[Path], object]] = {
    "a record": Record.read,
    "a device profile": lambda path: load_device(str(path)),
    "a ledger": read_ledger,
    "a series of runs": read_series,
    "a file of baselines": read_baselines,
    "a file of frozen predictions": read_frozen,
}


@pytest.mark.parametrize("wanted", READS)
def test_each_kind_is_told_from_each_other(files: dict[str, Path], wanted: str) -> None:
    for kind, path in files.items():
        if kind == wanted:
            READS[kind](path)
            continue
        with pytest.raises(ValueError, match=f"{path.name}: is {kind}, and {wanted} is wanted here$"):
            READS[wanted](path)


@pytest.mark.parametrize("model", [Record, Ledger, Device, Frozen, Expectations, Series])
def test_what_is_no_kind_of_ours_or_broken_is_called_nothing(model: type[BaseModel]) -> None:
    for content in ("", "[]", "1", '{"a": 1}', "{", "[" * 5000):
        assert another_kind(content.encode(), model) == ""
