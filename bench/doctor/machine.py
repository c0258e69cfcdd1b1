"""Driver, software and devices: the first three checks, from what a short-lived process reads of this machine.

`python -m bench.doctor.machine DEVICE` prints it as JSON. A process of its own, because a driver that does not fit its
libraries may kill the process that asks it, or never answer.
"""

from __future__ import annotations

import importlib.util
import json
import platform
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, cast

from packaging.requirements import Requirement
from packaging.version import Version

from bench.doctor.findings import Finding, failed, passed
from bench.places import SOURCES, shipped
from grok1.device.kind import Kind, installed

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_OURS = "grok1-bench"
_PACKAGES = ("torch", "torch_npu", "megatron-core", "mindspeed", "numpy")
_MODULES = ("torch", "megatron.core", "torch_npu", "mindspeed")
_SECONDS = 180  # torch_npu and MindSpeed take a minute to load from a cold disk
DRIVER_FILES: dict[Kind, tuple[str, ...]] = {
    "cpu": (),
    "cuda": ("/proc/driver/nvidia/version",),
    "npu": ("/usr/local/Ascend/driver/version.info", "/dev/davinci_manager_docker", "/dev/davinci0"),
}
_DRIVER_REMEDY = {
    "cpu": "",
    "cuda": "install NVIDIA's driver, or give the container the GPUs (docker: --gpus all); nvidia-smi must answer",
    "npu": "install the Ascend driver and firmware, or mount them into the container; npu-smi info must answer",
}
_DEVICES_REMEDY = {
    "cpu": "",
    "cuda": "nvidia-smi; check CUDA_VISIBLE_DEVICES and that torch's CUDA is not newer than the driver's",
    "npu": "npu-smi info; check ASCEND_RT_VISIBLE_DEVICES, and source CANN's set_env.sh (docs/ascend.md)",
}
_INSTALL = {
    "cpu": "make venv, or pip install -r constraints/dev.txt",
    "cuda": "install torch's CUDA build first, then this project (docs/gpus.md)",
    "npu": "pip install -r constraints/ascend.txt (docs/ascend.md)",
}


@dataclass(frozen=True)
class Machine:
    """What this machine says of itself; empty or 0 where it does not."""

    kind: Kind
    driver_files: list[str] = field(default_factory=list)  # those that are there
    driver: str = ""
    packages: dict[str, str] = field(default_factory=dict)  # versions, of those that pip installed
    modules: list[str] = field(default_factory=list)  # those that can be imported, from a checkout too
    python: str = ""
    torch_cuda: str = ""  # the CUDA that torch was built for
    devices: int = 0
    device_name: str = ""
    memory_bytes: int = 0
    trouble: str = ""  # why the devices could not be asked


