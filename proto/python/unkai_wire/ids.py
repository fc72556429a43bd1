"""Typed, sortable ids: a prefix and the 26 Crockford base32 characters of a UUIDv7.

The UUID inside is also the libvirt domain's. Sources: RFC 9562 section 5.7 (UUIDv7);
Crockford's base32 alphabet, lower case.
"""

from __future__ import annotations

import secrets
import time
import uuid
from collections.abc import Callable
from datetime import datetime
from typing import NewType

from unkai_wire.errors import InvalidArgument

InstanceId = NewType("InstanceId", str)
HostId = NewType("HostId", str)
ImageId = NewType("ImageId", str)
FlavorId = NewType("FlavorId", str)
KeyPairId = NewType("KeyPairId", str)
ProjectId = NewType("ProjectId", str)
OperationId = NewType("OperationId", str)

PREFIXES = {
    "instance": "ins",
    "host": "hst",
    "aggregate": "agg",
    "image": "img",
    "flavor": "flv",
    "key_pair": "key",
    "placement_group": "pgr",
    "project": "prj",
    "operation": "opr",
    "event": "evt",
    "network": "net",
    "subnet": "sub",
    "port": "prt",
    "router": "rtr",
    "floating_ip": "fip",
    "security_group": "sgp",
    "security_group_rule": "sgr",
    "load_balancer": "lbr",
}
"""Prefix of each kind's ids."""

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_VALUES = {c: i for i, c in enumerate(_ALPHABET)}
_LENGTH = 26

NewId = Callable[[str], str]
"""Maker of ids: `new_id("instance")`. Passed in, so that tests can choose."""


def uuid7(now_ms: int | None = None, random_bits: int | None = None) -> uuid.UUID:
    """Make a UUIDv7: 48 bits of Unix milliseconds, then 74 random bits."""
    ms = time.time_ns() // 1_000_000 if now_ms is None else now_ms
    rand = secrets.randbits(74) if random_bits is None else random_bits
    value = (ms & ((1 << 48) - 1)) << 80 | 0x7 << 76 | (rand >> 62 & 0xFFF) << 64
    value |= 0b10 << 62 | rand & ((1 << 62) - 1)
    return uuid.UUID(int=value)


def encode(prefix: str, value: uuid.UUID) -> str:
    """Write an id: `encode("ins", u)` gives `ins-` and 26 characters."""
    number, digits = value.int, []
    for _ in range(_LENGTH):
        digits.append(_ALPHABET[number & 31])
        number >>= 5
    return f"{prefix}-{''.join(reversed(digits))}"


def new_id(kind: str) -> str:
    """Make a new id of a kind named in `PREFIXES`."""
    return encode(PREFIXES[kind], uuid7())


def ids_by(clock: Callable[[], datetime]) -> NewId:
    """Return a maker of ids whose order is that of a clock's time, not of this machine's."""

    def make(kind: str) -> str:
        return encode(PREFIXES[kind], uuid7(int(clock().timestamp() * 1000)))

    return make


def uuid_of(ident: str) -> uuid.UUID:
    """Return the UUID inside an id; raise `InvalidArgument` when it is not an id."""
    _, _, text = ident.partition("-")
    if len(text) != _LENGTH or text[0] > "7" or any(c not in _VALUES for c in text):
        raise InvalidArgument(
            f"{ident[:64]!r} is not an id", reason="INVALID_ID", metadata={"id": ident[:64]}
        )
    number = 0
    for char in text:
        number = number << 5 | _VALUES[char]
    return uuid.UUID(int=number)


def is_id(kind: str, text: str) -> bool:
    """Tell whether a text is a whole id of this kind."""
    prefix, _, rest = text.partition("-")
    return (
        prefix == PREFIXES[kind]
        and len(rest) == _LENGTH
        and rest[0] <= "7"
        and all(c in _VALUES for c in rest)
    )


def looks_like_id(text: str) -> bool:
    """Tell whether a text is a whole id of some kind."""
    return any(is_id(kind, text) for kind in PREFIXES)


def check_id(kind: str, text: str, field: str) -> str:
    """Return the text when it is an id of this kind, else raise `InvalidArgument` for the field."""
    if not is_id(kind, text):
        raise InvalidArgument.field(
            field,
            f"{text[:64]!r} is not the id of {'an' if kind[0] in 'aeio' else 'a'} "
            f"{kind.replace('_', ' ')} "
            f"({PREFIXES[kind]}- and {_LENGTH} characters)",
            reason="INVALID_ID",
        )
    return text
