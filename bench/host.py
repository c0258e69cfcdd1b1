"""The machine that rank 0 ran on, and the time that others took from it."""

from __future__ import annotations

import contextlib
import hashlib
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import psutil

from grok1.device.processor import processor_name

_CGROUPS = Path("/sys/fs/cgroup")
_CPUINFO = Path("/proc/cpuinfo")
_MACHINE_ID, _BOOT_ID = Path("/etc/machine-id"), Path("/proc/sys/kernel/random/boot_id")
# what names a job: Slurm, Kubernetes jobs of PyTorch, GitHub, GitLab, Jenkins
_JOBS = ("SLURM_JOB_ID", "PET_RDZV_ID", "TORCHELASTIC_RUN_ID", "GITHUB_RUN_ID", "CI_JOB_ID", "BUILD_TAG")
_THROTTLED_UNIT_SECONDS = {"throttled_usec": 1e-6, "throttled_time": 1e-9}  # cgroup v2, v1


def host() -> dict[str, Any]:
    """The machine that rank 0 ran on."""
    return {
        "cores": psutil.cpu_count() or 1,
        "memory_bytes": psutil.virtual_memory().total,
        "load_average_1m": psutil.getloadavg()[0],
        "cpu_name": processor_name(),
        "is_virtual": is_virtual(),
    }


def is_virtual(cpuinfo: Path = _CPUINFO) -> bool | None:
    """Whether this is a virtual machine; None where the system does not say.

    x86 has a bit for it, which a hypervisor sets for its guests (CPUID 1, ECX bit 31); Linux lists it among the flags.
    """
    with contextlib.suppress(OSError, UnicodeDecodeError):
        flags = next((line for line in cpuinfo.read_text(encoding="ascii").splitlines() if line[:5] == "flags"), None)
        return None if flags is None else "hypervisor" in flags.split()
    return None


def machine() -> str:
    """A digest that tells this machine from others."""
    return _digest(_first_line(_MACHINE_ID) or platform.node())


def session(started: datetime, environment: Mapping[str, str]) -> dict[str, str | None]:
    """The session of a run by the names of the record: of a benchmark that was started at this time."""
    boot = _first_line(_BOOT_ID)
    return {
        "machine": machine(),
        "boot": None if boot is None else _digest(boot),
        "day": started.astimezone(timezone.utc).date().isoformat(),
        "job": next((f"{name}={environment[name]}"[:200] for name in _JOBS if environment.get(name)), None),
    }


def _first_line(path: Path) -> str | None:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return path.read_text(encoding="ascii").strip() or None
    return None


def _digest(text: str) -> str:
    """Machine ids are not to be published (man 5 machine-id): only what is derived from one."""
    return hashlib.sha256(f"grok1-bench session {text}".encode()).hexdigest()[:12]


def lost_seconds(cgroups: Path = _CGROUPS) -> dict[str, float | None]:
    """Time so far that all cores together did not get to run in, by the names of the record's host.

    Stolen: since this machine started. Throttled: since this control group was made.
    """
    return {
        "stolen_seconds": getattr(psutil.cpu_times(), "steal", None),  # Linux alone says
        "throttled_seconds": _throttled_seconds(cgroups),
    }


def seconds_since(before: dict[str, float | None], after: dict[str, float | None]) -> dict[str, float | None]:
    """What was lost between two readings; None where either is. A clock that goes backwards, as steal may, says 0."""
    return {
        name: None if start is None or (end := after[name]) is None else max(0.0, end - start)
        for name, start in before.items()
    }


def _throttled_seconds(cgroups: Path) -> float | None:
    for path in (cgroups / "cpu.stat", cgroups / "cpu" / "cpu.stat"):
        with contextlib.suppress(OSError):
            for line in path.read_text(encoding="ascii").splitlines():
                name, _, value = line.partition(" ")
                if name in _THROTTLED_UNIT_SECONDS:
                    return int(value) * _THROTTLED_UNIT_SECONDS[name]
    return None


@dataclass(frozen=True)
class OthersClock:
    """A moment, and the time until then that all cores together ran other programs for; None: nothing says so here."""

    moment: float
    seconds: float | None


def others_clock() -> OthersClock:
    """Now. Linux counts its kernel's work and that of other containers too."""
    return OthersClock(time.monotonic(), _busy_seconds() - _own_seconds() if psutil.LINUX else None)


def others_cores(before: OthersClock, after: OthersClock) -> float | None:
    """How many cores other programs used on average between two readings."""
    if before.seconds is None or after.seconds is None:
        return None
    return max(0.0, after.seconds - before.seconds) / (after.moment - before.moment)


def _busy_seconds() -> float:
    """Of all cores, for any program; a guest's time is in the user's."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq)


def _own_seconds() -> float:
    """Of this process and of all that it started; one that ended is counted by the process that waited for it.

    So ranks are counted when they have ended: the forkserver waits for them.
    """
    this, found = psutil.Process(), 0.0
    for process in (this, *this.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            found += times.user + times.system + times.children_user + times.children_system
    return found
