"""What the environment tells a job: numbers, names, folders and limits, each checked before it is used. No torch.

A variable that cannot be used is a ValueError of one line: its name, its value and the remedy.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import socket
import tempfile
from collections.abc import Iterator, Mapping

import psutil

from grok1.config.memory import HCCL_BUFFER_MB
from grok1.device.kind import Kind

_MOST_THREADS = 4096
_SOCKET_PATH_BYTES = 107  # that a socket's path may have on Linux
_SOCKET_NAME_BYTES = len("/pymp-12345678/listener-12345678")  # multiprocessing's own folder and socket
_SHORT_FOLDERS = (os.path.join(os.sep, "tmp"), "/var/tmp", "/dev/shm")
_FILES_OF_A_RANK = 48  # that a rank opens beside its connections, with some to spare: 23 were seen
_FILES_FOR_EACH_PEER = 6  # gloo's connections to it, one for each group that both are in: 4 were seen
_FILES_OF_THE_LAUNCHER = 4  # for each rank
_INTERFACES: dict[Kind, str] = {"cuda": "NCCL_SOCKET_IFNAME", "npu": "HCCL_SOCKET_IFNAME"}


def whole_number(name: str, least: int, most: int, remedy: str, environment: Mapping[str, str] = os.environ) -> int:
    """The number that a variable holds.

    Raises:
        ValueError: it is not set, or no whole number within the limits.
    """
    text = environment.get(name)
    if text is None:
        raise ValueError(f"{name} is not set; {remedy}")
    number = _number(text)
    if number is None or not least <= number <= most:
        raise ValueError(f"{name} is {shown(text)}, which is no whole number from {least} to {most}; {remedy}")
    return number


def _number(text: str) -> int | None:
    text = text.strip()
    return int(text) if re.fullmatch(r"[+-]?[0-9]{1,18}", text) else None


def shown(text: str) -> str:
    """A variable's value as a message shows it: quoted, escaped, and not too long."""
    return ascii(text) if len(text) <= 120 else f"{ascii(text[:120])}... ({len(text)} characters)"


def check_environment(device: Kind, local_ranks: int, world_size: int) -> None:
    """Refuse variables and limits that would fail on a rank later, where nobody can tell which one it was.

    Raises:
        ValueError: one line with the variable, its value and the remedy.
    """
    threads()
    hccl_buffer_mb(device)
    _check_interfaces(device)
    peers = world_size - 1 if device == "cpu" else 0  # what NCCL and HCCL open was never seen
    _allow_open_files(_FILES_OF_A_RANK + max(_FILES_OF_THE_LAUNCHER * local_ranks, _FILES_FOR_EACH_PEER * peers))


def threads() -> int:
    """How many threads OMP_NUM_THREADS gives to each rank; of a list, as for nested regions, the first. Unset: one."""
    text = os.environ.get("OMP_NUM_THREADS", "").strip()
    numbers = [_number(part) for part in text.split(",")] if text else [1]
    if any(number is None or not 1 <= number <= _MOST_THREADS for number in numbers):
        raise ValueError(
            f"OMP_NUM_THREADS is {shown(text)}, which is no number of threads from 1 to {_MOST_THREADS}; "
            "set it to one like 1, or unset it"
        )
    return numbers[0] or 1


def hccl_buffer_mb(device: Kind) -> int:
    """MiB that HCCL takes for a group's buffer, twice; 0 on other devices.

    Raises:
        ValueError: HCCL_BUFFSIZE is no number.
    """
    if device != "npu":
        return 0
    if "HCCL_BUFFSIZE" not in os.environ:
        return HCCL_BUFFER_MB
    return whole_number("HCCL_BUFFSIZE", 1, 1 << 20, f"set it to MiB, like {HCCL_BUFFER_MB}, or unset it")


