"""`python -m bench plan` on published rows: predicted, frozen, scored, and refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench.commands.app import app
from bench.commands.plan_rows import about_rows
from tests.bench.plan.test_published import GOOD, written

JOB = GOOD | {"n_chips": "64", "pp": "4", "gbs": "64", "metric": "s/step", "value": "5.0"}


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return written(tmp_path / "rows.csv", JOB, JOB | {"gbs": "63"})


def said(*words: object) -> str:
    shown = CliRunner().invoke(app, ["plan", *map(str, words)])
    assert shown.exit_code == 0, shown.output
    return shown.output


def test_rows_are_predicted_frozen_and_scored(tmp_path, rows):
    frozen = tmp_path / "frozen.json"
    assert "90% interval from" in said("--rows", rows)
    assert "not used: row 3" in said("--rows", rows)
    assert "80% interval from" in said("--rows", rows, "--level", 0.8)
    assert "wrote 1 predictions" in said("--rows", rows, "--freeze", frozen)
    assert "predictions frozen with sha256" in said("--score", rows, "--frozen", frozen)
    assert "made now, not frozen" in said("--score", rows)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"frozen": Path("a")}, "add --score"),
        ({"freeze": Path("a")}, "add --rows"),
        ({"score": Path("a"), "rows": Path("b")}, "leave --rows and --freeze out"),
        ({"rows": Path("absent.csv")}, "cannot be read"),
        ({"score": Path("absent.csv")}, "cannot be read"),
    ],
)
def test_what_does_not_go_together_is_refused(given, reason):
    options: dict[str, Path | None] = {"rows": None, "freeze": None, "score": None, "frozen": None, **given}
    with pytest.raises(ValueError, match=reason):
        about_rows(**options, level=0.9)


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_an_impossible_level_is_refused(rows, level):
    with pytest.raises(ValueError, match="not between 0 and 1"):
        about_rows(rows, None, None, None, level)


def test_nothing_asked_is_nothing_said():
    assert about_rows(None, None, None, None, 0.9) == ""
