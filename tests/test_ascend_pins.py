"""The Ascend pins: on either machine one torch and one torch_npu that match, and the Ascend page names them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

HOUSE = Path(__file__).resolve().parents[1]
MACHINES = ("aarch64", "x86_64")
# what the wheels of torch_npu 2.7.1 and 2.7.1.post6 for Python 3.10 require, read from their metadata
TORCH_WANTED = {"aarch64": "torch==2.7.1", "x86_64": "torch==2.7.1+cpu"}


def pins_on(machine: str, text: str) -> dict[str, Version]:
    """Name -> version of what the lines say for that machine on Python 3.10; refuses two versions of one package."""
    here = {"platform_machine": machine, "python_version": "3.10", "sys_platform": "linux"}
    pins: dict[str, Version] = {}
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        pin = Requirement(line)
        if pin.marker is None or pin.marker.evaluate(here):
            (exact,) = pin.specifier
            assert exact.operator == "=="
            assert pin.name not in pins, f"{pin.name} is pinned twice on {machine}"
            pins[pin.name] = Version(exact.version)
    return pins


def mismatch(machine: str, pins: dict[str, Version]) -> str:
    """Why torch_npu would not install beside that torch; empty where it would."""
    wanted = Requirement(TORCH_WANTED[machine])
    if "torch" not in pins or "torch_npu" not in pins:
        return f"torch or torch_npu is not pinned on {machine}"
    if not wanted.specifier.contains(pins["torch"], prereleases=True):
        return f"torch {pins['torch']} on {machine}: torch_npu wants {wanted}"
    if pins["torch_npu"].release != pins["torch"].release:
        return f"torch_npu {pins['torch_npu']} is not built for torch {pins['torch']}"
    return ""


@pytest.fixture(scope="module")
def text() -> str:
    return (HOUSE / "constraints" / "ascend.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("machine", MACHINES)
def test_torch_and_torch_npu_match(machine: str, text: str) -> None:
    assert not mismatch(machine, pins_on(machine, text))


@pytest.mark.parametrize("machine", MACHINES)
def test_every_pin_lies_in_the_declared_range(machine: str, text: str) -> None:
    project = tomllib.loads((HOUSE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    ranges = {
        each.name: each.specifier
        for each in map(Requirement, project["dependencies"] + project["optional-dependencies"]["npu"])
    }
    pins = pins_on(machine, text)
    assert not [name for name, version in pins.items() if not ranges[name].contains(version)]


def test_the_ascend_page_names_these_versions(text: str) -> None:
    page = (HOUSE / "docs" / "ascend.md").read_text(encoding="utf-8")
    versions = {str(version) for machine in MACHINES for version in pins_on(machine, text).values()}
    assert not [version for version in versions if version not in page]


@pytest.mark.parametrize(
    ("machine", "lines"),
    [
        ("x86_64", "torch==2.7.1\ntorch_npu==2.7.1"),
        ("aarch64", "torch==2.7.1+cpu ; platform_machine == 'x86_64'\ntorch_npu==2.7.1"),
        ("aarch64", "torch==2.8.0\ntorch_npu==2.7.1"),
        ("aarch64", "torch==2.7.1\ntorch_npu==2.8.0"),
    ],
)
def test_pins_that_do_not_match_are_named(machine: str, lines: str) -> None:
    assert mismatch(machine, pins_on(machine, lines))


def test_a_package_that_is_pinned_twice_is_named() -> None:
    with pytest.raises(AssertionError, match="twice"):
        pins_on("x86_64", "torch==2.7.1\ntorch==2.7.1+cpu ; platform_machine == 'x86_64'")