def _check_interfaces(device: Kind) -> None:
    """gloo's interfaces exactly; NCCL's and HCCL's by the start of their names, `=` and `^` being their own marks."""
    here = sorted(psutil.net_if_addrs())
    remedy = f"this machine has {', '.join(here)}: choose of these, or unset it"
    given = os.environ.get("GLOO_SOCKET_IFNAME", "").strip()
    if given:
        missing = [name for name in given.split(",") if name not in here]
        if missing:
            raise ValueError(
                f"GLOO_SOCKET_IFNAME is {shown(given)}, and there is no interface {shown(missing[0])}; {remedy}"
            )
    name = _INTERFACES.get(device, "")
    given = os.environ.get(name, "").strip()
    if not given or given.startswith("^"):
        return
    prefixes = given.removeprefix("=").split(",")
    exact = given.startswith("=")
    if not any(each == prefix if exact else each.startswith(prefix) for each in here for prefix in prefixes):
        raise ValueError(f"{name} is {shown(given)}, and no interface is called so; {remedy}")


def _allow_open_files(needed: int) -> None:
    """Ask for as many open files as a process of the job needs; the ranks inherit the launcher's limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise ValueError(
            f"ulimit -n is {hard}: a process may open {hard} files, and this job's may need {needed}; "
            f"raise the limit (`ulimit -n {needed}`, or nofile in limits.conf) or use fewer ranks"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


# ---- folders for temporary files -----------------------------------------------------------------------


@contextlib.contextmanager
def short_temporary_folder() -> Iterator[None]:
    """Have this process make its sockets in a folder whose path is short enough for them.

    Slurm and pipelines set TMPDIR to long paths, and multiprocessing puts its sockets there.

    Raises:
        ValueError: there is none, or no folder for temporary files at all.
    """
    before = tempfile.tempdir
    try:
        if not _is_short(temporary_folder()):
            tempfile.tempdir = _short_folder()
        yield
    finally:
        tempfile.tempdir = before


def _short_folder() -> str:
    for folder in _SHORT_FOLDERS:
        if os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK):
            return folder
    given = os.environ.get("TMPDIR", temporary_folder())
    raise ValueError(
        f"TMPDIR is {shown(given)}, too long for a socket: a path may have {_SOCKET_PATH_BYTES} bytes; "
        f"set it to a folder of at most {_SOCKET_PATH_BYTES - _SOCKET_NAME_BYTES}"
    )


def temporary_folder() -> str:
    """Where temporary files go: TMPDIR where it can be written, else one of the usual folders.

    Raises:
        ValueError: nowhere.
    """
    try:
        return tempfile.gettempdir()
    except FileNotFoundError:
        given = os.environ.get("TMPDIR")
        told = "TMPDIR is not set" if given is None else f"TMPDIR is {shown(given)}"
        raise ValueError(
            f"{told}, and no folder for temporary files can be written; set TMPDIR to one that can"
        ) from None


def _is_short(folder: str) -> bool:
    return len(os.fsencode(folder)) + _SOCKET_NAME_BYTES <= _SOCKET_PATH_BYTES


# ---- addresses -----------------------------------------------------------------------------------------


def bare_address(name: str, address: str) -> str:
    """An address or host name as sockets take it: an IPv6 address without brackets.

    Raises:
        ValueError: it is neither; `name` is the variable or option that gave it.
    """
    bare = address.strip()
    if bare.startswith("[") and bare.endswith("]"):
        bare = bare[1:-1]
    if re.fullmatch(r"[0-9A-Za-z._-]{1,253}", bare) or _is_ipv6(bare):
        return bare
    raise ValueError(
        f"{name} is {shown(address)}, which is neither an address nor a host name; give the first node's alone, "
        "without a scheme or a port"
    )


def _is_ipv6(text: str) -> bool:
    try:
        socket.inet_pton(socket.AF_INET6, text.partition("%")[0])
    except (OSError, ValueError):
        return False
    return True


def tcp_url(address: str, port: int) -> str:
    """Where ranks meet, as a URL: an IPv6 address stands in brackets there."""
    return f"tcp://[{address}]:{port}" if ":" in address else f"tcp://{address}:{port}"
