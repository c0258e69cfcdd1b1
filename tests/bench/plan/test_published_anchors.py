"""Published jobs anchored by measured rows: of their chip, precision and family where there is one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench.plan.calibration_file import read_calibration
from bench.plan.published import read_published
from bench.plan.published_anchors import anchored, anchors_of_file
from bench.plan.published_predictions import predict_rows
from bench.plan.scoring import score_published
from tests.bench.plan.test_published import GOOD, written

DENSE = GOOD | {"n_chips": "64", "pp": "4", "gbs": "64", "metric": "s/step", "value": "1.0"}
LARGER = DENSE | {"n_chips": "128", "gbs": "128", "value": "1.01"}
OTHER_CHIP = LARGER | {"chip": "GB200", "value": "0.5"}
CALIBRATION = read_calibration()


def test_an_anchor_moves_rows_of_its_chip_alone(tmp_path: Path) -> None:
    rows = read_published(written(tmp_path / "rows.csv", DENSE, LARGER, OTHER_CHIP)).rows
    anchors = anchors_of_file(written(tmp_path / "anchor.csv", DENSE), CALIBRATION)
    found, _ = predict_rows(rows, CALIBRATION)
    moved, other = anchored(found, anchors, CALIBRATION, 0.9)
    (anchor,) = anchors.values()
    assert moved.row == rows[1]
    assert moved.seconds == pytest.approx(found[1].seconds * anchor.factor)
    assert moved.interval.seconds == pytest.approx(moved.seconds)
    assert sum(moved.terms.values()) == pytest.approx(moved.seconds)
    # the same MFU on twice the chips with twice the batch: the anchor's own seconds
    assert moved.null_seconds == pytest.approx(1.0)
    assert other == found[2]


def test_the_anchor_of_the_family_speaks_first(tmp_path: Path) -> None:
    wider = DENSE | {"notes": "hidden-size=8192; ffn-hidden-size=28672; num-attention-heads=64; num-query-groups=8",
                     "n_chips": "128", "gbs": "128", "value": "8.0"}  # fmt: skip
    anchors = anchors_of_file(written(tmp_path / "anchor.csv", DENSE, wider), CALIBRATION)
    found, _ = predict_rows(read_published(written(tmp_path / "rows.csv", LARGER)).rows, CALIBRATION)
    (moved,) = anchored(found, anchors, CALIBRATION, 0.9)
    assert "row 2:" in moved.interval.nearest[0]


def test_a_score_with_an_anchor_leaves_it_out(tmp_path: Path) -> None:
    rows, anchor = written(tmp_path / "rows.csv", DENSE, LARGER), written(tmp_path / "anchor.csv", DENSE)
    assert re.search(r"dense +1 ", score_published(rows, None, CALIBRATION, anchor=anchor))
    assert re.search(r"dense +2 ", score_published(rows, None, CALIBRATION))


def test_a_file_without_an_anchor_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "anchor.csv", DENSE | {"chip": "nobody's"})
    with pytest.raises(ValueError, match="no row of it can be an anchor: row 2 .*has no device profile"):
        anchors_of_file(path, CALIBRATION)
    impossible = written(tmp_path / "fast.csv", DENSE | {"value": "0.15"})
    with pytest.raises(ValueError, match="MFU would be|times apart"):
        anchors_of_file(impossible, CALIBRATION)
