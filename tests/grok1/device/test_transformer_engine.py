"""Kernels of Transformer Engine's are refused before anything starts where it is not, in one line with the remedy."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest

from grok1.config.load import load_recipe
from grok1.config.recipe import Recipe
from grok1.device import kind
from tests.grok1.conftest import as_options, run_grok1

CHOICES = {
    "kernels.experts": ("te_grouped", "sequential"),
    "kernels.dispatch": ("te", "megatron"),
    "kernels.cross_entropy": ("te", "megatron"),
    "kernels.attention": ("te", "torch"),
}
every_choice = pytest.mark.parametrize("key", CHOICES)


def recipe(key: str) -> Recipe:
    return load_recipe("grok1-nano", [f"{key}={CHOICES[key][0]}"])


def refused(key: str, device: kind.Kind, reason: str) -> None:
    value, plain = CHOICES[key]
    with pytest.raises(kind.DeviceError, match=f"^{key} {value} {reason}.* set {key}={plain}$") as caught:
        kind.check_choices(recipe(key), device)
    assert "\n" not in str(caught.value)


@pytest.fixture
def version(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What is installed, by version."""
    told: dict[str, str] = {"transformer_engine": "2.9.0"}
    monkeypatch.setattr(kind, "installed", lambda module: module in told)
    monkeypatch.setattr(importlib.metadata, "version", lambda package: told[package])
    return told


@every_choice
@pytest.mark.parametrize("device", ["cpu", "npu"])
def test_off_cuda(key: str, device: kind.Kind, version: dict[str, str]) -> None:
    refused(key, device, f"on {device}: Transformer Engine runs on CUDA alone;")


@every_choice
def test_on_cuda_without_it(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kind, "installed", lambda module: module != "transformer_engine")
    refused(key, "cuda", r"needs the package transformer_engine, which is not installed; .*docs/gpus.md")


@every_choice
@pytest.mark.parametrize("taken", ["2.9.0", "2.9.0+7f2a", "2.10.0", "2.11.1.dev3"])
def test_versions_that_are_taken(key: str, taken: str, version: dict[str, str]) -> None:
    version["transformer_engine"] = taken
    kind.check_choices(recipe(key), "cuda")


@pytest.mark.parametrize("other", ["1.13.0", "2.1", "2.8.0", "2.12.0", "3.0.0", "2"])
def test_other_versions_are_named(other: str, version: dict[str, str]) -> None:
    version["transformer_engine"] = other
    refused("kernels.cross_entropy", "cuda", f"with transformer_engine {other}: 2.9 and later is taken, below 2.12;")


def test_a_package_without_a_version_is_refused(version: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(package: str) -> str:
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(importlib.metadata, "version", unknown)
    refused("kernels.experts", "cuda", "with transformer_engine unknown:")


def test_recipes_without_it_do_not_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kind, "installed", lambda module: False)
    for device in kind.KINDS:
        kind.check_choices(load_recipe("grok1-nano"), device)


def test_the_command_ends_with_2_and_one_line(tmp_path: Path) -> None:
    options = as_options(["kernels.experts=te_grouped"])
    done = run_grok1("train", "--recipe", "grok1-nano", "--steps", 1, "--device", "cpu", *options)
    assert done.returncode == 2
    assert done.stderr.startswith("grok1: kernels.experts te_grouped on cpu: ")
    assert done.stderr.count("\n") == 1
