"""Which device and which recipe this process is for. The only place that decides the device; no torch."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import os
import re
import sys
from collections.abc import Callable
from typing import Literal, ParamSpec, TypeVar

from grok1.config.recipe import Recipe
from grok1.config.refusals import printable, quoted
from grok1.config.sections import Kernels

P = ParamSpec("P")
R = TypeVar("R")
Kind = Literal["cpu", "cuda", "npu"]
KINDS: tuple[Kind, ...] = ("cpu", "cuda", "npu")
KIND_VARIABLE = "GROK1_DEVICE"  # how a launcher tells its ranks
_FIRST_ENGINE, _AFTER_ENGINES = (2, 9), (2, 12)  # megatron-core 0.16's own range; decision 20 says more

_activated: Kind | None = None  # what torch was made ready for in this process, which cannot change
_recipe: Recipe | None = None


class DeviceError(ValueError):
    """The requested device cannot be used here; the message says what is missing and what to do."""


def device_kind() -> Kind:
    """The device of this process: the one that torch was made ready for, else `chosen_kind()`."""
    return _activated or chosen_kind()


def chosen_kind(option: str | None = None) -> Kind:
    """The device that `--device` names, else the one that the launcher named, else the one that this machine has.

    Raises:
        DeviceError: what was named is no device.
    """
    if option:
        return _checked(option, f"--device {option} is none of {', '.join(KINDS)}")
    named = os.environ.get(KIND_VARIABLE)
    if named:
        remedy = f"unset {KIND_VARIABLE} or choose one"
        return _checked(named, f"device {quoted(named)} is none of {', '.join(KINDS)}; {remedy}")
    return _machine_kind()


def set_kind(kind: Kind) -> None:
    """Name the device for this process and all that it starts.

    Raises:
        DeviceError: another one is named already; ranks that were started cannot change.
    """
    named = os.environ.get(KIND_VARIABLE)
    if named and named != kind:
        raise DeviceError(f"this process already runs ranks on {named}; start another one for {kind}")
    os.environ[KIND_VARIABLE] = kind


def activated_kind() -> Kind | None:
    """The device that torch was made ready for in this process, if it was."""
    return _activated


def set_activated_kind(kind: Kind) -> None:
    """For grok1.device.seam: torch was made ready for this device."""
    global _activated
    _activated = kind


def set_recipe(recipe: Recipe) -> None:
    """Name the recipe of this process, before torch is made ready: on an NPU it decides what MindSpeed replaces.

    Raises:
        DeviceError: torch was made ready on an NPU for another recipe, and MindSpeed patches once a process.
    """
    global _recipe
    if _activated == "npu" and recipe != _recipe:
        before = _recipe.name if _recipe else "no recipe"
        raise DeviceError(f"this process was made ready for {before}; start another one for {recipe.name}")
    _recipe = recipe


def chosen_recipe() -> Recipe | None:
    """The recipe that this process was told of, if any: converting weights and preparing data have none."""
    return _recipe


def installed(module: str) -> bool:
    """Whether the module can be imported. Imports its parents, but not the module itself."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ModuleNotFoundError, ValueError):  # no parent package, or a module without a spec
        return module in sys.modules


def check_choices(recipe: Recipe, kind: Kind) -> None:
    """Refuse a recipe's choices that this kind of device cannot compute, each with what to set instead."""
    if recipe.kernels.experts == "grouped":
        check_grouped_gemm(kind)
    check_transformer_engine(recipe.kernels, kind)
    if recipe.kernels.norm == "npu":
        check_npu_norm(kind)
    if recipe.kernels.linear == "mc2" and kind != "npu":
        raise DeviceError(
            f"kernels.linear mc2: MC2 is MindSpeed's, for NPUs, and this is {kind}; set kernels.linear=megatron"
        )
    if recipe.training.reuse_fp32_parameters and kind != "npu":
        raise DeviceError(
            f"training.reuse_fp32_parameters: it is MindSpeed's, for NPUs, and this is {kind}; "
            "set training.reuse_fp32_parameters=false"
        )


def check_transformer_engine(kernels: Kernels, kind: Kind) -> None:
    """Refuse what Transformer Engine computes where it is not, or is of a version that was never read and executed.

    Its version is that of the installed distribution: to import it takes seconds, and starts CUDA.
    """
    for choice, remedy in kernels.of_transformer_engine():
        if kind != "cuda":
            raise DeviceError(f"{choice} on {kind}: Transformer Engine runs on CUDA alone; {remedy}")
        if not installed("transformer_engine"):
            raise DeviceError(
                f"{choice} needs the package transformer_engine, which is not installed; "
                f"install it (docs/gpus.md), or {remedy}"
            )
        version = transformer_engine_version()
        release = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
        if not _FIRST_ENGINE <= release < _AFTER_ENGINES:
            first, after = (".".join(map(str, each)) for each in (_FIRST_ENGINE, _AFTER_ENGINES))
            raise DeviceError(
                f"{choice} with transformer_engine {printable(version)}: {first} and later is taken, below {after}; "
                f"install that (docs/gpus.md), or {remedy}"
            )


def transformer_engine_version() -> str:
    """Of the installed distribution, such as "2.9.0+7f2a"; "unknown" where the package has none."""
    try:
        return importlib.metadata.version("transformer_engine")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def check_grouped_gemm(kind: Kind) -> None:
    """Refuse `kernels.experts` grouped where nothing computes it; on an NPU MindSpeed does, which is checked first."""
    if kind == "cpu":
        raise DeviceError(
            "kernels.experts grouped: a CPU has no grouped GEMM; set kernels.experts=fused, or use --device cuda or npu"
        )
    if kind == "cuda" and not installed("grouped_gemm"):
        raise DeviceError(
            "kernels.experts grouped needs the package grouped_gemm on cuda, which is not installed; "
            "install it (docs/gpus.md), or set kernels.experts=sequential"
        )


def check_npu_norm(kind: Kind) -> None:
    """Refuse `kernels.norm` npu where torch_npu's kernel does not run."""
    if kind != "npu":
        raise DeviceError(
            f"kernels.norm npu on {kind}: the kernel is torch_npu's; set kernels.norm=torch, or use --device npu"
        )


def _machine_kind() -> Kind:
    """By the device files that a driver makes: to ask torch would take seconds, and starts the driver."""
    if os.path.exists("/dev/davinci_manager"):
        return "npu"
    return "cuda" if os.path.exists("/dev/nvidiactl") else "cpu"


def _checked(name: str, complaint: str) -> Kind:
    for kind in KINDS:
        if kind == name:
            return kind
    raise DeviceError(complaint)


def cpu_only(change: Callable[P, R]) -> Callable[P, R | None]:
    """Make a change of others' code or objects one that happens on a CPU; elsewhere it does nothing, and gives None.

    The one place that keeps to a CPU what was executed on no other device. What only saves work there may be wrong on
    an accelerator, where MindSpeed or a backend changes the same objects.
    """

    @functools.wraps(change)
    def call(*args: P.args, **kwargs: P.kwargs) -> R | None:
        return change(*args, **kwargs) if device_kind() == "cpu" else None

    return call
