"""Events and their revisions: one order over everything that happened."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum

from unkai_wire.errors import InvalidArgument

_REVISION = re.compile(r"[0-9]{1,18}\.[0-9]{1,18}")
"""Two numbers that every database can hold."""


class EventType(Enum):
    """Kind of change."""

    CREATED = "CREATED"
    UPDATED = "UPDATED"
    DELETED = "DELETED"
    WARNING = "WARNING"


@dataclass(frozen=True, slots=True, order=True)
class Revision:
    """Place in the history: the epoch that `db restored` raises, then the number stamped."""

    epoch: int
    number: int

    def __str__(self) -> str:
        return f"{self.epoch}.{self.number}"

    @classmethod
    def parse(cls, text: str) -> Revision:
        """Read the text form; raise `InvalidArgument` when it is not one."""
        if not _REVISION.fullmatch(text):
            raise InvalidArgument.field(
                "after_revision", "is not a revision we gave", reason="INVALID_REVISION"
            )
        epoch, _, number = text.partition(".")
        return cls(int(epoch), int(number))


@dataclass(frozen=True, slots=True)
class Event:
    """One change of one resource."""

    id: str
    project_id: str
    resource_kind: str
    resource_id: str
    resource_name: str
    type: EventType
    actor: str
    create_time: datetime
    state: str = ""
    reason: str = ""
    message: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)
    request_id: str = ""
    revision: Revision | None = None
    """None until the leader's sequencer has stamped it; watchers see stamped events only."""
