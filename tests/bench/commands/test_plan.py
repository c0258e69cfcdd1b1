"""`python -m bench plan`: what it shows, writes and refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from bench.commands.app import app
from bench.plan.fits_text import FitsFile
from bench.records.jsonfile import read_model

FEW = ("--recipe", "grok1-40b", "--axes", "tensor,pipeline,expert,expert_tensor,micro_batch")


def plan(*words: object) -> Result:
    return CliRunner().invoke(app, ["plan", *map(str, words)], env={"COLUMNS": "400"})


def test_the_layouts_that_fit_come_first_with_their_parts() -> None:
    shown = plan("--fits", *FEW, "--memory-gib", 60.96, "--top", 3)
    assert shown.exit_code == 0, shown.output
    lines = shown.stdout.splitlines()
    assert re.fullmatch(r"grok1-40b on 16 ranks of 60\.96 GiB: [1-9]\d* of 514 layouts fit", lines[0])
    assert lines[2].split() == [
        *("layout", "need", "left", "weights", "gradients", "optimizer", "activations", "temporary", "logits"),
        *("communicators", "margin", "stage", "fullest", "in"),
    ]
    first = lines[4].split("  ")
    assert first[0].startswith("TP8 PP2")
    assert len(lines[4:7]) == 3
    assert "of even routing" in shown.stdout


def test_the_file_holds_what_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "fits.json"
    shown = plan("--fits", *FEW, "--device", "h100-sxm", "--skew", 1.5, "--top", 4, "--json", path)
    assert shown.exit_code == 0, shown.output
    assert "where the fullest expert rank gets 1.5 times its share" in shown.stdout
    found = read_model(path, FitsFile, max_bytes=1 << 20)
    assert (found.world_size, found.skew, found.layouts, len(found.rows)) == (16, 1.5, 514, 4)
    for row in found.rows:
        assert row.need_bytes == sum(row.parts_bytes.values())
        assert row.fits == (row.need_bytes <= found.available_bytes)
        assert row.parts_bytes["communicators"] == 0  # NCCL's buffers are not HCCL's
    assert json.loads(path.read_text())["schema"] == 1


def test_a_finalist_is_counted_beside_the_plan() -> None:
    shown = plan("--fits", "--recipe", "grok1-nano", "--axes", "pipeline", "--exact", 1)
    assert shown.exit_code == 0, shown.output
    assert "counting 1 of 1: TP4 PP1" in shown.stderr
    assert "planned peak, GiB" in shown.stdout


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ((), "name one with --device"),
        (("--fits", "--world-size", 17), "recipe grok1-40b has no legal layout on 17 ranks; the nearest world sizes"),
        (("--fits", "--axes", "tensor,sideways"), "axes sideways are none of a layout"),
        (("--fits", "--device", "abacus"), "abacus"),
        (("--fits", "--set", "model.hidden_size=0"), "model.hidden_size"),
    ],
)
def test_what_cannot_be_planned_is_refused_in_one_line(words: tuple[object, ...], reason: str) -> None:
    shown = plan(*words)
    assert isinstance(shown.exception, ValueError)
    assert reason in str(shown.exception)
    assert "\n" not in str(shown.exception)
