"""Public SSH keys in OpenSSH's one-line form: checked, normalised, fingerprinted. Pure.

Source of the layout: sshd(8), AUTHORIZED_KEYS FILE FORMAT (without its options); RFC 4253,
section 6.6 (the blob begins with its own type).
"""

from __future__ import annotations

import base64
import hashlib

from unkai_wire.errors import InvalidArgument

MAX_BYTES = 16 << 10
TYPES = frozenset(
    {
        "ssh-ed25519",
        "ssh-rsa",
        "ecdsa-sha2-nistp256",
        "ecdsa-sha2-nistp384",
        "ecdsa-sha2-nistp521",
        "sk-ssh-ed25519@openssh.com",
        "sk-ecdsa-sha2-nistp256@openssh.com",
    }
)
_FIELD = "key_pair.public_key"


def parse_public_key(text: str) -> tuple[str, str]:
    """Return the key as one clean line, and its `SHA256:` fingerprint."""
    if "PRIVATE KEY" in text:
        raise InvalidArgument.field(
            _FIELD,
            "is a private key, which must never leave its owner",
            reason="PRIVATE_KEY_GIVEN",
            fix="give the file that ends in .pub, and consider this private key exposed",
        )
    parts = text.strip().split(None, 2)
    if len(text.encode()) > MAX_BYTES or len(parts) < 2 or not text.strip().isprintable():
        raise _invalid(f"is not one line 'TYPE BASE64 COMMENT' of at most {MAX_BYTES} bytes")
    kind, encoded = parts[0], parts[1]
    if kind not in TYPES:
        raise _invalid(f"is of type {kind[:64]!r}; taken are {', '.join(sorted(TYPES))}")
    try:
        blob = base64.b64decode(encoded, validate=True)
    except ValueError as error:
        raise _invalid("is not base64 after its type") from error
    if not _is_of_type(blob, kind):
        raise _invalid(f"says {kind}, but holds another or a broken key")
    digest = base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
    return " ".join(part.strip() for part in parts), f"SHA256:{digest}"


def _is_of_type(blob: bytes, kind: str) -> bool:
    """Tell whether the blob is a list of whole strings of which the first is the type."""
    fields, position = [], 0
    while position + 4 <= len(blob):
        length = int.from_bytes(blob[position : position + 4], "big")
        fields.append(blob[position + 4 : position + 4 + length])
        position += 4 + length
    return position == len(blob) and len(fields) > 1 and fields[0] == kind.encode()


def _invalid(problem: str) -> InvalidArgument:
    return InvalidArgument.field(
        _FIELD,
        problem,
        reason="INVALID_PUBLIC_KEY",
        fix="give the content of a file such as ~/.ssh/id_ed25519.pub",
    )
