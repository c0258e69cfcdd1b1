"""Sleeping until another process changes a number in memory that both map: Linux's futex, on x86-64 only.

Who sees the number there also sees what was written before it; on other processors that takes more than a plain store.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import sys
from typing import Any

LOOK_SECONDS = 1  # that a sleep lasts at most: so often whoever sleeps looks whether it is in vain
_CALL, _WAIT, _WAKE = 202, 0, 1  # <asm/unistd_64.h>, <linux/futex.h>
_EVERYBODY = (1 << 31) - 1


class _Timespec(ctypes.Structure):
    _fields_ = (("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long))


_LOOK = _Timespec(LOOK_SECONDS, 0)
_LIBC: Any = ctypes.CDLL(None, use_errno=True)
_syscall = _LIBC.syscall
_syscall.argtypes = [ctypes.c_long, ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32, ctypes.c_void_p]


def is_here() -> bool:
    """Whether this machine is one on which this was run."""
    return sys.platform == "linux" and platform.machine() == "x86_64"


def wake(address: int) -> None:
    """Wake all that sleep at this address."""
    _syscall(_CALL, address, _WAKE, _EVERYBODY, None)


def sleep(address: int, seen: int) -> bool:
    """Sleep until woken, unless the number (32 bits, unsigned) is no longer what was seen; False after LOOK_SECONDS."""
    ended: int = _syscall(_CALL, address, _WAIT, seen, ctypes.addressof(_LOOK))
    return ended == 0 or ctypes.get_errno() != errno.ETIMEDOUT
