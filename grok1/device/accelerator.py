"""Accelerators, for the seam: what each needs before megatron is imported, and what it says of itself.

Nothing here patches: MindSpeed does, on being imported, as torch_npu does. `grok1.device.seam` calls `use_npu` and
`use_cuda`. Read from their sources; never run on an NPU or a GPU by this project.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from grok1.device.kind import DeviceError, installed
from grok1.device.mindspeed_options import MINDSPEED_FLAGS, FlagValue

# ---- making torch.cuda mean an NPU --------------------------------------------------------------------

_INSTALL_NPU = "install torch_npu and MindSpeed (docs/ascend.md), or use --device cpu"


def use_npu(
    flags: Mapping[str, FlagValue], local_ranks: int = 1, before_mindspeed: Callable[[], None] = lambda: None
) -> None:
    """torch_npu, its cuda-to-npu transfer, then MindSpeed with `flags`: this order is their API.

    Runs once a process, before megatron.core is imported: MindSpeed must create apex and transformer_engine
    stand-ins that megatron looks for while it is imported. It then imports megatron.core itself, which binds
    torch.distributed's functions: whoever wraps those does it in `before_mindspeed`, after the transfer has.
    """
    _refuse_late_call()
    import_torch_npu(local_ranks)
    before_mindspeed()
    # it makes the root logger write to stdout, two lines a rank while it is imported
    os.environ.setdefault("MIND_SPEED_LOG_LEVEL", "WARNING")
    with _argv(["mindspeed", *_as_argv(flags)]), _hushed():
        _import_mindspeed()
    _check_flags_arrived(flags)
    if flags.get("reuse-fp32-param"):
        _give_megatron_arguments()


def use_cuda(local_ranks: int = 1) -> None:
    """Check that torch sees a GPU for each local rank; megatron needs no patch on CUDA (backend: nccl).

    CUDA_DEVICE_MAX_CONNECTIONS=1 is the launcher's to set, before the first CUDA call. Without it
    megatron.core only warns (tensor_parallel/layers.py, linear_with_grad_accumulation_and_async_allreduce),
    under tensor parallelism; communication then no longer hides behind the GEMMs.
    """
    # not torch.cuda.is_available(): that initialises the driver, and ranks forked afterwards cannot use a GPU
    found = torch.cuda.device_count()
    if found == 0:
        raise DeviceError(
            "device cuda: torch sees no GPU; check nvidia-smi and torch's CUDA build, or use --device cpu"
        )
    _refuse_too_few("cuda", found, local_ranks, "CUDA_VISIBLE_DEVICES")


def _refuse_late_call() -> None:
    if "megatron.core" in sys.modules:
        raise DeviceError(
            "megatron.core was imported before the device was made ready; import grok1.megatron.door first"
        )


def _refuse_too_few(kind: str, found: int, needed: int, variable: str) -> None:
    if found < needed:
        raise DeviceError(
            f"device {kind}: {found} found on this machine for {needed} ranks; "
            f"lower --nproc-per-node, use more nodes, or check {variable}"
        )


def import_torch_npu(local_ranks: int) -> None:
    """torch_npu and its cuda-to-npu transfer; refuses a machine with fewer NPUs than ranks."""
    if not installed("torch_npu"):
        raise DeviceError(f"device npu needs torch_npu, which is not installed; {_INSTALL_NPU}")
    try:
        with _hushed():
            torch_npu = importlib.import_module("torch_npu")
            # counted before the transfer and before MindSpeed, so that a wrong count is refused in a second
            found = int(torch_npu.npu.device_count())
            importlib.import_module("torch_npu.contrib.transfer_to_npu")
    except (ImportError, OSError) as error:
        raise DeviceError(
            f"torch_npu does not load ({error}); source CANN's set_env.sh and match its version to torch's"
        ) from error
    _refuse_too_few("npu", found, local_ranks, "ASCEND_RT_VISIBLE_DEVICES")


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """torch_npu and MindSpeed warn while they are imported: of files' owners, of functions that torch deprecates.

    None of it is for whoever runs with warnings as errors (`python -W error`, pytest's filterwarnings). Filters that
    they set are undone at the end; those of the process are as they were.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def check_mindspeed_installed() -> None:
    """Refuse a machine without MindSpeed, or with the package index's placeholder of that name."""
    if not installed("mindspeed"):
        raise DeviceError(f"device npu needs MindSpeed, which is not installed; {_INSTALL_NPU}")
    if not installed("mindspeed.megatron_adaptor"):
        raise DeviceError(
            "mindspeed here has no megatron_adaptor (the package index holds a placeholder of that name); "
            "uninstall it and install MindSpeed from its repository: docs/ascend.md"
        )


def _import_mindspeed() -> None:
    check_mindspeed_installed()
    try:
        importlib.import_module("mindspeed.megatron_adaptor")
    except ModuleNotFoundError as error:
        # 26.0.0_core_r0.12.1 imports it in mindspeed/te/pytorch/fp8; the megatron-core wheel does not have it
        if error.name and error.name.startswith("megatron.training"):
            raise DeviceError(
                "this MindSpeed imports megatron.training, which the megatron-core wheel lacks; "
                "put a Megatron-LM core_v0.12.1 checkout on PYTHONPATH: docs/ascend.md"
            ) from error
        raise DeviceError(f"MindSpeed does not load ({error}); install what it needs: docs/ascend.md") from error


def _give_megatron_arguments() -> None:
    """Make `megatron.training.get_args()` answer with what MindSpeed parsed, for --reuse-fp32-param alone.

    Its wrappers of buffers, OptimizerConfig and optimizers ask it, and it raises in a program that never parsed
    Megatron's arguments. `disable_gloo_group` only tells the conversion which group to ask for this rank's place: as an
    option it would replace torch.distributed.new_group.
    """
    global_vars: Any = importlib.import_module("megatron.training.global_vars")
    args_utils: Any = importlib.import_module("mindspeed.args_utils")
    arguments = argparse.Namespace(**vars(args_utils.get_mindspeed_args()))
    arguments.disable_gloo_group = True
    global_vars.set_args(arguments)


def _as_argv(flags: Mapping[str, FlagValue]) -> list[str]:
    """True is the bare option, False its absence."""
    words: list[str] = []
    for name, value in flags.items():
        if isinstance(value, bool):
            words += [f"--{name}"] if value else []
        else:
            words += [f"--{name}", str(value)]
    return words


@contextlib.contextmanager
def _argv(words: list[str]) -> Iterator[None]:
    """MindSpeed parses sys.argv while it is imported, and turns every word it does not know into a default of
    TransformerConfig (as a string): it must see its flags alone, and we must get our own words back."""
    ours = sys.argv
    sys.argv = words
    try:
        yield
    finally:
        sys.argv = ours


def _check_flags_arrived(flags: Mapping[str, FlagValue]) -> None:
    """Refuse a MindSpeed that does not declare a flag of ours, or that read argv before we could set it."""
    args_utils: Any = importlib.import_module("mindspeed.args_utils")
    declared = vars(args_utils.get_mindspeed_args(get_defaults=True))
    read = vars(args_utils.get_mindspeed_args())
    for flag in MINDSPEED_FLAGS:
        wanted = flags.get(flag.name, False)
        if flag.declared_in and flag.attribute not in declared:
            raise DeviceError(f"this MindSpeed has no --{flag.name}; use branch 26.0.0_core_r0.12.1: docs/ascend.md")
        if wanted is not False and read.get(flag.attribute) != wanted:
            raise DeviceError(
                f"MindSpeed read --{flag.name} as {read.get(flag.attribute)!r}, not {wanted!r}: "
                "it was imported before grok1.device.seam; import grok1.megatron.door first"
            )


def npu_rms_norm(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """weight * x / sqrt(mean(x^2) + epsilon) in one kernel, in x's dtype; MindSpeed's norms call it in this way too."""
    torch_npu: Any = importlib.import_module("torch_npu")
    normalised: torch.Tensor = torch_npu.npu_rms_norm(x, weight, epsilon=epsilon)[0]
    return normalised


# ---- what a device says of itself ---------------------------------------------------------------------

# bf16 dense peak FLOP/s by the exact name the driver prints. A name not listed has no peak: never a guess.
# Left out on purpose: Ascend910B1 (one source says 373.9 T, core count x clock says otherwise), Ascend910B2C,
# Ascend910B4-1 and the A3 dies Ascend910_93xx (no two sources agree). NVIDIA names tell SXM from PCIe, and
# the peaks differ, so a part of a name is not enough.
_ASCEND_SOURCE = "Ascend msmodeling tensor_cast/device.py ({total}T part); cube cores x 8192 FLOP x clock"
PEAKS: Mapping[str, tuple[float, str]] = {
    "Ascend910B2": (353.9e12, _ASCEND_SOURCE.format(total=376)),
    "Ascend910B3": (294.9e12, _ASCEND_SOURCE.format(total=313)),
    "Ascend910B4": (245.8e12, _ASCEND_SOURCE.format(total=280)),
    "NVIDIA A100-SXM4-40GB": (312e12, "NVIDIA A100 data sheet, bf16 dense"),
    "NVIDIA A100-SXM4-80GB": (312e12, "NVIDIA A100 data sheet, bf16 dense"),
    "NVIDIA A100-PCIE-40GB": (312e12, "NVIDIA A100 data sheet, bf16 dense"),
    "NVIDIA A100 80GB PCIe": (312e12, "NVIDIA A100 data sheet, bf16 dense"),
    "NVIDIA A800-SXM4-80GB": (312e12, "as A100: A800 differs in NVLink and FP64"),
    "NVIDIA H100 80GB HBM3": (989e12, "NVIDIA H100 SXM data sheet, bf16 dense (1979 with sparsity)"),
    "NVIDIA H100 PCIe": (756e12, "NVIDIA H100 PCIe data sheet, bf16 dense"),
    "NVIDIA H800": (989e12, "as H100 SXM: H800 differs in NVLink and FP64"),
    "NVIDIA H200": (989e12, "NVIDIA H200 SXM data sheet, bf16 dense"),
}


def peak_flops_per_second(device_name: str) -> float | None:
    """bf16 dense peak of a chip by its printed name; None where no source settles it."""
    return PEAKS[device_name][0] if device_name in PEAKS else None


def describe_device(kind: Literal["cuda", "npu"]) -> dict[str, str | int | None]:
    """Name, memory and software versions of the first device; None for what cannot be read here."""
    module: Any = torch.cuda if kind == "cuda" else importlib.import_module("torch_npu").npu
    about: dict[str, str | int | None] = {
        "kind": kind,
        "name": str(module.get_device_name(0)),
        "memory_bytes": int(module.get_device_properties(0).total_memory),
    }
    if kind == "cuda":
        proc = _read(Path("/proc/driver/nvidia/version"))
        return about | {"driver": _first(r"\s(\d{3,}\.\d+(?:\.\d+)?)\s", proc), "cuda": torch.version.cuda}
    return about | {
        "driver": _first(r"(?im)^(?:package_)?version=(\S+)", _read(Path("/usr/local/Ascend/driver/version.info"))),
        "firmware": _first(r"(?im)^(?:package_)?version=(\S+)", _read(Path("/usr/local/Ascend/firmware/version.info"))),
        "cann": _cann_version(),
        "torch_npu": getattr(importlib.import_module("torch_npu"), "__version__", None),
    }


def _cann_version() -> str | None:
    """From the toolkit's own file: torch_npu's reader walks the working directory if it is unset."""
    home = os.environ.get("ASCEND_HOME_PATH") or os.environ.get("ASCEND_TOOLKIT_HOME")
    if not home:
        return None
    for path in sorted(Path(home).glob("*-linux/ascend_toolkit_install.info")):
        found = _first(r"(?m)^version=(\S+)", _read(path))
        if found:
            return found
    # older toolkits: runtime_running_version=[7.6.0.1.220:8.0.0], the package's version after the colon
    return _first(r"(?m)^\w+_running_version=\[(?:[^\]:]*:)?([^\]]+)\]", _read(Path(home) / "version.cfg"))


def _read(path: Path) -> str:
    """The start of a small text file, or nothing: these files describe a machine and are never required."""
    with contextlib.suppress(OSError), path.open(encoding="utf-8", errors="replace") as file:
        return file.read(4096)
    return ""


def _first(pattern: str, text: str) -> str | None:
    found = re.search(pattern, text)
    return found.group(1) if found else None
