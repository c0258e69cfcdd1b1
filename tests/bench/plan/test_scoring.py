"""Rows are frozen and scored from files: what is said, and that measurements do not reach predictions."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench.plan.calibration_file import CalibrationFile, read_calibration
from bench.plan.frozen import read_frozen
from bench.plan.published import SHIPPED, read_published
from bench.plan.published_predictions import predict_rows
from bench.plan.scoring import freeze_published, predictions_text, score_published
from tests.bench.plan.test_published import GOOD, written

DENSE = GOOD | {"n_chips": "64", "pp": "4", "gbs": "64", "metric": "s/step", "value": "5.0"}
SLOW = DENSE | {"tp": "8", "value": "6.0"}
FINE = DENSE | {"notes": "num-experts=128; moe-router-topk=8", "ep": "8"}


@pytest.fixture(scope="module")
def calibration() -> CalibrationFile:
    return read_calibration()


def digest_of(said: str) -> str:
    found = re.search(r"sha256 ([0-9a-f]{64})", said)
    assert found
    return found[1]


def test_what_was_measured_does_not_reach_a_prediction(tmp_path: Path, calibration: CalibrationFile) -> None:
    rows = written(tmp_path / "rows.csv", DENSE, SLOW)
    empty = written(tmp_path / "empty.csv", DENSE | {"value": ""}, SLOW | {"value": ""})
    other = written(tmp_path / "other.csv", DENSE | {"value": "77"}, SLOW | {"value": "1"})
    digests = {
        digest_of(freeze_published(tmp_path / f"{place}.json", path, calibration))
        for place, path in enumerate((rows, empty, other))
    }
    assert len(digests) == 1


def test_frozen_predictions_are_scored(tmp_path: Path, calibration: CalibrationFile) -> None:
    rows = written(tmp_path / "rows.csv", DENSE, SLOW)
    said = freeze_published(tmp_path / "frozen.json", rows, calibration)
    assert "wrote 2 predictions" in said
    scored = score_published(rows, tmp_path / "frozen.json", calibration)
    assert digest_of(said) in scored
    assert "H100 SXM 80GB, 16 bits, dense" in scored
    more = written(tmp_path / "more.csv", DENSE, SLOW, DENSE | {"tp": "4"})
    assert "was not predicted in" in score_published(more, tmp_path / "frozen.json", calibration)


def test_a_changed_frozen_file_is_not_scored(tmp_path: Path, calibration: CalibrationFile) -> None:
    rows, frozen = written(tmp_path / "rows.csv", DENSE), tmp_path / "frozen.json"
    freeze_published(frozen, rows, calibration)
    frozen.write_text(frozen.read_text().replace('"seconds": ', '"seconds": 1'))
    with pytest.raises(ValueError, match="was changed after it was frozen"):
        score_published(rows, frozen, calibration)


def test_what_is_scored_now_says_so(tmp_path: Path, calibration: CalibrationFile) -> None:
    rows = written(tmp_path / "rows.csv", DENSE, DENSE | {"gbs": "63"})
    scored = score_published(rows, None, calibration)
    assert "made now, not frozen" in scored
    assert "not used: row 3 (Llama3.1 8B): the layout does not divide" in scored


def test_calibration_rows_are_scored_as_if_they_were_new(calibration: CalibrationFile) -> None:
    scored = score_published(SHIPPED, None, calibration)
    assert "each predicted by a fit that left its family out" in scored
    assert "more rows that were not used" in scored.splitlines()[-1]


def test_a_prediction_says_what_it_rests_on(tmp_path: Path, calibration: CalibrationFile) -> None:
    found, _ = predict_rows(read_published(written(tmp_path / "rows.csv", DENSE, FINE)).rows, calibration)
    dense, fine = predictions_text(found).split("\n\n")
    assert "90% interval from" in dense
    assert "wider: no row of a program 1.0" in dense
    assert dense.count("near: ") == 3
    assert "the null model says" in dense
    assert "of it products" in dense
    assert "no interval: 128 experts are fine-grained" in fine


def test_a_stranger_s_words_do_not_steer_the_terminal(tmp_path: Path, calibration: CalibrationFile) -> None:
    rows = written(tmp_path / "rows.csv", DENSE | {"source": "\x9b31m\u200bprogram", "model": "Llama3.1 8B\x7f"})
    found, _ = predict_rows(read_published(rows).rows, calibration)
    said = [predictions_text(found), score_published(rows, None, calibration)]
    assert all(line.isprintable() for text in said for line in text.splitlines())


def test_no_row_to_predict_is_refused(tmp_path: Path, calibration: CalibrationFile) -> None:
    rows = written(tmp_path / "rows.csv", DENSE | {"chip": "nobody's"})
    with pytest.raises(ValueError, match=r"rows\.csv: no row of it can be predicted: row 2 .*nobody's"):
        freeze_published(tmp_path / "frozen.json", rows, calibration)
    with pytest.raises(ValueError, match=r"rows\.csv: no row of it can be scored: row 2 .*nobody's"):
        score_published(rows, None, calibration)


def test_a_row_that_is_there_twice_is_one_prediction_and_two_errors(
    tmp_path: Path, calibration: CalibrationFile
) -> None:
    rows, frozen = written(tmp_path / "rows.csv", DENSE, DENSE | {"value": "6.0"}, SLOW), tmp_path / "frozen.json"
    said = freeze_published(frozen, rows, calibration)
    assert "wrote 2 predictions" in said
    assert "of 3 rows: those of one job are predicted once" in said
    assert len(read_frozen(frozen).predictions) == 2
    assert re.search(r"dense +3 ", score_published(rows, frozen, calibration))
