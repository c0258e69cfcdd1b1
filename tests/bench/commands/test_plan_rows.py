"""`python -m bench plan` on published rows: predicted, frozen, scored, and refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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
    options: dict[str, Any] = {"rows": None, "freeze": None, "score": None, "frozen": None, **given}
    with pytest.raises(ValueError, match=reason):
        about_rows(**options, level=0.9)


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_an_impossible_level_is_refused(rows, level):
    with pytest.raises(ValueError, match="not between 0 and 1"):
        about_rows(rows, None, None, None, level)


def test_nothing_asked_is_no_answer():
    assert about_rows(None, None, None, None, 0.9) is None


MEMORY_ROW = JOB | {"metric": "GiB/chip peak alloc", "value": "60"}
UNKNOWN_CHIP = JOB | {"chip": "nobody's"}


def refused(*words: object) -> str:
    """The one line of a refusal."""
    shown = CliRunner().invoke(app, ["plan", *map(str, words)])
    assert isinstance(shown.exception, ValueError), shown.output
    assert not shown.output
    assert "\n" not in str(shown.exception)
    return str(shown.exception)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (UNKNOWN_CHIP, 'row 2 (Llama3.1 8B): chip "nobody\'s" has no device profile'),
        (MEMORY_ROW, "GiB/chip peak alloc is no time"),
    ],
)
def test_rows_of_which_none_can_be_used_are_refused_with_the_first_reason(tmp_path, row, reason):
    rows, frozen = written(tmp_path / "rows.csv", row), tmp_path / "frozen.json"
    assert refused("--rows", rows).startswith(f"{rows}: no row of it can be predicted: ")
    assert reason in refused("--rows", rows)
    assert reason in refused("--rows", rows, "--freeze", frozen)
    assert reason in refused("--score", rows)
    assert not frozen.exists()


def test_a_row_that_claims_more_than_its_chip_can_do_is_not_scored(tmp_path, rows):
    fast, frozen = written(tmp_path / "fast.csv", JOB | {"value": "0.001"}), tmp_path / "frozen.json"
    said("--rows", rows, "--freeze", frozen)
    for words in (["--score", fast], ["--score", fast, "--frozen", frozen]):
        assert "row 2 (Llama3.1 8B): its 0.001 s/step would be an MFU of" in refused(*words)


def test_rows_that_were_not_frozen_or_are_anchors_are_refused_with_the_reason(tmp_path, rows):
    other, frozen = written(tmp_path / "other.csv", JOB | {"tp": "4"}), tmp_path / "frozen.json"
    said("--rows", rows, "--freeze", frozen)
    assert "was not predicted in" in refused("--score", other, "--frozen", frozen)
    assert "each is an anchor itself" in refused("--score", other, "--anchor", other)


OTHERS = {
    "--device": "gb200", "--recipe": "grok1-314b", "--picture": "found.svg", "--explain": "TP8",
    "--world-size": 8, "--set": "model.num_layers=2", "--memory-gib": 0, "--communicator-mb": 0, "--exact": 2,
    "--skew": 2, "--axes": "tensor", "--top": 3,
}  # fmt: skip


@pytest.mark.parametrize("option", OTHERS)
def test_options_of_layouts_do_not_go_with_rows(rows, option):
    for asked in ("--rows", "--score"):
        assert f"{asked} is about published jobs, and {option} about" in refused(asked, rows, option, OTHERS[option])


def test_all_that_does_not_go_together_is_named(rows):
    words = [word for option in ("--recipe", "--device", "--explain") for word in (option, OTHERS[option])]
    assert "--recipe, --explain, --device about a recipe's layouts" in refused("--score", rows, *words)
    assert "--fits about" in refused("--rows", rows, "--fits")


def test_frozen_predictions_keep_their_level(tmp_path, rows):
    said("--rows", rows, "--freeze", tmp_path / "frozen.json")
    assert "--level 0.5 makes intervals" in refused(
        "--score", rows, "--frozen", tmp_path / "frozen.json", "--level", 0.5
    )


def test_what_is_predicted_and_scored_is_written_as_json(tmp_path, rows):
    paths = [tmp_path / f"{name}.json" for name in ("predicted", "frozen", "beside", "score")]
    predicted, frozen, beside, score = paths
    said("--rows", rows, "--json", predicted)
    said("--rows", rows, "--freeze", frozen, "--json", beside)
    told = said("--score", rows, "--frozen", frozen, "--json", score)
    assert predicted.read_text() == beside.read_text()
    kept, found = (json.loads(each.read_text()) for each in (frozen, predicted))
    assert found["predictions"] == kept["predictions"]
    scored = json.loads(score.read_text())
    assert scored["frozen_sha256"] == kept["sha256"]
    assert len(scored["rows"]) == len(found["predictions"]) == scored["scores"][-1]["errors"]["rows"]
    assert f"{scored['scores'][0]['errors']['median']:.1%}" in told
    assert [each["predicted_seconds"] for each in scored["rows"]] == [each["seconds"] for each in kept["predictions"]]
