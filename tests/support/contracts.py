"""Every service of our contracts, found by walking the generated packages.

A service that is added is in what follows from here (the fuzz, the policy's test) from its first
day; nobody has to list it.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

from google.protobuf.descriptor import MethodDescriptor

import unkai

AGENT = "unkai.agent.v1"
PEERS = "unkai.scheduler.v1"


def service_modules() -> tuple[ModuleType, ...]:
    """Return the generated modules that declare services, by name."""
    names = sorted(
        found.name
        for found in pkgutil.walk_packages(unkai.__path__, "unkai.")
        if found.name.endswith("_service_pb2")
    )
    return tuple(importlib.import_module(name) for name in names)


def methods(*packages: str, but: tuple[str, ...] = ()) -> dict[str, MethodDescriptor]:
    """Return `Service.Method` of these packages (none: of all), those in `but` left out."""
    return {
        f"{service.name}.{method.name}": method
        for module in service_modules()
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
        if (not packages or module.DESCRIPTOR.package in packages)
        and module.DESCRIPTOR.package not in but
    }
