"""Where a job's first process listens: at the address that the others were given, and at no other where that can be.

No torch.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket

_NOT_OURS = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.ENODEV, errno.EINVAL)


def listening(address: str, port: int, *, is_one_machine: bool, backlog: int = 128) -> socket.socket:
    """Listen at `address` alone, if it is this machine's own and means the same machine everywhere; else everywhere.

    A name may lead to the loopback here and to an interface elsewhere, or to several addresses; the address may be
    translated on the way. On a job of one machine (`is_one_machine`) none of this matters. Port 0: one that is free.

    Raises:
        OSError: the port is taken.
    """
    for family, bare in _own_addresses(address, is_one_machine):
        try:
            return socket.create_server((bare, port), family=family, backlog=backlog)
        except OSError as error:
            if error.errno not in _NOT_OURS:
                raise
    if socket.has_dualstack_ipv6():
        with contextlib.suppress(OSError):
            return socket.create_server(("::", port), family=socket.AF_INET6, backlog=backlog, dualstack_ipv6=True)
    return socket.create_server(("", port), backlog=backlog)


def _own_addresses(address: str, is_one_machine: bool) -> list[tuple[int, str]]:
    """To be tried in turn; none where only all interfaces will do."""
    try:
        found = socket.getaddrinfo(address, None, type=socket.SOCK_STREAM)
    except OSError:
        return []
    each: list[tuple[int, str]] = list(dict.fromkeys((family, str(place[0])) for family, _, _, _, place in found))
    if is_one_machine:
        return each
    is_certain = len(each) == 1 and (_is_number(address) or not _is_loopback(each[0][1]))
    return each if is_certain else []


def _is_number(address: str) -> bool:
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return False
    return True


def _is_loopback(address: str) -> bool:
    return _is_number(address) and ipaddress.ip_address(address).is_loopback
