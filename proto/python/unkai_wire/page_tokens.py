"""Page tokens: opaque text that says where the next page begins.

A token carries the sort key of the last row given and a digest of the request's other fields, so
that a token used with another request is refused, and pages stay right while rows come and go.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Sequence

from unkai_wire.errors import InvalidArgument

DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1000
MAX_TOKEN = 16 << 10
"""Longest token looked at: a name, an id and a digest in base64 are far shorter."""


def page_size(requested: int) -> int:
    """Return the size to use: 0 means 100, more than 1000 means 1000, less than 0 is refused."""
    if requested < 0:
        raise InvalidArgument.field("page_size", "must not be negative")
    return min(requested or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)


def _digest(request: str) -> str:
    return hashlib.sha256(request.encode()).hexdigest()[:12]


def encode(request: str, key: Sequence[str]) -> str:
    """Make the token for the page after the row with this sort key.

    `request`: the request's other fields as one text, the same on each page.
    """
    raw = json.dumps([_digest(request), *key], separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def decode(request: str, token: str) -> list[str]:
    """Return the sort key in a token; raise `InvalidArgument` for one that does not belong."""
    try:
        if len(token) > MAX_TOKEN:
            raise ValueError("too long")
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        parts = json.loads(raw)
        json.dumps(parts, ensure_ascii=False).encode()  # half a surrogate pair is no text
    except (binascii.Error, ValueError, RecursionError) as error:
        raise InvalidArgument.field(
            "page_token", "is not a token we gave", reason="INVALID_PAGE_TOKEN"
        ) from error
    valid = isinstance(parts, list) and all(isinstance(p, str) for p in parts) and len(parts) > 1
    if not valid or parts[0] != _digest(request):
        raise InvalidArgument.field(
            "page_token",
            "belongs to another request",
            reason="INVALID_PAGE_TOKEN",
            fix="repeat the request of the first page, changing nothing but page_token",
        )
    return list(parts[1:])
