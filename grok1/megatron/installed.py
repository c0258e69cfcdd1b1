"""Which line of megatron-core is installed. No torch, and megatron is not imported.

Three lines are supported, each by a module of its own: line_0_12.py, line_0_16.py and line_0_19.py hold all that
differs. Nothing else asks for a version.
"""

from __future__ import annotations

import importlib.util
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Literal, cast, get_args

from grok1.config.refusals import reason_of
from grok1.files import NotDoneError

Line = Literal["0.12", "0.16", "0.19"]

_LINES_WITH_GROUPED_EXPERTS: tuple[Line, ...] = ("0.12", "0.16")
_LINES_OF_ANY_LAYOUT: tuple[Line, ...] = ("0.12",)
_NPU_LINE: Line = "0.12"  # the one that MindSpeed patches
FIRST_LINE: Line = "0.12"  # that wrote the checkpoints that do not say it
PLANNED_LINE: Line = "0.12"  # the one whose memory and exchanges `python -m bench plan` has closed forms of
_MAX_BYTES = 64 * 1024


def megatron_core_folder() -> Path | None:
    """megatron/core of the first megatron on the path that has one: a namespace, so a checkout and a wheel may both be
    there."""
    spec = importlib.util.find_spec("megatron")
    places = list(spec.submodule_search_locations or []) if spec else []
    return next((core for place in places if ((core := Path(place) / "core") / "__init__.py").is_file()), None)


def megatron_line(device: str = "cpu") -> Line:
    """The line of the megatron-core that an import would find, which this program and this kind of device can use.

    Raises:
        ValueError: there is none, or it is of another line; one line says what is installed and what to install.
    """
    line = _line_of(megatron_core_folder())
    if device == "npu" and line != _NPU_LINE:
        raise ValueError(
            f"device npu with megatron-core {line}: MindSpeed patches megatron-core {_NPU_LINE} alone; install "
            f'"megatron-core=={_NPU_LINE}.*", or put a Megatron-LM core_v0.12.1 checkout on PYTHONPATH (docs/ascend.md)'
        )
    return line


def unplanned_line() -> Line | None:
    """The line installed here where it is not the planned one; None where it is, or where none can be used."""
    try:
        line = megatron_line()
    except ValueError:
        return None
    return None if line == PLANNED_LINE else line


def check_has_grouped_experts() -> None:
    """Refuse `kernels.experts` grouped where the line that is installed has no class for it.

    Raises:
        ValueError: one line with what to do instead.
    """
    line = megatron_line()
    if line not in _LINES_WITH_GROUPED_EXPERTS:
        remedy = " or ".join(f'"megatron-core=={each}.*"' for each in _LINES_WITH_GROUPED_EXPERTS)
        raise ValueError(
            f"kernels.experts grouped: megatron-core {line} has no grouped experts without Transformer Engine, which "
            f"went with 0.17; set kernels.experts=sequential, or install {remedy}"
        )


def resumes_in_any_layout(line: Line) -> bool:
    """Whether it stores the optimizer's state by the weights' names, whole; later lines store what each rank has."""
    return line in _LINES_OF_ANY_LAYOUT


class BrokenPackageError(NotDoneError, ImportError):
    """megatron-core is there, and what it imports fails. An ImportError, by which the forkserver of ranks lives on."""


@contextmanager
def broken_packages_named() -> Iterator[None]:
    """Say in one line which package keeps megatron from being imported.

    megatron takes optional packages in where they are found, such as Transformer Engine, whose meta package alone
    imports and then fails.
    """
    try:
        yield
    except Exception as error:
        innermost = traceback.extract_tb(error.__traceback__)[-1].filename
        culprit = error.name if isinstance(error, ImportError) and error.name else _package_of(innermost)
        raise BrokenPackageError(
            f"megatron-core does not import here: {type(error).__name__} of {culprit.partition('.')[0]}: "
            f"{reason_of(error)}; repair that package, or uninstall it if the recipe does not need it"
        ) from error


def _package_of(file: str) -> str:
    """The package that an imported file belongs to."""
    names = [name for name, module in sys.modules.items() if getattr(module, "__file__", None) == file]
    return names[0] if names else Path(file).parent.name


@cache
def _line_of(core: Path | None) -> Line:
    remedy = " or ".join(f'"megatron-core=={line}.*"' for line in get_args(Line))
    if core is None:
        raise ValueError(f"megatron-core is not installed; install {remedy} (docs/gpus.md)")
    version = _version(core)
    line = ".".join(version.split(".")[:2])
    if line not in get_args(Line):
        raise ValueError(
            f"megatron-core {version} is installed in {core}, of a line that this program was never run on; "
            f"install {remedy} (docs/gpus.md)"
        )
    if line == "0.19" and importlib.util.find_spec("triton") is None:
        raise ValueError(
            f"megatron-core {version} does not import without the package triton, which torch's CUDA builds bring and "
            "its others do not; install triton (Linux only), or megatron-core 0.12 or 0.16 (docs/gpus.md)"
        )
    return cast(Line, line)


def _version(core: Path) -> str:
    """As its package_info.py says, in which a checkout and a wheel are alike: "0.16.1"; "unknown" where it does not."""
    try:
        with (core / "package_info.py").open("rb") as file:
            text = file.read(_MAX_BYTES).decode("utf-8", "replace")
    except OSError:
        return "unknown"
    numbers = [re.search(rf"^{name} = (\d{{1,6}})$", text, re.M) for name in ("MAJOR", "MINOR", "PATCH")]
    return ".".join(each[1] for each in numbers if each) if all(numbers) else "unknown"
