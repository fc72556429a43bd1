"""What all use cases of networks share: whether there are networks, who may use which, events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from unkai_scheduler.domain.events import EventType
from unkai_scheduler.domain.networks import Network
from unkai_scheduler.network_settings import NetworkSettings
from unkai_scheduler.services.checks import fetch
from unkai_scheduler.services.context import Call, ServiceContext
from unkai_scheduler.services.mutations import Subject, record
from unkai_scheduler.store import networks
from unkai_wire.errors import FailedPrecondition, NotFound

if TYPE_CHECKING:
    from unkai_scheduler.store.unit_of_work import Connection


class Owned(Protocol):
    """A project's resource."""

    @property
    def id(self) -> str:
        """Its id."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def project_id(self) -> str:
        """The project that owns it."""


def record_change(
    conn: Connection,
    context: ServiceContext,
    call: Call,
    *,
    kind: str,
    row: Owned,
    change: EventType,
    what: str,
    state: str = "",
) -> None:
    """Write the event of a resource that `what` happened to, such as "was made"."""
    subject = Subject(kind, row.id, row.name, row.project_id, state)
    message = f"{kind.replace('_', ' ')} {row.name} {what}"
    record(conn, context, call, subject, change, message=message)


def check_configured(settings: NetworkSettings) -> None:
    """Raise `FailedPrecondition` / NETWORKING_NOT_CONFIGURED where the operator has no OVN."""
    if not settings.enabled:
        raise FailedPrecondition(
            "this cloud has no virtual networks: its schedulers are not told of an OVN",
            reason="NETWORKING_NOT_CONFIGURED",
            fix="set network.northbound in the settings of every scheduler and restart them",
        )


def usable_network(conn: Connection, project_id: str, network_id: str, field: str) -> Network:
    """Return a network that a project may have ports on; nobody removes it meanwhile.

    Raises `NotFound` for another project's, and `FailedPrecondition` / NETWORK_NOT_SHARED for one
    that all projects may see but not have ports on.
    """
    network = fetch("network", network_id, field, lambda ident: networks.held(conn, ident))
    if network.project_id == project_id or network.shared:
        return network
    if network.external:
        raise FailedPrecondition(
            f"network {network.name} is for floating addresses and gateways of other projects, "
            "not for their ports",
            reason="NETWORK_NOT_SHARED",
            fix="name a network of the project, and reach this one by a router or floating address",
            metadata={"network_id": network.id},
        )
    raise NotFound.of("network", network.id)
