"""What Linux says of a process. Elsewhere nothing is ever said. The standard library alone."""

from __future__ import annotations

import contextlib


def is_stopped(process: int) -> bool:
    """By SIGSTOP and the like; not by a debugger, whose processes are in another state."""
    return _status(process, "State").startswith("T")


def is_traced(process: int) -> bool:
    """Whether a debugger such as gdb holds the process."""
    return _status(process, "TracerPid") not in ("", "0")


def has_ended(process: int) -> bool:
    """Whether it is gone, or has ended and nobody has asked how yet; on Linux only, as elsewhere all seem gone."""
    return _status(process, "State")[:1] in ("", "Z", "X")


def _status(process: int, field: str) -> str:
    with contextlib.suppress(OSError), open(f"/proc/{process}/status", encoding="utf-8", errors="replace") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name == field:
                return value.strip()
    return ""
