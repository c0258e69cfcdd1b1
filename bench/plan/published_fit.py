"""The fit of each chip's efficiencies to published rows: which rows are of which profile, and what moves. No torch.

Priors hold what rows do not tell. Some figures are fitted that no profile has, because they are of the rows and not of
the chip: how much faster a layer that is timed alone runs than one in a step, perhaps since a chip that rests between
short tests clocks higher; what shows of exchanges that MC2 runs within a product; and the host's time of a launch, of
which a published job's work counts fewer than a program makes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from bench.plan.calibration_file import CalibrationFile, StoredFit, stored
from bench.plan.chips import profile_of
from bench.plan.device import Device, Duration, load_device
from bench.plan.fit import Prior
from bench.plan.layouts import Floats
from bench.plan.leave_out import Calibrated, Chip, calibrated, plausible
from bench.plan.predict import predict
from bench.plan.published import PublishedRow
from bench.plan.published_work import published_work
from bench.plan.situations import own_exchanges

ALONE, FUSED, CALL, STEP = "layer_alone", "fused_tensor_exposed", "host_call_seconds", "host_step_seconds"
_OF_ROWS = (ALONE, FUSED, CALL, STEP)
_PRIORS = {
    "products": Prior(0.65, 0.3),
    "shape_penalty": Prior(200.0, 0.15),
    "attention": Prior(0.5, 0.3),
    "memory": Prior(0.6, 0.3),
    "tensor_exposed": Prior(0.8, 0.5),
    "data_exposed": Prior(0.3, 0.3),
    "layer_seconds": Prior(60e-6, 0.15),
    # held: no dense row has an exchange of experts. A fit must not depend on what the last one wrote into the profile
    "exchange": Prior(0.6, 1e-3),
}
_EXCHANGE = {"exchange": Prior(0.6, 0.3), ALONE: Prior(1.0, 0.2)}  # of chips with rows of experts' exchange
_MC2 = ("use-mc2", "use-ascend-mc2")
_FUSION = {FUSED: Prior(0.5, 0.5)}  # of chips with rows of MC2
_HOST = {CALL: Prior(150e-6, 0.7), STEP: Prior(0.1, 2.0)}  # of chips with rows of small jobs
_HOST_BOUND = ("ascend-a2-376t",)


def groups(rows: Sequence[PublishedRow]) -> dict[tuple[str, bool], list[PublishedRow]]:
    """Rows that calibrate, by profile and whether their products are of 8 bits: times, of exchanges that are known."""
    found: dict[tuple[str, bool], list[PublishedRow]] = {}
    for row in rows:
        is_usable = row.is_time or (row.is_layer_alone and not row.is_eight_bit)
        if is_usable and not own_exchanges(row):
            found.setdefault((profile_of(row.chip), row.is_eight_bit), []).append(row)
    return found


def chip_of(profile: str, is_eight_bit: bool, rows: Sequence[PublishedRow]) -> Chip:
    """The profile as a fit sees it, with the priors that these rows can move.

    Raises:
        ValueError: there is no such profile, or it states no peak for the precision.
    """
    device = load_device(profile)
    dtype = "fp8" if is_eight_bit else None
    priors = dict(_PRIORS)
    if any(row.is_layer_alone for row in rows):
        priors |= _EXCHANGE
    if profile in _HOST_BOUND:
        priors |= _HOST
    if any(is_fused(row) for row in rows) and profile in _HOST_BOUND:
        priors |= _FUSION
    return Chip(profile, device.peak_flops(dtype or "bf16"), priors, lambda chosen: _Seconds(device, dtype, chosen))


def is_fused(row: PublishedRow) -> bool:
    """Its tensor ranks exchange within the products: MC2, which Ascend chips have."""
    return any(row.has(flag) for flag in _MC2) and not row.is_layout_assumed


class _Seconds:
    """Seconds of rows as a function of what is fitted; their work is made once."""

    def __init__(self, device: Device, dtype: str | None, rows: Sequence[PublishedRow]) -> None:
        self.device, self.dtype, self.rows = device, dtype, len(rows)
        self.alone = np.array([row.is_layer_alone for row in rows])
        fused = np.array([is_fused(row) for row in rows])
        self.parts = [
            (places, with_mc2, published_work([rows[place] for place in places.tolist()]))
            for with_mc2, places in ((False, np.flatnonzero(~fused)), (True, np.flatnonzero(fused)))
            if len(places)
        ]

    def __call__(self, values: Mapping[str, float]) -> Floats:
        seconds = np.empty(self.rows)
        for places, with_mc2, work in self.parts:
            device = device_with(self.device, values, is_fused=with_mc2)
            seconds[places] = predict(work, device, self.dtype).step_seconds
        return np.where(self.alone, seconds * values.get(ALONE, 1.0), seconds)


def device_with(device: Device, values: Mapping[str, float], *, is_fused: bool = False) -> Device:
    """The device with fitted figures: efficiencies, and what the host takes for a launch and a step.

    Args:
        device: of the profile.
        values: fitted ones, by name; others stay as they are.
        is_fused: tensor ranks exchange within the products, as MC2 does.
    """
    host = device.host
    update = {
        field: Duration.model_construct(value=values[name], source="fitted")
        for name, field in ((CALL, "seconds_a_call"), (STEP, "seconds_a_step"))
        if name in values
    }
    moved = {name: value for name, value in values.items() if name not in _OF_ROWS}
    if is_fused and FUSED in values:
        moved["tensor_exposed"] = values[FUSED]
    return device.with_efficiency("fitted", **moved).model_copy(update={"host": host.model_copy(update=update)})


def calibrate(rows: Sequence[PublishedRow], source: str) -> tuple[CalibrationFile, list[str]]:
    """Every profile's fit, with the residual of each row by a fit without its family; and a line for each row refused.

    Args:
        rows: published ones.
        source: where they are from, in words.

    Raises:
        ValueError: a row's chip has no profile.
    """
    fits, residuals, refused = [], [], []
    for (profile, is_eight_bit), of_chip in sorted(groups(rows).items()):
        chip = chip_of(profile, is_eight_bit, of_chip)
        kept, beyond = plausible(of_chip, chip)
        refused += beyond
        if kept:
            found = calibrated(kept, chip)
            fits.append(_stored(found, is_eight_bit))
            residuals += [stored(row, unseen) for row, unseen in zip(kept, found.rows, strict=True)]
    return CalibrationFile(source=source, fits=fits, rows=residuals), refused


def _stored(found: Calibrated, is_eight_bit: bool) -> StoredFit:
    fitted = found.fitted
    return StoredFit(
        chip=found.chip.name,
        is_eight_bit=is_eight_bit,
        rows=len(found.rows),
        efficiencies={name: float(f"{value:.6g}") for name, value in fitted.values.items()},
        told={name: round(value, 3) for name, value in fitted.told.items()},
        residual_median=round(fitted.median, 5),
        residual_p90=round(fitted.p90, 5),
        null_mfu=round(found.mfu, 6),
    )
