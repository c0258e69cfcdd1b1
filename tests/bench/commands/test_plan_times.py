"""`python -m bench plan` ranks by time: what it prints, writes and refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from grok1.megatron import installed
from tests.in_process import Command

TINY = ["--recipe", "grok1-tiny", "--set", "training.dtype=bf16"]
A2 = ["--device", "ascend-a2-376t"]
PLANNED_FOR = [] if installed.unplanned_line() is None else ["planned for megatron-core 0.12"]  # on stderr


def told(err: str) -> list[str]:
    """Each line up to its details."""
    return [line.partition(";")[0] for line in err.splitlines()]


def test_layouts_are_ranked_drawn_and_written(bench: Command, tmp_path):
    json_path, picture = tmp_path / "plan.json", tmp_path / "plan.png"
    code, out, err = bench("plan", *TINY, *A2, "--top", 3, "--json", json_path, "--picture", picture)
    assert code == 0, err
    assert told(err) == PLANNED_FOR
    assert "layouts fit; the fastest are" in out
    assert "MFU of 353.9 TFLOP/s of bf16" in out
    assert picture.read_bytes().startswith(b"\x89PNG")
    rows = json.loads(json_path.read_text())["rows"]
    assert len(rows) == 3
    assert [row["step_seconds"] for row in rows] == sorted(row["step_seconds"] for row in rows)
    assert all(row["layout"] in out for row in rows)


def test_a_picture_is_of_its_files_kind(bench: Command, tmp_path: Path) -> None:
    picture = tmp_path / "plan.SVG"
    words = ["--axes", "tensor,pipeline", "--explain", "TP4 PP2 EP2 ETP4 mb1"]
    code, out, err = bench("plan", *TINY, *A2, *words, "--picture", picture)
    assert (code, told(err)) == (0, PLANNED_FOR)
    assert f"wrote {picture}" in out
    assert picture.read_text(encoding="utf-8").startswith("<svg")


def test_another_megatron_than_the_planned_one_is_told(bench: Command, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(installed, "megatron_line", lambda: "0.16")
    few = ["--axes", "tensor", "--top", 1]
    for words in (few, ["--fits", *few], ["--explain", "TP4 PP2 EP2 ETP4 mb1"]):
        code, _, err = bench("plan", *TINY, *A2, *words)
        assert code == 0
        assert err.startswith("planned for megatron-core 0.12; 0.16 is installed, whose memory and exchanges differ")
        assert err.count("\n") == 1


def test_one_layout_is_explained(bench: Command, tmp_path: Path):
    json_path = tmp_path / "plan.json"
    code, out, _ = bench("plan", *TINY, *A2, "--explain", "TP4 PP2 EP2 ETP4 mb1", "--json", json_path)
    assert code == 0
    assert "TP4 PP2 EP2 ETP4" in out
    assert "matrix products" in out
    assert "The schedule, played through" in out
    assert re.search(r"^memory: the fullest rank needs \S+ GiB of ascend-a2-376t, 60.96 GiB: it fits$", out, re.M)
    content = json.loads(json_path.read_text())
    (row,) = content["rows"]
    assert (row["layout"], content["layouts"]) == ("TP4 PP2 EP2 ETP4 DP2 mb1 alltoall", 1)
    assert sum(row["terms"].values()) == pytest.approx(row["step_seconds"])
    assert row["need_bytes"] > 0


def test_a_layout_that_does_not_fit_is_explained_and_said_not_to_fit_and_a_skew_is_named(bench: Command):
    words = [*TINY, *A2, "--memory-gib", 0.5, "--skew", 2, "--explain", "TP4 PP2 EP2 ETP4 mb1"]
    code, out, _ = bench("plan", *words)
    assert code == 0
    assert (
        "0.50 GiB (experts of the fullest rank with 2 times their share; times are of even routing): it does not fit"
        in out
    )
    code, out, _ = bench("plan", *TINY, *A2, "--skew", 2, "--top", 1)
    assert "layouts fit (experts of the fullest rank with 2 times their share; times are of even routing); the" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([*TINY], "a time is a device's: name one with --device, of a100-sxm, "),
        ([*TINY, "--device", "h1000"], "unknown device 'h1000'; choose one of a100-sxm"),
        (
            [*TINY, *A2, "--picture", "plan.pdf"],
            "--picture plan.pdf: a picture is a .png or .svg file; give a name that",
        ),
        ([*TINY, *A2, "--explain", "TP3"], "parallel.world_size"),
        ([*TINY, *A2, "--exact", 3], "--exact N has the ledger count the memory of the first N layouts of --fits: add"),
        (
            [*TINY, *A2, "--explain", "TP4 mb1", "--top", 3],
            "--explain tells of one layout, and --top of several: leave",
        ),
        ([*TINY, *A2, "--explain", "TP4", "--axes", "x", "--top", 3], "one layout, and --axes and --top of several"),
        ([*TINY, *A2, "--explain", "TP4", "--top", 3, "--picture", "a.svg"], "one layout, and --top of several"),
        (["--fits", *TINY, "--level", 0.8], "--fits tells memory alone, not times as --level: ask for one at a time"),
        (["--fits", *TINY, *A2, "--picture", "plan.png"], "--fits tells memory alone, not times as --picture"),
        ([*TINY, *A2, "--memory-gib", "0.5"], "fits ascend-a2-376t, 0.50 GiB: the least that one needs is"),
        (["--recipe", "grok1-tiny", *A2], "device ascend-a2-376t states no peak for fp32, only for bf16, fp16"),
    ],
)
def test_bad_input_is_one_line(bench: Command, words, said):
    code, _, err = bench("plan", *words)
    assert code == 2
    assert said in err
    assert len(err.strip().splitlines()) == 1
