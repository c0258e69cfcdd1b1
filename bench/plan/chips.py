"""Names of chips, as devices print them and as sources write them, and the shipped profile of each. No torch."""

from __future__ import annotations

import functools
import re

from bench.plan.device import device_names
from grok1.config.refusals import quoted

# What devices call themselves, where that names a chip of a shipped profile (grok1.device.accelerator.PEAKS)
OF_DEVICES = {
    "Ascend910B2": "ascend-a2-376t",
    "Ascend910B3": "ascend-a2-313t",
    "Ascend910B4": "ascend-a2-280t",
    "NVIDIA A100-SXM4-80GB": "a100-sxm",
    "NVIDIA A800-SXM4-80GB": "a800-sxm",
    "NVIDIA B200": "b200",
    "NVIDIA GB200": "gb200",
    "NVIDIA H100 80GB HBM3": "h100-sxm",
    "NVIDIA H800": "h800-sxm",
}
# What sources call them. Where one does not tell SXM from PCIe, training jobs are taken to run on SXM
_OF_SOURCES = {
    "a100-sxm": ("reference chip (unstated, A100-class)", "A100", "A100 80GB", "A100 SXM", "A100 SXM 80GB"),
    "a800-sxm": ("A800", "A800 80GB", "A800 SXM", "A800 SXM 80GB"),
    "h100-sxm": ("H100", "H100 80GB", "H100 SXM", "H100 SXM5", "H100 SXM 80GB", "H100 SXM5 80GB"),
    "h800-sxm": ("H800 80GB", "H800 SXM", "H800 SXM 80GB"),
    "ascend-a2-376t": (  # sources do not name the variant
        "Ascend Atlas 900 A2 PODc", "Ascend A2 (MindSpeed-LLM CI, variant unstated)", "Ascend A2", "Ascend 910B",
        "Ascend Atlas 800T A2", "910B",
    ),
    "gb200": ("GB200 NVL72",),
    "ascend-a3-die-354t": ("Ascend A3", "Ascend A3 die", "Ascend 910C", "Ascend Atlas 900 A3 SuperPoD"),
}  # fmt: skip


def profile_of_device(name: str) -> str | None:
    """The shipped profile of a device by the name that it prints; None where none is of it."""
    return OF_DEVICES.get(name)


def profile_of(chip: str) -> str:
    """The shipped profile that a row's chip is taken as; never a file, which a stranger's row could name.

    Upper case, hyphens, spaces and the maker's name do not count.

    Raises:
        ValueError: there is none.
    """
    profile = _by_name().get(_plain(chip))
    if profile is None:
        known = ", ".join([names[0] for names in _OF_SOURCES.values()] + device_names())
        raise ValueError(f"chip {quoted(chip, 80)} has no device profile; known are {known}")
    return profile


@functools.cache
def _by_name() -> dict[str, str]:
    names = [(name, profile) for profile, of in _OF_SOURCES.items() for name in of]
    names += [*OF_DEVICES.items(), *((name, name) for name in device_names())]
    return {_plain(name): profile for name, profile in names}


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "", re.sub(r"^(nvidia|huawei)[\s_-]+", "", name.strip().casefold()))
