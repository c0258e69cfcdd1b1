"""The name of this machine's processor. No torch."""

from __future__ import annotations

import contextlib
import platform
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")


def processor_name(cpuinfo: Path = _CPUINFO) -> str:
    """As the kernel prints it, "AMD EPYC 7B13"; elsewhere than on Linux what Python knows, at least "cpu"."""
    with contextlib.suppress(OSError), cpuinfo.open(encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine() or "cpu"
