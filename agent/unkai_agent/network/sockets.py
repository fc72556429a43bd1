"""Makers of the sockets that a network is served by; called inside its namespace."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from ipaddress import ip_address
from typing import Any

from unkai_agent.network.namespaces import INNER

Make = Callable[[], socket.socket]
Option = tuple[int, int, int]
"""Level, name, value."""
_BACKLOG = 64
_KEEPALIVE_S = 30
_IP_BIND_ADDRESS_NO_PORT = 24  # linux/in.h
_LISTENING: tuple[Option, ...] = ((socket.SOL_SOCKET, socket.SO_REUSEADDR, 1),)
_OUTGOING: tuple[Option, ...] = (
    # The port is chosen as one connects: many may have the same one, to others.
    (socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_S),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_S),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
)


def listener(address: str, port: int) -> Make:
    """Return a maker of a listening TCP socket."""

    def make() -> socket.socket:
        made = _bound(socket.SOCK_STREAM, address, port, _LISTENING)
        made.listen(_BACKLOG)
        return made

    return make


def packets(address: str, port: int) -> Make:
    """Return a maker of a UDP socket. Each address has one: answers leave under it."""
    return lambda: _bound(socket.SOCK_DGRAM, address, port)


def outgoing(source: str) -> Make:
    """Return a maker of a TCP socket that is to be connected, and notices a dead peer.

    It comes from `source`: left to itself the kernel takes another address of ours, which no rule
    lets in and no guest has a route to.
    """

    return lambda: _bound(socket.SOCK_STREAM, source, 0, _OUTGOING)


def _bound(
    kind: socket.SocketKind, address: str, port: int, options: Iterable[Option] = ()
) -> socket.socket:
    version = ip_address(address).version
    made = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, kind)
    try:
        made.setblocking(False)
        for option in options:
            made.setsockopt(*option)
        if version == 4:
            made.bind((address, port))
        else:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            made.bind(_scoped(address, port))
    except BaseException:
        made.close()
        raise
    return made


def _scoped(address: str, port: int) -> Any:
    local = ip_address(address).is_link_local
    return (address, port, 0, socket.if_nametoindex(INNER) if local else 0)
