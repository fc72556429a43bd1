"""Makers of the sockets that a network is served by; called inside its namespace."""

from __future__ import annotations

import socket
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

from unkai_agent.network.namespaces import INNER

Make = Callable[[], socket.socket]
_BACKLOG = 64
_KEEPALIVE_S = 30


def listener(address: str, port: int) -> Make:
    """Return a maker of a listening TCP socket."""

    def make() -> socket.socket:
        made = _bound(socket.SOCK_STREAM, address, port)
        made.listen(_BACKLOG)
        return made

    return make


def packets(address: str, port: int) -> Make:
    """Return a maker of a UDP socket. Each address has one: answers leave under it."""
    return lambda: _bound(socket.SOCK_DGRAM, address, port)


def outgoing(version: int) -> Make:
    """Return a maker of a TCP socket that is to be connected, and notices a dead peer."""

    def make() -> socket.socket:
        made = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6)
        made.setblocking(False)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL):
            made.setsockopt(socket.IPPROTO_TCP, option, _KEEPALIVE_S)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return made

    return make


def _bound(kind: socket.SocketKind, address: str, port: int) -> socket.socket:
    version = ip_address(address).version
    made = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, kind)
    try:
        made.setblocking(False)
        if kind == socket.SOCK_STREAM:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
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
