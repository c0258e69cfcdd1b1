"""Frozen predictions: an unchanged file is read, any other is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.plan.frozen import Frozen, FrozenPrediction, freeze, key_of, read_frozen
from bench.plan.published import read_published
from bench.records.jsonfile import write_model

PREDICTION = FrozenPrediction(row="row 2", key="0" * 64, seconds=2.0, low=1.9, high=2.1, null_seconds=3.0)


def frozen_file(folder: Path):
    path = folder / "frozen.json"
    return path, freeze(path, 0.9, {"profile": "h100"}, {"h100 products": 0.7}, [PREDICTION])


def test_what_was_frozen_is_read_and_its_hash_is_of_its_content(tmp_path: Path) -> None:
    path, digest = frozen_file(tmp_path)
    frozen = read_frozen(path)
    assert frozen.predictions == [PREDICTION]
    assert frozen.sha256 == digest == frozen.digest
    again = tmp_path / "again.json"
    assert freeze(again, 0.9, {"profile": "h100"}, {"h100 products": 0.7}, [PREDICTION]) == digest
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content["predictions"][0].update(seconds=2.0000001),
        lambda content: content["predictions"][0].update(high=3.0),
        lambda content: content["predictions"][0].update(null_seconds=9.0),
        lambda content: content.update(level=0.8),
        lambda content: content["figures"].update({"h100 products": 0.71}),
        lambda content: content.update(sha256="f" * 64),
    ],
)
def test_a_changed_file_is_refused(tmp_path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path, _ = frozen_file(tmp_path)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="was changed after it was frozen"):
        read_frozen(path)


def test_a_file_without_a_hash_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "frozen.json"
    path.write_text(Frozen(level=0.9, made_with={}, predictions=[PREDICTION]).model_dump_json(by_alias=True))
    with pytest.raises(ValueError, match="has no sha256"):
        read_frozen(path)


def test_one_row_is_not_predicted_twice(tmp_path: Path) -> None:
    path = tmp_path / "frozen.json"
    freeze(path, 0.9, {}, {}, [PREDICTION, PREDICTION])
    with pytest.raises(ValueError, match="one row twice"):
        read_frozen(path)


def test_frozen_predictions_are_not_written_over(tmp_path: Path) -> None:
    path, _ = frozen_file(tmp_path)
    with pytest.raises(ValueError, match="exists"):
        freeze(path, 0.9, {}, {}, [PREDICTION])
    with pytest.raises(ValueError, match="no prediction"):
        freeze(tmp_path / "other.json", 0.9, {}, {}, [])


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
def test_of_two_that_freeze_at_once_the_first_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    """The second has looked for the file before the first one wrote it."""
    path, write = tmp_path / "frozen.json", write_model

    def after_the_other(place: Path, frozen: Frozen) -> None:
        monkeypatch.setattr("bench.plan.frozen.write_model", write)
        freeze(path, 0.9, {"who": "first"}, {}, [PREDICTION])
        write(place, frozen)

    def refuse(*_: object) -> None:
        raise PermissionError

    if not links:
        monkeypatch.setattr("os.link", refuse)
    monkeypatch.setattr("bench.plan.frozen.write_model", after_the_other)
    with pytest.raises(ValueError, match=r"frozen\.json: exists; frozen predictions are not written over"):
        freeze(path, 0.9, {"who": "second"}, {}, [PREDICTION])
    assert read_frozen(path).made_with == {"who": "first"}
    assert [each.name for each in tmp_path.iterdir()] == ["frozen.json"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"file/frozen\.json: cannot be written: .*file is no folder"):
        freeze(tmp_path / "file" / "frozen.json", 0.9, {}, {}, [PREDICTION])
    with pytest.raises(ValueError, match="cannot be written: File name too long"):
        freeze(tmp_path / ("x" * 300), 0.9, {}, {}, [PREDICTION])


@pytest.mark.parametrize(
    ("bounds", "reason"),
    [((2.0, 1.0), "low 2 s is more than high 1 s"), ((1.0, None), "together"), ((None, 2.0), "together")],
)
def test_an_interval_that_is_none_is_refused(tmp_path: Path, bounds: tuple[Any, Any], reason: str) -> None:
    path, _ = frozen_file(tmp_path)
    content = json.loads(path.read_text())
    content["predictions"][0].update(low=bounds[0], high=bounds[1])
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=reason):
        read_frozen(path)


def test_a_row_keeps_its_key_whatever_was_measured() -> None:
    row = next(row for row in read_published().rows if row.is_time)
    assert key_of(replace(row, line=99, value=1.0, evidence="elsewhere")) == key_of(row)
    assert key_of(replace(row, metric="s/step")) == key_of(row)
    assert key_of(replace(row, tensor=row.tensor * 2)) != key_of(row)
    stated = replace(row, flags={**row.flags, "source also states 5 s/step": ""})
    assert key_of(stated) == key_of(row)
