"""Residuals are of fits that left the row's family out, and the null model's of the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.plan.calibration_file import CalibrationFile, StoredFit, read_calibration, stored, write_calibration
from bench.plan.fit import Predicted, Prior
from bench.plan.leave_out import Chip, calibrated, fit_rows, plausible
from bench.plan.published import PublishedRow, read_published
from bench.plan.published_work import model_flops

PEAK = 1e15


def seconds_of(rows: Sequence[PublishedRow]) -> Predicted:
    """Model FLOPs at one efficiency: a time model of one line."""
    at_peak = np.array([model_flops(row) / (PEAK * row.world_size) for row in rows])
    return lambda values: at_peak / values["products"]


CHIP = Chip("a chip", PEAK, {"products": Prior(0.5, 10.0)}, seconds_of)


@pytest.fixture(scope="module")
def rows() -> list[PublishedRow]:
    """Three families that reach an MFU of 0.5, and one that reaches 0.25, all in seconds a step."""
    by_family = {row.architecture.family: row for row in read_published().rows if row.metric == "s/step"}
    chosen = list(by_family.values())[:4]
    mfus = [0.5, 0.5, 0.5, 0.25]
    return [
        replace(row, value=model_flops(row) / (PEAK * row.world_size * mfu))
        for row, mfu in zip(chosen, mfus, strict=True)
    ]


def test_a_family_s_residual_does_not_know_the_family(rows: list[PublishedRow]) -> None:
    found = calibrated(rows, CHIP)
    # the fit of the three others is 0.5, so that the odd family takes twice as long as predicted
    assert found.rows[3].log_ratio == pytest.approx(np.log(2), abs=1e-4)
    assert found.rows[3].null_log_ratio == pytest.approx(np.log(2), abs=1e-9)
    assert found.rows[3].family == rows[3].architecture.family
    assert found.mfu == pytest.approx(0.5)
    assert [row.name for row in found.rows] == [row.name for row in rows]


def test_rows_of_one_family_leave_out_together(rows: list[PublishedRow]) -> None:
    twins = [*rows, replace(rows[3], world_size=rows[3].world_size)]
    found = calibrated(twins, CHIP)
    assert found.rows[3].log_ratio == found.rows[4].log_ratio == pytest.approx(np.log(2), abs=1e-4)


def test_one_family_alone_is_predicted_by_the_priors(rows: list[PublishedRow]) -> None:
    (row,) = calibrated(rows[3:], CHIP).rows
    assert row.log_ratio == pytest.approx(np.log(2))


def test_a_claim_above_the_chip_s_peak_is_refused(rows: list[PublishedRow]) -> None:
    impossible = replace(rows[0], value=rows[0].value / 3)
    kept, refused = plausible([rows[1], impossible], CHIP)
    assert kept == [rows[1]]
    assert "MFU of 1.50, above what a chip can do" in refused[0]
    assert plausible([], CHIP) == ([], [])


def test_no_rows_are_no_fit() -> None:
    with pytest.raises(ValueError, match="no published row"):
        fit_rows([], CHIP)


def test_a_calibration_is_read_as_it_was_written(rows: list[PublishedRow], tmp_path: Path) -> None:
    found = calibrated(rows, CHIP)
    fits = [
        StoredFit(chip="a chip", is_eight_bit=False, rows=4, efficiencies=found.fitted.values, told=found.fitted.told,
                  residual_median=found.fitted.median, residual_p90=found.fitted.p90, null_mfu=found.mfu)
    ]  # fmt: skip
    file = CalibrationFile(
        source="rows.csv", fits=fits, rows=[stored(row, unseen) for row, unseen in zip(rows, found.rows, strict=True)]
    )
    write_calibration(tmp_path / "calibration.json", file)
    again = read_calibration(tmp_path / "calibration.json")
    assert again == file
    assert again.fit_of("a chip", False) == fits[0]
    assert again.fit_of("another", False) is None
    kept = again.row_of(rows[3])
    assert kept is not None
    assert kept.unseen_seconds == pytest.approx(rows[3].seconds / 2, rel=1e-3)
    assert again.row_of(replace(rows[3], tensor=3)) is None
    assert len(again.calibration_rows(without=("a chip", rows[3].architecture.family))) == 3
    for row, read in zip(found.rows, again.calibration_rows(), strict=True):
        assert read.log_ratio == pytest.approx(row.log_ratio, abs=1e-6)
        assert (read.name, read.family, read.situation.kinds) == (row.name, row.family, row.situation.kinds)