def examine(kind: Kind) -> Machine:
    """What a process of its own reads of this machine."""
    command = [sys.executable, "-m", "bench.doctor.machine", kind]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, cwd=SOURCES, check=False)
        return Machine(**json.loads(done.stdout.splitlines()[-1]))
    except subprocess.TimeoutExpired:
        return Machine(kind, trouble=f"no answer within {_SECONDS} s", **software())
    except (IndexError, ValueError, TypeError):
        last = (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        trouble = f"the process that asked ended with exit code {done.returncode}: {last}"
        return Machine(kind, trouble=trouble[:500], **software())


def look(kind: Kind) -> Machine:
    """Reads this machine, in this process."""
    files = [name for name in DRIVER_FILES[kind] if Path(name).exists()]
    devices: dict[str, Any] = {"trouble": ""}
    try:
        devices |= _devices(kind)
    except Exception as error:  # whatever a driver or a package raises is the finding
        devices["trouble"] = f"{type(error).__name__}: {error}"[:500]
    return Machine(kind, driver_files=files, **software(), **devices)


def software() -> dict[str, Any]:
    """Versions, and torch's CUDA; nothing is imported."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    modules = [name for name in _MODULES if installed(name)]
    return {"packages": found, "modules": modules, "python": platform.python_version(), "torch_cuda": _torch_cuda()}


def _torch_cuda() -> str:
    """From torch's version.py, which imports nothing."""
    spec = importlib.util.find_spec("torch")
    places = spec.submodule_search_locations if spec else None
    for place in places or []:
        path = Path(place) / "version.py"
        found = importlib.util.spec_from_file_location("torch_version", path)
        if path.is_file() and found is not None and found.loader is not None:
            module = importlib.util.module_from_spec(found)
            found.loader.exec_module(module)
            return str(getattr(module, "cuda", None) or "")
    return ""


def _devices(kind: Kind) -> dict[str, Any]:
    from grok1.device.processor import processor_name

    if kind == "cpu":
        import psutil

        return {"devices": psutil.cpu_count() or 1, "device_name": processor_name()}
    from grok1.device import seam
    from grok1.device.accelerator import describe_device

    seam.check_available(kind, 1)
    import torch

    about = describe_device(kind)
    return {
        "devices": torch.cuda.device_count(),  # on an NPU this is torch_npu's, transferred
        "device_name": str(about["name"]),
        "memory_bytes": int(about["memory_bytes"] or 0),
        "driver": str(about["driver"] or ""),
    }


# ---- verdicts ------------------------------------------------------------------------------------------


def judge_driver(machine: Machine) -> Finding:
    """Is the driver there?"""
    if machine.kind == "cpu":
        return passed("driver", "a CPU needs none")
    if not machine.driver_files:
        looked = ", ".join(DRIVER_FILES[machine.kind])
        return failed("driver", f"there is none of {looked}", _DRIVER_REMEDY[machine.kind])
    return passed("driver", f"version {machine.driver or 'unknown'} ({machine.driver_files[0]} is there)")


def judge_software(machine: Machine, ranges: list[str], pins: list[str]) -> Finding:
    """Does torch's build fit the device, and do the versions lie in the project's ranges?

    `ranges` are the project's requirements; `pins`, lines of the constraints file for this device. On an NPU a version
    that is not the pinned one fails: torch, torch_npu and CANN are built for each other.
    """
    remedy = _INSTALL[machine.kind]
    wrong = [*_wrong_build(machine), *_outside(machine.packages, ranges)]
    off = list(_off_pin(machine.packages, pins))
    if wrong or (off and machine.kind == "npu"):
        return failed("software", "; ".join([*wrong, *off]), remedy)
    build = f"CUDA {machine.torch_cuda}" if machine.torch_cuda else "no CUDA"
    words = f"Python {machine.python}, {', '.join(f'{k} {v}' for k, v in machine.packages.items())}; torch has {build}"
    return passed("software", words + (f"; in range, but not as pinned: {', '.join(off)}" if off else ""))


def _wrong_build(machine: Machine) -> Iterator[str]:
    for name in _MODULES if machine.kind == "npu" else _MODULES[:2]:
        if name not in machine.modules:
            yield f"{name} is not installed"
    if "torch" in machine.modules and machine.kind == "cuda" and not machine.torch_cuda:
        yield "torch is a CPU build"
    if machine.kind == "npu" and machine.torch_cuda:
        yield f"torch is built for CUDA {machine.torch_cuda}; torch_npu wants a CPU build"


def _outside(packages: dict[str, str], ranges: list[str]) -> Iterator[str]:
    for wanted in map(Requirement, ranges):
        version = packages.get(wanted.name)
        if version and not wanted.specifier.contains(Version(version).public, prereleases=True):
            yield f"{wanted.name} {version} is outside {wanted.specifier}"


def _off_pin(packages: dict[str, str], pins: list[str]) -> Iterator[str]:
    for pin in map(Requirement, pins):
        version = packages.get(pin.name)
        applies = pin.marker is None or pin.marker.evaluate()
        # a pin without a local part fits any build of its version; numpy's is a suggestion
        if version and applies and pin.name != "numpy" and not pin.specifier.contains(version, prereleases=True):
            yield f"{pin.name} {version} is not the pinned {str(pin.specifier).removeprefix('==')}"


def judge_devices(machine: Machine, needed: int) -> Finding:
    """Does torch see as many devices as the checks are to use?"""
    remedy = _DEVICES_REMEDY[machine.kind]
    if machine.trouble:
        return failed("devices", f"torch cannot use {machine.kind}: {machine.trouble}", remedy)
    what = f"{machine.devices} x {machine.device_name}"
    if machine.kind == "cpu":
        return passed("devices", f"{machine.device_name}, {machine.devices} cores, {needed} ranks share them")
    if machine.devices < max(1, needed):
        return failed("devices", f"torch sees {what}, {needed} are needed", remedy, {"devices": float(machine.devices)})
    memory = f", {machine.memory_bytes / 2**30:.1f} GiB each" if machine.memory_bytes else ""
    return passed("devices", f"torch sees {what}{memory}", {"devices": float(machine.devices)})


def project_ranges(kind: Kind) -> list[str]:
    """The project's requirements on what is looked at."""
    if SOURCES is None:
        return [each for each in metadata.requires(_OURS) or [] if _applies(Requirement(each), kind)]
    project = tomllib.loads((SOURCES / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = project["dependencies"] + (project["optional-dependencies"]["npu"] if kind == "npu" else [])
    return [each for each in wanted if Requirement(each).name in _PACKAGES]


def _applies(wanted: Requirement, kind: Kind) -> bool:
    """Whether an installed package's requirement, whose extra is part of its marker, is one on what is looked at."""
    extra = "npu" if kind == "npu" else ""
    return wanted.name in _PACKAGES and (wanted.marker is None or wanted.marker.evaluate({"extra": extra}))


def pins_for(kind: Kind) -> list[str]:
    """The constraints file's lines on what is looked at."""
    path = shipped("constraints") / ("ascend.txt" if kind == "npu" else "dev.txt")
    lines = [
        line for line in path.read_text(encoding="utf-8").splitlines() if line.strip() and not line.startswith("#")
    ]
    return [line for line in lines if Requirement(line).name in _PACKAGES]


if __name__ == "__main__":
    print(json.dumps(asdict(look(cast(Kind, sys.argv[1])))))  # `examine` has given it
