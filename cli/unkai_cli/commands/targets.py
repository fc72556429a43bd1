"""What a word stands for where things of several kinds may stand: `web`, `load-balancer/web`.

Each kind is asked for the name; a word that several have is refused with what to write instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from unkai_cli.commands.addresses import kind_and_name
from unkai_cli.commands.resources import read, words
from unkai_wire import ids
from unkai_wire.errors import FailedPrecondition, InvalidArgument, NotFound

if TYPE_CHECKING:
    from unkai_cli.session import Session

PLUGGED = ("instance", "port", "load_balancer")
"""Kinds that have ports."""


def chosen(session: Session, text: str, kinds: Sequence[str]) -> tuple[str, str]:
    """Return kind and id of what a word stands for; `kind/NAME` names the kind too."""
    try:
        kind, name = kind_and_name(text)
    except ValueError as error:
        raise InvalidArgument(str(error), reason="UNKNOWN_KIND") from error
    return of_kinds(session, name, [kind] if kind else kinds)


def of_kinds(session: Session, name: str, kinds: Sequence[str]) -> tuple[str, str]:
    """Return kind and id of what a name, an id or the beginning of an id stands for."""
    if len(kinds) == 1:
        return kinds[0], session.client.resolve(kinds[0], name)
    found: list[tuple[str, str]] = []
    for kind in kinds:
        if ids.is_id(kind, name):
            return kind, name
        try:
            found.append((kind, session.client.resolve(kind, name)))
        except NotFound:
            continue
    if not found:
        raise _nothing(name, kinds)
    if len(found) > 1:
        raise _several(name, [kind for kind, _ in found])
    return found[0]


def ports_of(session: Session, instance_id: str) -> list[Any]:
    """Return an instance's ports, its first one first; raise when it has none."""
    found = session.client.pages("PortService", "ListPorts", owner_id=instance_id)
    ports = sorted(found, key=lambda port: port.position)
    if not ports:
        raise FailedPrecondition(
            f"instance {instance_id} has no port",
            reason="NO_PORT",
            fix="give it one with 'unkai port create' and 'unkai port attach'",
            metadata={"instance_id": instance_id},
        )
    return ports


def port_of(session: Session, kind: str, ident: str, *, address: str = "") -> Any:
    """Return the port of a thing: of an instance the one with this address, or its first."""
    if kind == "port":
        return read(session, "port", ident)
    if kind == "load_balancer":
        return read(session, "port", read(session, kind, ident).port_id)
    ports = ports_of(session, ident)
    if not address:
        return ports[0]
    for port in ports:
        if address in addresses_of(port):
            return port
    raise NotFound(
        f"no port of instance {ident} has the address {address}",
        reason="NO_SUCH_ADDRESS",
        fix=f"see its ports with 'unkai port list --instance {ident}'",
        metadata={"instance_id": ident, "address": address},
    )


def port_id_of(session: Session, text: str, *, address: str = "") -> str:
    """Return the id of the port that an instance, a port or a load balancer is plugged in by."""
    kind, ident = chosen(session, text, PLUGGED)
    return ident if kind == "port" else str(port_of(session, kind, ident, address=address).id)


def addresses_of(port: Any) -> list[str]:
    """Return a port's own addresses."""
    return [str(fixed.address) for fixed in port.fixed_addresses]


def _nothing(name: str, kinds: Sequence[str]) -> NotFound:
    listed = " or ".join(words(kind) for kind in kinds)
    return NotFound(
        f"there is no {listed} {name}",
        reason="TARGET_NOT_FOUND",
        fix="list what there is with 'unkai ls' and 'unkai port list'",
        metadata={"name": name},
    )


def _several(name: str, kinds: Sequence[str]) -> InvalidArgument:
    written = [f"{kind.replace('_', '-')}/{name}" for kind in kinds]
    return InvalidArgument(
        f"{name} is the name of {len(kinds)} things: {', '.join(words(kind) for kind in kinds)}",
        reason="AMBIGUOUS",
        fix=f"write {' or '.join(written)}",
        metadata={"text": name},
    )
