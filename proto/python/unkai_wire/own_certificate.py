"""What a certificate of our own says, read from its DER: its URIs, and when it ends.

The `cryptography` package reads all of X.509, and costs an idle agent 9 MiB for these. This goes
just the way to them: certificate, validity, extensions, subject alternative names (RFC 5280,
sections 4.1 and 4.2.1.6; lengths as X.690, section 8.1.3). It checks nothing, since whoever we show
the certificate to will. So never give it a stranger's.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from datetime import UTC, datetime

_SEQUENCE, _OCTETS, _OBJECT_ID = 0x30, 0x04, 0x06
_EXTENSIONS = 0xA3
"""The field `extensions [3]` of a TBSCertificate."""
_VALIDITY = 2
"""Of a TBSCertificate's fields that are sequences: signature, issuer, validity, subject, key."""
_URI = 0x86
"""The choice `uniformResourceIdentifier [6]` of a GeneralName."""
_TIMES = {0x17: "%y%m%d%H%M%SZ", 0x18: "%Y%m%d%H%M%SZ"}
"""UTCTime, until 2049, and GeneralizedTime."""
_SUBJECT_ALT_NAME = bytes((0x55, 0x1D, 0x11))
"""2.5.29.17"""
_END = "-----END CERTIFICATE-----"


def uris_of(pem: str) -> list[str]:
    """Return the URIs that the first certificate of a PEM file names; ValueError when unreadable.

    There are none where it has no subject alternative names.
    """
    names: list[str] = []
    for tag, extensions in _fields(pem):
        if tag == _EXTENSIONS:
            for _, extension in _elements(_only(extensions, _SEQUENCE)):
                names += _uris_in(extension)
    return names


def end_of(pem: str) -> datetime:
    """Return when the first certificate of a PEM file ends; ValueError when unreadable."""
    sequences = [content for tag, content in _fields(pem) if tag == _SEQUENCE]
    times = list(_elements(sequences[_VALIDITY])) if len(sequences) > _VALIDITY else []
    if len(times) != 2 or times[1][0] not in _TIMES:
        raise ValueError("it does not say when it ends")
    tag, text = times[1]
    return datetime.strptime(text.decode("ascii"), _TIMES[tag]).replace(tzinfo=UTC)


def _fields(pem: str) -> Iterator[tuple[int, bytes]]:
    """Yield the fields of the first certificate's TBSCertificate."""
    first, end, _ = pem.partition(_END)
    der = ssl.PEM_cert_to_DER_cert(first[max(0, first.find("-----BEGIN")) :].strip() + end)
    return _elements(_only(_only(der, _SEQUENCE), _SEQUENCE))


def _uris_in(extension: bytes) -> Iterator[str]:
    fields = list(_elements(extension))
    if fields and fields[0] == (_OBJECT_ID, _SUBJECT_ALT_NAME):
        tag, value = fields[-1]
        if tag != _OCTETS:
            raise ValueError("its alternative names are malformed")
        yield from (
            text.decode("ascii")
            for kind, text in _elements(_only(value, _SEQUENCE))
            if kind == _URI
        )


def _only(data: bytes, wanted: int) -> bytes:
    """Return the content of the first element, which must be of this kind."""
    tag, content = next(_elements(data), (0, b""))
    if tag != wanted:
        raise ValueError("it is not a certificate")
    return content


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield tag and content of each element; tags of more than one byte do not occur."""
    at = 0
    while at < len(data):
        if at + 2 > len(data):
            raise ValueError("it is cut off")
        tag, length = data[at], data[at + 1]
        at += 2
        if length & 0x80:
            digits = length & 0x7F
            length = int.from_bytes(data[at : at + digits], "big")
            at += digits
        if at + length > len(data):
            raise ValueError("it is cut off")
        yield tag, data[at : at + length]
        at += length
