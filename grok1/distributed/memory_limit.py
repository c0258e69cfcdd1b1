"""Whether a memory limit ended processes: the kernel's counters. Linux; elsewhere nothing is known."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")
_COUNT = re.compile(r"^oom_kill (\d+)$", re.M)


def oom_kills(own_groups: Path = Path("/proc/self/cgroup"), mounted: Path = _GROUPS) -> int:
    """How many processes the kernel has ended for want of memory: in this control group, else on this machine."""
    for path in _event_files(own_groups, mounted):
        with contextlib.suppress(OSError):
            if found := _COUNT.search(path.read_text(encoding="utf-8")):
                return int(found[1])
    return 0


def _event_files(own_groups: Path, mounted: Path) -> list[Path]:
    """Version 2's, then version 1's, then the machine's; a container sees its own group as the root."""
    files: list[Path] = []
    with contextlib.suppress(OSError):
        for line in own_groups.read_text(encoding="utf-8").splitlines():
            _, controllers, group = line.split(":", 2)
            if not controllers:
                files += [mounted / group.strip("/") / "memory.events", mounted / "memory.events"]
            elif "memory" in controllers.split(","):
                first = mounted / "memory"
                files += [first / group.strip("/") / "memory.oom_control", first / "memory.oom_control"]
    return [*files, Path("/proc/vmstat")]
