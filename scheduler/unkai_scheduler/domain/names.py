"""Rules for names, labels and sizes that every resource shares. All raise `InvalidArgument`."""

from __future__ import annotations

import re
from collections.abc import Mapping

from unkai_wire.errors import InvalidArgument
from unkai_wire.ids import looks_like_id

_NAME = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
_DOTTED_NAME = re.compile(r"[a-z]([a-z0-9.-]{0,61}[a-z0-9])?")
_LABEL_KEY = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?")
_DOMAIN = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")
_TRAIT = re.compile(r"[A-Z][A-Z0-9_]{0,63}")
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,64}")
MAX_NAME = 63
MAX_FILTER = 64
"""Characters of a text that a list is filtered by: no name and no id is longer."""
MAX_DOMAIN = 189
"""Characters of a domain: with a name of 63 before it, it is at most 253 (RFC 1035)."""
MAX_LABELS = 64
MAX_LABEL_VALUE = 255


def check_name(name: str, field: str, *, dots: bool = False) -> str:
    """Return the name when it is one: 1 to 63 of a-z 0-9 - (and . where allowed).

    Raise `InvalidArgument`, which names the field, otherwise.
    """
    if not (_DOTTED_NAME if dots else _NAME).fullmatch(name):
        raise InvalidArgument.field(
            field,
            f"{name[:64]!r} is not a name: use 1 to 63 characters of a-z, 0-9"
            f"{', .' if dots else ''} and -, beginning with a letter and not ending with -",
            reason="INVALID_NAME",
        )
    if looks_like_id(name):
        raise InvalidArgument.field(
            field,
            f"{name!r} is written like an id, and would be taken for one",
            reason="INVALID_NAME",
            fix="choose a name that people can tell from an id",
        )
    return name


def is_domain(text: str) -> bool:
    """Tell whether a text is a domain that instances' names may be in."""
    return len(text) <= MAX_DOMAIN and _DOMAIN.fullmatch(text) is not None


def check_domain(text: str, field: str) -> str:
    """Return the domain when it is one; raise `InvalidArgument` otherwise."""
    if not is_domain(text):
        raise InvalidArgument.field(
            field,
            f"{text[:64]!r} is not a domain: use up to {MAX_DOMAIN} characters of a-z, 0-9 and -, "
            "with dots between words",
            reason="INVALID_DNS_DOMAIN",
        )
    return text


def check_labels(labels: Mapping[str, str], field: str) -> dict[str, str]:
    """Return the labels when all are within the limits; raise `InvalidArgument` otherwise."""
    if len(labels) > MAX_LABELS:
        raise InvalidArgument.field(
            field, f"has {len(labels)} labels; {MAX_LABELS} are allowed", reason="TOO_MANY_LABELS"
        )
    for key, value in labels.items():
        if not _LABEL_KEY.fullmatch(key):
            raise InvalidArgument.field(
                field, f"{key[:64]!r} is not a label's key", reason="INVALID_LABEL"
            )
        if len(value) > MAX_LABEL_VALUE or not value.isprintable():
            raise InvalidArgument.field(
                field,
                f"the value of {key!r} must be at most {MAX_LABEL_VALUE} printable characters",
                reason="INVALID_LABEL",
            )
    return dict(labels)


def check_text(text: str, field: str, most: int) -> str:
    """Return free text when it is short enough and has no control characters but line ends.

    `most`: characters. Raise `InvalidArgument` otherwise.
    """
    if len(text) > most:
        raise InvalidArgument.field(
            field, f"is longer than {most} characters", reason="TEXT_TOO_LONG"
        )
    if any(ord(char) < 0x20 and char not in "\t\n" for char in text):
        raise InvalidArgument.field(
            field, "holds a control character other than a line end", reason="INVALID_TEXT"
        )
    return text


def is_trait(text: str) -> bool:
    """Tell whether a text is a trait: a word of A-Z, 0-9 and _, first a letter."""
    return _TRAIT.fullmatch(text) is not None


def is_request_id(text: str) -> bool:
    """Tell whether a text is 1 to 64 visible ASCII characters."""
    return _REQUEST_ID.fullmatch(text) is not None


def check_request_id(request_id: str) -> str:
    """Return the request id when it is empty or 1 to 64 visible ASCII characters.

    Raise `InvalidArgument` otherwise.
    """
    if request_id and not is_request_id(request_id):
        raise InvalidArgument.field(
            "request_id",
            "must be 1 to 64 visible ASCII characters; a UUID is advised",
            reason="INVALID_REQUEST_ID",
        )
    return request_id
