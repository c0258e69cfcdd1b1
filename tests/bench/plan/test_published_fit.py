"""The shipped profiles and calibration are what the shipped rows give, and predictions of rows do not know them."""

from __future__ import annotations

from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest

from bench.plan.calibration_file import CalibrationFile, read_calibration
from bench.plan.device import Efficiency, device_names, load_device
from bench.plan.fitted_profiles import SPEAKS_FOR, with_fitted
from bench.plan.frozen import read_frozen
from bench.plan.published import PublishedRow, read_published
from bench.plan.published_fit import ALONE, FUSED, calibrate, device_with, groups
from bench.plan.published_predictions import freeze_rows, predict_rows
from bench.plan.score import scored, scores


@pytest.fixture(scope="module")
def shipped() -> CalibrationFile:
    return read_calibration()


@pytest.fixture(scope="module")
def rows() -> tuple[PublishedRow, ...]:
    return read_published(assume_layouts=True).rows


def test_every_profile_holds_the_shipped_calibration(shipped: CalibrationFile) -> None:
    """python -m bench.plan.refit writes both."""
    folder = resources.files("bench.plan") / "devices"
    for profile in device_names():
        if profile in SPEAKS_FOR:
            text = (folder / f"{profile}.toml").read_text(encoding="utf-8")
            assert with_fitted(text, profile, shipped) == text, profile
            fit = shipped.fit_of(SPEAKS_FOR[profile], False)
            assert fit is not None
            held = {name for name, each in load_device(profile).efficiency if each is not None}
            assert set(fit.efficiencies) & set(Efficiency.model_fields) <= held, profile


def test_the_shipped_calibration_is_of_the_shipped_rows(
    shipped: CalibrationFile, rows: tuple[PublishedRow, ...]
) -> None:
    assert {(fit.chip, fit.is_eight_bit): fit.rows for fit in shipped.fits} == {
        group: len(of_group) for group, of_group in groups(rows).items()
    }
    assert all(shipped.row_of(row) for of_group in groups(rows).values() for row in of_group)


def test_a_fit_anew_gives_the_shipped_figures(shipped: CalibrationFile, rows: tuple[PublishedRow, ...]) -> None:
    """Of the smallest group, for the time that it takes."""
    of_chip = [row for row in rows if row.chip == "GB200" and not row.is_eight_bit]
    anew, refused = calibrate(of_chip, "test")
    assert not refused
    fit = shipped.fit_of("gb200", False)
    assert fit is not None
    assert anew.fits[0].efficiencies == pytest.approx(fit.efficiencies, rel=1e-3)
    for row in anew.rows:
        kept = next(each for each in shipped.rows if each.key == row.key)
        assert row.log_ratio == pytest.approx(kept.log_ratio, abs=2e-3)


def test_dense_h100_rows_are_predicted_within_the_planner_s_bar(
    shipped: CalibrationFile, rows: tuple[PublishedRow, ...]
) -> None:
    of_h100 = [row for row in rows if row.chip.startswith("H100") and row.is_time and not row.is_eight_bit]
    found, refused = predict_rows(of_h100, shipped)
    (score,) = scores([each.scored() for each in found])
    assert not refused
    assert all(each.was_fitted for each in found)
    assert score.errors.median <= 0.05
    assert score.errors.p90 <= 0.08
    assert score.null is not None
    assert score.errors.median < score.null.median
    assert score.coverage is not None
    assert 0.8 <= score.coverage <= 1


def test_a_fitted_row_s_prediction_does_not_know_its_family(
    shipped: CalibrationFile, rows: tuple[PublishedRow, ...]
) -> None:
    row = next(row for row in rows if row.chip.startswith("H100") and row.is_time and not row.is_eight_bit)
    (known,), _ = predict_rows([row], shipped)
    family = row.architecture.family
    assert not [each for each in known.interval.nearest if family in each]
    (new,), _ = predict_rows([replace(row, source="another program")], shipped)
    assert known.was_fitted
    assert not new.was_fitted
    assert new.seconds != known.seconds
    assert sum(new.terms.values()) == pytest.approx(new.seconds)
    assert new.interval.rows > known.interval.rows


def test_the_order_of_rows_does_not_matter_to_a_frozen_score(
    shipped: CalibrationFile, rows: tuple[PublishedRow, ...], tmp_path: Path
) -> None:
    chosen = [row for row in rows if row.is_time][::9]
    found, _ = predict_rows(chosen, shipped)
    freeze_rows(tmp_path / "frozen.json", found, shipped, 0.9)
    again, missing = scored(list(reversed(chosen)), read_frozen(tmp_path / "frozen.json"))
    assert not missing
    assert scores(again)[-1].errors == scores([each.scored() for each in found])[-1].errors


def test_a_chip_without_a_profile_is_said(shipped: CalibrationFile, rows: tuple[PublishedRow, ...]) -> None:
    for chip in ("An Unknown Chip 9000", "profile.toml", "../profile.json"):
        found, refused = predict_rows([replace(rows[0], chip=chip)], shipped)
        assert not found
        assert f"chip {chip!r} has no device profile" in refused[0]
        assert refused[0].startswith("row 2 (")


@pytest.mark.parametrize(
    ("fitted", "sibling"), [("A100", "A800"), ("H100", "H800"), ("ascend-a2-376t", "ascend-a2-313t")]
)
def test_rows_of_a_chip_without_a_fit_are_predicted_by_the_one_that_speaks_for_it(
    shipped: CalibrationFile, rows: tuple[PublishedRow, ...], fitted: str, sibling: str
) -> None:
    """So a chip with slower links or products, and the same memory, is not predicted faster."""
    job = replace(next(row for row in rows if row.is_time and row.tensor == 8), model="another", layers=16)
    (one, other), _ = predict_rows([replace(job, chip=chip, precision="bf16") for chip in (fitted, sibling)], shipped)
    assert other.terms["memory"] == pytest.approx(one.terms["memory"])
    assert other.seconds >= one.seconds
    assert other.terms["host"] == pytest.approx(one.terms["host"])


def test_fitted_figures_that_are_of_rows_do_not_reach_the_device() -> None:
    device = load_device("h100-sxm")
    moved = device_with(device, {"products": 0.5, ALONE: 0.8, FUSED: 0.25}, is_fused=True)
    assert moved.efficiency.products.value == 0.5
    assert moved.efficiency.tensor_exposed.value == 0.25
    assert device_with(device, {FUSED: 0.25}).efficiency.tensor_exposed == device.efficiency.tensor_exposed
    assert set(SPEAKS_FOR.values()) <= set(device_names())
    assert "products" in Efficiency.model_fields


def test_a_profile_s_share_of_the_memory_s_rate_is_not_the_published_rows(shipped: CalibrationFile) -> None:
    for name in device_names():
        fit = shipped.fit_of(SPEAKS_FOR.get(name, ""), False)
        share = load_device(name).efficiency.memory
        assert fit is None or share.value != fit.efficiencies["memory"]
        assert fit is None or share.source.startswith("prior: ")


def test_a_profile_that_no_row_speaks_for_is_left_alone(shipped: CalibrationFile) -> None:
    with pytest.raises(ValueError, match="no published row speaks for another"):
        with_fitted("[host]\n", "another", shipped)
