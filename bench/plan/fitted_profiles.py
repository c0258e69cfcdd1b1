"""Fitted efficiencies, written into the shipped device profiles: no figure of them is typed by hand. No torch.

A profile whose chip has rows gets what they tell, and says of the rest that it is the prior. A profile without rows
gets the figures of the chip that is most like it, as priors.

What a published job passes through memory is estimated, and far fewer bytes than the ledger counts of our own program's
operators. The share of the memory's rate that rows fit belongs to that estimate: a profile, whose bytes are the
ledger's, has a measured share instead.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from bench.plan.calibration_file import CalibrationFile, StoredFit
from bench.plan.device import Efficiency, parse_device
from bench.plan.published_fit import CALL, FUSED, STEP

# Profiles, and the one whose rows speak for them
SPEAKS_FOR = {
    "h100-sxm": "h100-sxm", "h800-sxm": "h100-sxm",
    "a100-sxm": "a100-sxm", "a800-sxm": "a100-sxm",
    "gb200": "gb200", "b200": "gb200",
    "ascend-a2-376t": "ascend-a2-376t", "ascend-a2-313t": "ascend-a2-376t", "ascend-a2-280t": "ascend-a2-376t",
    "ascend-a3-die-354t": "ascend-a2-376t", "ascend-a3-die-246t": "ascend-a2-376t",
}  # fmt: skip
_ROWS_OF = {  # in words
    "h100-sxm": "published 16-bit rows of H100, 4 of a layer of experts alone among them",
    "a100-sxm": "published dense rows of an unnamed A100-class chip, layouts assumed",
    "gb200": "published dense 16-bit rows of GB200",
    "ascend-a2-376t": "published rows of A2, variant unstated, taken as 353.9 TFLOP/s",
}
_MEMORY = {  # share of the memory's rate, and who says so
    "ascend": (0.6, "prior: Ascend/msmodeling@84fec85:tensor_cast/device.py, its own words: to be calibrated"),
    "": (0.67, "prior: MooreThreads/SimuMax@4dcaae5:configs/system/b200_bf16_ceperm.json, of B200"),
}
# A layer has some 45 launches in a published job's work, and some 320 operators in the ledger of our own program
_OPERATORS_A_LAUNCH = 7
_TOLD = 0.1  # below it the rows left an efficiency at its prior
_LINE = re.compile(r"^(?P<name>[a-z_]+) = \{ value = [^,]+, source = \"[^\"]*\" \}$", re.MULTILINE)


def with_fitted(text: str, profile: str, calibration: CalibrationFile) -> str:
    """A profile's TOML text with the efficiencies of the calibration; other lines stay as they are.

    Raises:
        ValueError: the calibration has no fit for the profile, or a figure of it is none that a profile may hold.
    """
    speaker = SPEAKS_FOR.get(profile)
    fit = calibration.fit_of(speaker, False) if speaker else None
    if speaker is None or fit is None:
        raise ValueError(f"no published row speaks for {profile}: its efficiencies stay as they are")
    start = text.index("[host]")
    lines = _lines(fit, speaker, is_own=speaker == profile)
    lines["memory"] = _line("memory", *next(each for name, each in _MEMORY.items() if profile.startswith(name)))
    changed = text[:start] + _LINE.sub(lambda line: lines.get(line["name"], line[0]), text[start:])
    parse_device(changed.encode(), profile)
    return changed


def _lines(fit: StoredFit, speaker: str, *, is_own: bool) -> dict[str, str]:
    """A line for each figure that was fitted, by its name in a profile."""
    said = f"{fit.rows} {_ROWS_OF[speaker]}; residual median {fit.residual_median:.1%}"
    found = {name: value for name, value in fit.efficiencies.items() if name in Efficiency.model_fields}
    lines = {name: _line(name, value, _source(fit.told, name, said, is_own=is_own)) for name, value in found.items()}
    if FUSED in fit.efficiencies:
        source = _source(fit.told, FUSED, f"those with MC2 of {said}", is_own=is_own)
        lines[FUSED] = _line(FUSED, fit.efficiencies[FUSED], source)
    if CALL in fit.efficiencies:
        launch = f"; of an operator, of which {_OPERATORS_A_LAUNCH} are a launch of published work"
        seconds = float(f"{fit.efficiencies[CALL] / _OPERATORS_A_LAUNCH:.3g}")
        lines["seconds_a_call"] = _line(
            "seconds_a_call", seconds, _source(fit.told, CALL, said, is_own=is_own) + launch
        )
        step = _source(fit.told, STEP, said, is_own=is_own)
        lines["seconds_a_step"] = _line("seconds_a_step", fit.efficiencies[STEP], step)
    return lines


def _line(name: str, value: float, source: str) -> str:
    return f'{name} = {{ value = {value!r}, source = "{source}" }}'


def _source(told: Mapping[str, float], name: str, said: str, *, is_own: bool) -> str:
    if not is_own:
        return f"prior: as fitted on {said}"
    return f"fitted on {said}" if told[name] >= _TOLD else f"prior, hardly moved by {said}"
