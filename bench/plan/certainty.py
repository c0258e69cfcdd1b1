"""How sure a plan's times are: intervals of a recipe's layouts, and the null model beside. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.plan.anchor import Anchor, anchor_of, anchored_interval, seconds_of_record
from bench.plan.architectures import Architecture
from bench.plan.calibration_file import CalibrationFile
from bench.plan.device import OF_WIDTH, Device, device_names, load_device
from bench.plan.intervals import LEVEL, Interval, interval_of
from bench.plan.layouts import Floats, Layouts, layouts_of
from bench.plan.null_model import null_seconds
from bench.plan.situations import Situation, situation
from bench.records.record import Record
from grok1.config.recipe import Recipe

OWN_RELEASE = "this program"  # of which no published row is


@dataclass(frozen=True)
class Certainty:
    """What a plan's predictions are measured against."""

    device: Device
    calibration: CalibrationFile
    anchor: Anchor | None = None
    level: float = LEVEL

    @property
    def speaks(self) -> bool:
        """Whether there are intervals: published rows say nothing of a machine that was calibrated by itself."""
        return self.device.measured is None or self.anchor is not None

    def intervals(self, layouts: Layouts, seconds: Floats, rows: Sequence[int]) -> list[Interval]:
        """Intervals of the predicted steps of these rows of the layouts; anchored ones are of anchored times."""
        family = architecture_of_recipe(layouts.recipe).family
        return [
            self._interval(family, situation_of_layout(layouts, row, self.device), float(seconds[row])) for row in rows
        ]

    def _interval(self, family: str, job: Situation, seconds: float) -> Interval:
        rows = self.calibration.calibration_rows()
        if self.anchor is not None:
            return anchored_interval(seconds, family, job, self.anchor, rows, self.level)
        return interval_of(seconds, job, rows, self.level)

    def null_step_seconds(self, recipe: Recipe, world_size: int) -> float | None:
        """What the null model predicts of any layout of so many ranks: by the MFU of the chip's rows, or of the anchor.

        None where neither is known; rows are of 16 bits, and say nothing of the peak in 32.
        """
        is_fp32 = recipe.training.dtype == "fp32"
        fit = None if is_fp32 else self.calibration.fit_of(chip_of_profile(self.device), False)
        mfu = self.anchor.mfu if self.anchor else fit.null_mfu if fit else None
        if mfu is None:
            return None
        peak = self.device.peak_flops(_dtype(recipe)) * world_size
        return float(null_seconds([_model_flops(recipe)], [peak], mfu)[0])


def architecture_of_recipe(recipe: Recipe) -> Architecture:
    """The sizes of a recipe's model as published rows have them."""
    model = recipe.model
    return Architecture(
        hidden_size=model.hidden_size,
        ffn_hidden_size=model.ffn_hidden_size,
        num_attention_heads=model.num_attention_heads,
        num_query_groups=model.num_query_groups,
        head_dim=model.head_dim,
        vocab_size=model.vocab_size,
        num_experts=model.num_experts,
        experts_per_token=model.experts_per_token,
    )


def chip_of_profile(device: Device) -> str:
    """The chip whose published rows speak for a profile: that of its name, where its figures are the shipped ones.

    A file that took a shipped name and has other figures is of another chip, for which those rows say little.
    """
    is_shipped = device.name not in device_names() or device == load_device(device.name)
    return device.name if is_shipped else f"{device.name} with figures of your own"


def situation_of_layout(layouts: Layouts, row: int, device: Device) -> Situation:
    """What is predicted of one layout, as its certainty depends on it."""
    model, training = layouts.recipe.model, layouts.recipe.training
    columns = {"TP": layouts.tensor, "PP": layouts.pipeline, "VPP": layouts.virtual_pipeline, "CP": layouts.context,
               "EP": layouts.expert, "ETP": layouts.expert_tensor}  # fmt: skip
    return situation(
        chip=chip_of_profile(device),
        precision="32 bits" if training.dtype == "fp32" else "16 bits",
        num_experts=model.num_experts,
        split={name: int(column[row]) for name, column in columns.items()},
        is_recomputed=layouts.recomputes[int(layouts.recompute[row])].kind != "none",
        release=OWN_RELEASE,
        sizes=(
            model.hidden_size,
            model.num_layers,
            training.sequence_length,
            int(layouts.micro_batch[row]),
            int(layouts.world_size[row]),
        ),
    )


def anchor_of_record(record: Record, recipe: Recipe, predicted_seconds: float, device: Device) -> Anchor:
    """A recorded run as an anchor of plans for the same device.

    Args:
        record: of the run.
        recipe: that ran, with the record's layout.
        predicted_seconds: of its step by the planner, without an anchor.
        device: of the profile.

    Raises:
        ValueError: the record is void, or cannot be of this job and chip.
    """
    world_size = recipe.parallel.world_size
    if record.layout.world_size != world_size:
        raise ValueError(
            f"record {record.id} is of {record.layout.world_size} ranks, the recipe of {world_size}: give the recipe "
            "that ran"
        )
    return anchor_of(
        f"record {record.id} of {record.case}",
        architecture_of_recipe(recipe).family,
        situation_of_layout(layouts_of(recipe), 0, device),
        seconds_of_record(record),
        predicted_seconds,
        model_flops=record.work.model_flops_per_step,
        peak_flops=device.peak_flops(_dtype(recipe)) * world_size,
    )


def _dtype(recipe: Recipe) -> str:
    return OF_WIDTH[4 if recipe.training.dtype == "fp32" else 2]


def _model_flops(recipe: Recipe) -> float:
    return recipe.flops_per_step()
