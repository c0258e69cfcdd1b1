"""Fitted efficiencies, written into the shipped device profiles: no figure of them is typed by hand. No torch.

A profile whose chip has rows gets what they tell, and says of the rest that it is the prior. A profile without rows
gets the figures of the chip that is most like it, as priors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from bench.plan.calibration_file import CalibrationFile, StoredFit
from bench.plan.device import Efficiency, parse_device

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
    start = text.index("[efficiency]")
    lines = _lines(fit, speaker, is_own=speaker == profile)
    changed = text[:start] + _LINE.sub(lambda line: lines.get(line["name"], line[0]), text[start:])
    parse_device(changed.encode(), profile)
    return changed


def _lines(fit: StoredFit, speaker: str, *, is_own: bool) -> dict[str, str]:
    """A line for each efficiency that was fitted, by its name."""
    said = f"{fit.rows} {_ROWS_OF[speaker]}; residual median {fit.residual_median:.1%}"
    return {
        name: f'{name} = {{ value = {value!r}, source = "{_source(fit.told, name, said, is_own=is_own)}" }}'
        for name, value in fit.efficiencies.items()
        if name in Efficiency.model_fields
    }


def _source(told: Mapping[str, float], name: str, said: str, *, is_own: bool) -> str:
    if not is_own:
        return f"prior: as fitted on {said}"
    return f"fitted on {said}" if told[name] >= _TOLD else f"prior, hardly moved by {said}"
