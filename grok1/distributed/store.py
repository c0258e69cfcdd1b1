"""The store in which the ranks of a job find each other. torch's, made here so that it listens where it should."""

from __future__ import annotations

import os
import socket
import threading
import time
from datetime import timedelta

from packaging.version import Version
from torch import __version__ as torch_version
from torch._C._distributed_c10d import (
    FileStore,
    Store,
    TCPStore,
)  # torch.distributed's own, which its types do not name

from grok1.distributed.listening import listening
from grok1.distributed.rendezvous import FILE_URL, Rendezvous
from grok1.distributed.roll_call import missing

_CONNECT_SECONDS = 2.0
_PAUSE_SECONDS = 0.3  # between attempts to connect

# torch's store over libuv takes no socket that listens already in torch 2.7, and does in 2.11
_LIBUV_TAKES_A_SOCKET = Version(torch_version) >= Version("2.11")


def opened(where: Rendezvous) -> Store:
    """The job's store: a file on one machine; else rank 0's, or torchrun's where there is one.

    Raises:
        ValueError: the port is taken, or nobody is there in time.
    """
    if where.url.startswith(FILE_URL):
        # not by its URL: a folder's name may hold what has a meaning there
        return FileStore(where.url.removeprefix(FILE_URL), where.world_size)
    if where.rank == 0 and not where.has_store:
        return _host(where)
    return _guest(where)


def _host(where: Rendezvous) -> Store:
    host, port = where.address
    try:
        listener = listening(host, port, is_one_machine=where.is_one_machine, backlog=max(128, where.world_size))
    except OSError as error:
        raise ValueError(
            f"{where.place} cannot be used ({os.strerror(error.errno or 0)}); choose another port, with MASTER_PORT or "
            "--master-port"
        ) from None
    bound = str(listener.getsockname()[0])
    return _connected(bound if bound not in ("::", "0.0.0.0") else host, where, listener)


def _guest(where: Rendezvous) -> Store:
    """Ask for as long as the others may take to be started; quietly, which torch's own attempts are not."""
    deadline = time.monotonic() + where.start_seconds
    while True:
        try:
            with socket.create_connection(where.address, timeout=_CONNECT_SECONDS) as found:
                address = str(found.getpeername()[0])
        except OSError as error:
            said = error.strerror or str(error)
        else:
            store = _within(deadline, address, where)
            if store is not None:
                return store
            said = "what answers there is no store of torch's"
        if time.monotonic() > deadline:
            raise ValueError(missing(where, [0], f" ({said})"))
        time.sleep(_PAUSE_SECONDS)


def _within(deadline: float, address: str, where: Rendezvous) -> Store | None:
    """A store that answers before the deadline. In a thread: with a program that says nothing, torch waits for ever."""
    made: list[Store] = []

    def make() -> None:
        try:
            made.append(_connected(address, where))
        except RuntimeError:
            return

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    thread.join(max(_CONNECT_SECONDS, deadline - time.monotonic()))
    return made[0] if made else None


def _connected(address: str, where: Rendezvous, listener: socket.socket | None = None) -> Store:
    """Connected, but nobody is waited for."""
    return TCPStore(
        address,
        where.address[1],
        None,
        listener is not None,
        timedelta(seconds=where.start_seconds),
        wait_for_workers=False,
        master_listen_fd=None if listener is None else listener.detach(),
        use_libuv=listener is None or _LIBUV_TAKES_A_SOCKET,
    )
