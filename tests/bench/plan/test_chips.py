"""A published chip is taken as a shipped profile, by whichever of its names a source writes."""

from __future__ import annotations

import pytest

from bench.plan.chips import OF_DEVICES, profile_of, profile_of_device
from bench.plan.device import device_names
from bench.plan.published import read_published


@pytest.mark.parametrize(
    ("name", "profile"),
    [
        ("h100-sxm", "h100-sxm"),
        ("H100", "h100-sxm"),
        ("NVIDIA H100 80GB HBM3", "h100-sxm"),
        ("nvidia h100-sxm5", "h100-sxm"),
        ("B200", "b200"),
        ("GB200", "gb200"),
        ("A100-SXM-80GB", "a100-sxm"),
        ("Ascend 910B", "ascend-a2-376t"),
        ("Ascend910B3", "ascend-a2-313t"),
        ("NVIDIA-H800", "h800-sxm"),
        ("NVIDIA_H100", "h100-sxm"),
        ("Huawei Ascend 910B", "ascend-a2-376t"),
        ("GB200 NVL72", "gb200"),
        ("Ascend A3", "ascend-a3-die-354t"),
    ],
)
def test_a_chip_has_many_names(name: str, profile: str) -> None:
    assert profile_of(name) == profile


@pytest.mark.parametrize("name", ["H100 PCIe", "H100 NVL", "A100 PCIe", "Ascend 310", "", "../h100-sxm.toml"])
def test_another_chip_is_none_of_them(name: str) -> None:
    with pytest.raises(ValueError, match="has no device profile; known are "):
        profile_of(name)


def test_every_name_leads_to_a_shipped_profile() -> None:
    assert set(OF_DEVICES.values()) <= set(device_names())
    assert {profile_of(row.chip) for row in read_published(assume_layouts=True).rows} <= set(device_names())


def test_a_device_is_known_by_the_very_name_that_it_prints() -> None:
    assert profile_of_device("NVIDIA H100 80GB HBM3") == "h100-sxm"
    assert profile_of_device("H100") is None
