"""What users call things by: a name, an id or the beginning of one, found by listing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from unkai_wire import ids
from unkai_wire.errors import InvalidArgument, NotFound, UnkaiError

OF_PROJECTS = frozenset(
    {
        "instance",
        "image",
        "key_pair",
        "placement_group",
        "network",
        "subnet",
        "port",
        "router",
        "floating_ip",
        "security_group",
        "load_balancer",
    }
)
"""Kinds whose names are unique in a project."""


class Lists(Protocol):
    """What lists things: the client."""

    @property
    def project_id(self) -> str:
        """Id of the project in use."""

    def pages(self, service: str, method: str, limit: int = 0, **fields: Any) -> Iterator[Any]:
        """Yield a list's messages over all its pages."""


def resolve(lists: Lists, kind: str, text: str) -> str:
    """Return the id that a name, an id or a unique prefix of an id stands for.

    Raise `NotFound` when it stands for none, `InvalidArgument` for several or when it is empty.
    """
    if not text:  # in a list's request an empty name means any
        raise InvalidArgument(
            f"an empty text names no {kind.replace('_', ' ')}",
            reason="EMPTY_NAME",
            fix="give a name, an id, or a unique beginning of an id",
        )
    if ids.is_id(kind, text):
        return text
    found = _named(lists, kind, text) or _beginning_with(lists, kind, text)
    if not found:
        raise NotFound.of(kind, text)
    if len(found) > 1:
        raise _ambiguous(kind, text, found)
    return found[0]


def _named(lists: Lists, kind: str, name: str) -> list[str]:
    """Return the ids of the things of this name; the project's own go before others'."""
    if kind == "operation":
        return []
    own = lists.project_id if kind in OF_PROJECTS else ""
    filters: dict[str, Any] = {"project_id": own} if own else {}
    found = list(lists.pages(*_lister(kind), name=name, **filters))
    if not found and kind == "network":
        of_others = lists.pages(*_lister(kind), name=name)
        found = [message for message in of_others if message.external or message.shared]
    ours = [message for message in found if own and message.project_id == own]
    return [str(message.id) for message in ours or found]


def _beginning_with(lists: Lists, kind: str, text: str) -> list[str]:
    """Return the ids that begin with a text of at least one character after the prefix."""
    prefix = f"{ids.PREFIXES[kind]}-"
    if not text.startswith(prefix) or text == prefix:
        return []
    filters: dict[str, Any] = {"id_prefix": text} if kind == "instance" and len(text) >= 6 else {}
    known = (str(message.id) for message in lists.pages(*_lister(kind), **filters))
    return [ident for ident in known if ident.startswith(text)]


def _ambiguous(kind: str, text: str, found: list[str]) -> UnkaiError:
    shown = ", ".join(found[:5]) + (", ..." if len(found) > 5 else "")
    return InvalidArgument(
        f"{text} stands for {len(found)} {kind.replace('_', ' ')}s: {shown}",
        reason="AMBIGUOUS",
        fix="give more characters of the id",
        metadata={"text": text},
    )


def _lister(kind: str) -> tuple[str, str]:
    """Return the service and the method that list a kind."""
    noun = "".join(part.capitalize() for part in kind.split("_"))
    return f"{noun}Service", f"List{noun}s"
