"""Who may call what: one table, method by method. A method not listed is refused.

A test compares it with the services' descriptors, so that a new method must find its row.
"""

from __future__ import annotations

from collections.abc import Mapping

from unkai_wire.tls import Role

_SCHEDULER = frozenset({Role.SCHEDULER})
_READERS = frozenset({Role.SCHEDULER, Role.LOCAL})
_USERS = _READERS | {Role.CLIENT}
_ANYONE = frozenset(Role)

_HOST = "/unkai.agent.v1.HostService/"
_MACHINE = "/unkai.agent.v1.MachineService/"
_NETWORK = "/unkai.agent.v1.NetworkService/"
_STORAGE = "/unkai.agent.v1.StorageService/"

POLICY: Mapping[str, frozenset[Role]] = {
    _HOST + "Describe": _READERS,
    _HOST + "AnnounceTerm": _SCHEDULER,
    _HOST + "WatchUsage": _READERS,
    _HOST + "Diagnose": _READERS,
    _MACHINE + "EnsureMachine": _SCHEDULER,
    _MACHINE + "RemoveMachine": _SCHEDULER,
    _MACHINE + "ListMachines": _READERS,
    _MACHINE + "GetMachineSpec": _SCHEDULER,
    _MACHINE + "WatchMachines": _READERS,
    _MACHINE + "AcknowledgeTombstones": _SCHEDULER,
    _MACHINE + "ReadConsoleLog": _READERS,
    _MACHINE + "AttachConsole": _READERS,
    _NETWORK + "EnsureNames": _SCHEDULER,
    _NETWORK + "Forward": _SCHEDULER,
    _NETWORK + "CountFlows": _SCHEDULER,
    _STORAGE + "PrefetchImage": _SCHEDULER,
    _STORAGE + "ListCachedImages": _READERS,
    _STORAGE + "EvictImage": _SCHEDULER,
    "/grpc.health.v1.Health/Check": _ANYONE,
    "/grpc.health.v1.Health/Watch": _ANYONE,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": _USERS,
}
"""Roles that may call each method. `_ANYONE` still needs a certificate of this cloud."""


def may_call(role: Role, method: str) -> bool:
    """Tell whether a caller of this role may call the method."""
    return role in POLICY.get(method, frozenset())
