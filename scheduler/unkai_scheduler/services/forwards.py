"""TCP connections to instances from inside their networks, by way of their hosts' agents.

Any scheduler carries them: what is needed is in the database, and the bytes go from here to the
host. No row is changed. What is not taken is not read, so neither side's bytes pile up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

import structlog

from unkai_scheduler.agents.port import Agents, Endpoint, ForwardTarget
from unkai_scheduler.domain.addresses import version_of
from unkai_scheduler.domain.hosts import Host, HostState
from unkai_scheduler.domain.instances import Instance
from unkai_scheduler.domain.letting_in import SOURCES, lets_in
from unkai_scheduler.domain.ports import Port
from unkai_scheduler.domain.security_groups import SecurityGroup
from unkai_scheduler.services.checks import Violations, fetch
from unkai_scheduler.services.context import ServiceContext
from unkai_scheduler.store import hosts, instances, ports, security_groups
from unkai_scheduler.store.unit_of_work import Connection
from unkai_wire.errors import FailedPrecondition, NotFound, Unavailable, UnkaiError

log = structlog.get_logger(__name__)
CONNECTIONS = 256
"""At once, of one scheduler: each holds some hundred KiB."""
CONNECTIONS_EACH = 128
"""At once, to the instances of one project: others' are let in, too."""


@dataclass(frozen=True, slots=True)
class _Found:
    """What the database says of an instance that is to be reached."""

    instance: Instance
    host: Host | None
    ports: Sequence[Port]
    groups: dict[str, SecurityGroup]


class ForwardsService:
    """Use cases of connections to instances."""

    def __init__(self, context: ServiceContext, agents: Agents) -> None:
        self._context = context
        self._agents = agents
        self._open: Counter[str] = Counter()
        """By project."""

    async def open(
        self, instance_id: str, port_number: int, sent: AsyncIterator[bytes], *, port_id: str = ""
    ) -> AsyncGenerator[bytes | None, None]:
        """Connect to a TCP port; the first piece is empty and says that it is open.

        None says that the instance sends no more; the end of `sent` is the caller's end.
        """
        with Violations() as wrong:
            wrong.require(
                1 <= port_number <= 65535, "port_number", "must be 1 to 65535", "INVALID_PORT"
            )
        found = await self._context.uow.read(lambda conn: _find(conn, instance_id))
        endpoint, port = _endpoint(found), _chosen(found, port_id, port_number)
        self._check_room(found.instance)
        target = ForwardTarget(instance_id, port.id, port_number)
        project_id = found.instance.project_id
        self._open[project_id] += 1
        is_open = False
        try:
            async with aclosing(self._agents.forward(endpoint, target, sent)) as pieces:
                async for piece in pieces:
                    if not is_open:
                        log.info("forward_opened", instance=instance_id, tcp_port=port_number)
                        is_open = True
                    yield piece
        except UnkaiError as error:
            if _is_silence(error):
                raise _gone(found, is_open=is_open) from error
            raise
        finally:
            self._open[project_id] -= 1
            self._open += Counter()  # forgets who has none

    def _check_room(self, instance: Instance) -> None:
        for count, most, what in (
            (self._open[instance.project_id], CONNECTIONS_EACH, "to this project"),
            (self._open.total(), CONNECTIONS, "in all"),
        ):
            if count >= most:
                raise Unavailable(
                    f"this scheduler forwards {most} connections {what} already",
                    reason="FORWARDS_FULL",
                    fix="end some, or give the instance a floating address",
                    metadata={"most": str(most)},
                )


def _is_silence(error: UnkaiError) -> bool:
    """Tell whether a call ended without a word of the host's agent: by gRPC's own."""
    return "grpc_code" in error.metadata or error.reason == "STREAM_BROKEN"


def _gone(found: _Found, *, is_open: bool) -> Unavailable:
    """Make the error of a host whose agent has ended, or was not there."""
    name = found.host.name if found.host else ""
    again = f"try again once 'unkai host show {name}' says UP; the instance itself may run on"
    if is_open:
        return Unavailable(
            f"host {name} went away while it forwarded the connection",
            reason="FORWARD_LOST",
            fix=again,
            metadata={"host": name, "instance": found.instance.spec.name},
        )
    return Unavailable(
        f"host {name} does not answer",
        reason="HOST_UNREACHABLE",
        fix=again,
        metadata={"host": name, "instance": found.instance.spec.name},
    )


def _find(conn: Connection, instance_id: str) -> _Found:
    row = fetch("instance", instance_id, "instance_id", lambda i: instances.get(conn, i))
    held = ports.of_owner(conn, instance_id)
    wanted = {ident for port in held for ident in port.security_group_ids}
    groups = {group.id: group for group in security_groups.list_some(conn, wanted)}
    return _Found(row, hosts.get(conn, row.host_id), held, groups)


def _endpoint(found: _Found) -> Endpoint:
    ident, host = found.instance.id, found.host
    if host is None:
        raise FailedPrecondition(
            f"instance {ident} is on no host",
            reason="INSTANCE_NOT_PLACED",
            fix="see why with 'unkai instance explain'",
            metadata={"instance_id": ident, "state": found.instance.state.value},
        )
    if host.state is HostState.UNKNOWN:
        raise Unavailable(
            f"host {host.name} is silent",
            reason="HOST_UNREACHABLE",
            fix="see 'unkai host list'; try again once the host is UP",
            metadata={"host_id": host.id},
        )
    return Endpoint(host.id, host.address, host.tls_name)


def _chosen(found: _Found, port_id: str, port_number: int) -> Port:
    """Return the port to go by; raise FORWARD_BLOCKED when no rule would let it in."""
    some = [port for port in found.ports if not port_id or port.id == port_id]
    if not some and port_id:
        raise NotFound.of("port", port_id)
    if not some:
        raise FailedPrecondition(
            f"instance {found.instance.spec.name} is on no network",
            reason="NO_PORT",
            fix="give it a port with 'unkai port create' and 'unkai port attach'",
            metadata={"instance_id": found.instance.id},
        )
    for port in some:
        if _is_let_in(port, found, port_number):
            return port
    raise _blocked(found, some[0], port_number)


def _is_let_in(port: Port, found: _Found, port_number: int) -> bool:
    if not port.anti_spoofing:
        return True  # no rule holds for it
    groups = [found.groups[ident] for ident in port.security_group_ids if ident in found.groups]
    rules = [rule for group in groups for rule in group.rules]
    return any(lets_in(rules, version, port_number) for version in _versions(port))


def _versions(port: Port) -> list[int]:
    return sorted({version_of(some.address) for some in port.addresses})


def _blocked(found: _Found, port: Port, port_number: int) -> FailedPrecondition:
    """Make the error that names the rule to add."""
    name = found.instance.spec.name
    source = SOURCES[next(iter(_versions(port)), 4)]
    group = next((found.groups[i] for i in port.security_group_ids if i in found.groups), None)
    rule = f"ingress tcp {port_number} from {source}"
    if group is None:
        fix = f"put port {port.id} into a security group with the rule '{rule}'"
    else:
        fix = f"unkai security-group rule add {group.name} {rule}"
    return FailedPrecondition(
        f"no rule of {name}'s security groups lets TCP port {port_number} in from {source}, "
        "where its host connects from",
        reason="FORWARD_BLOCKED",
        fix=fix,
        metadata={
            "instance": name,
            "port_number": str(port_number),
            "source": source,
            "security_group": group.name if group else "",
            "port_id": port.id,
        },
    )
