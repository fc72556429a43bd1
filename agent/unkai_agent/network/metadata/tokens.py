"""Session tokens of the metadata service, as EC2 has them (IMDSv2). Pure but for the key.

A token is its end and an HMAC over that and whom it was given: nothing is kept of it, and one that
was carried elsewhere, or that an earlier agent gave, is nothing. Clients then ask for a new one.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
import struct
import time
from collections.abc import Callable

TTL_MAX_S = 21600
"""Six hours (AWS, "Use IMDSv2")."""


class Tokens:
    """Gives and checks tokens."""

    def __init__(
        self, key: bytes | None = None, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """`key`: by default drawn anew, so that tokens end with the agent."""
        self._key = key or secrets.token_bytes(32)
        self._monotonic = monotonic

    def give(self, subject: str, ttl_s: int) -> str:
        """Return a token for a subject, 1 to `TTL_MAX_S` seconds."""
        end = struct.pack(">d", self._monotonic() + ttl_s)
        return base64.urlsafe_b64encode(end + self._mark(end, subject)).decode().rstrip("=")

    def is_good(self, token: str, subject: str) -> bool:
        """Tell whether a token was given to this subject and has not ended."""
        try:
            content = base64.urlsafe_b64decode(token.encode("ascii") + b"=" * (-len(token) % 4))
        except (binascii.Error, ValueError):
            return False
        end, mark = content[:8], content[8:]
        if len(end) < 8 or not hmac.compare_digest(mark, self._mark(end, subject)):
            return False
        moment: float = struct.unpack(">d", end)[0]
        return self._monotonic() < moment

    def _mark(self, end: bytes, subject: str) -> bytes:
        return hmac.digest(self._key, end + subject.encode(), "sha256")
