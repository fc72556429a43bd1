"""Segments: pieces of the decision log as they are stored; each can be replayed by itself.

A segment is a magic word, the format's version and a check sum, then a header as JSON and the
compressed records (journal.py writes them, replay.py reads them). Nothing in it is believed before
the check sum is right: a damaged or cut segment is told, never read half. Pure.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

MAGIC = b"unkailog"
FORMAT = 1
"""Raised whenever a reader of before would misread what is written now."""
SUFFIX = ".segment"
_TIME = "%Y%m%dT%H%M%S.%fZ"
_LEVEL = 1
"""Of zlib."""
_HEAD = struct.Struct("<8sHII")
"""Magic, format, bytes that follow, their CRC-32."""
_LENGTH = struct.Struct("<I")
"""Bytes of the header, which follows; then come the records."""
_RECORD = struct.Struct("<BI")


class UnreadableSegment(Exception):
    """A segment is damaged, cut, or of a format that this version does not know."""


@dataclass(frozen=True, slots=True, order=True)
class SegmentName:
    """The name of a stored segment: it says which times are in it. Sorts by time."""

    began_time: datetime
    """The earliest of a decision."""
    ended_time: datetime
    """The latest."""
    term: int
    number: int

    def __str__(self) -> str:
        began, ended = (time.strftime(_TIME) for time in (self.began_time, self.ended_time))
        return f"{began}-{ended}-{self.term}-{self.number}{SUFFIX}"

    @classmethod
    def parse(cls, text: str) -> SegmentName | None:
        """Return the name that a text is; None: it is of something else."""
        parts = text.removesuffix(SUFFIX).split("-")
        if len(parts) != 4 or not text.endswith(SUFFIX):
            return None
        try:
            began, ended = (datetime.strptime(part, _TIME) for part in parts[:2])  # noqa: DTZ007
            term, number = map(int, parts[2:])
        except ValueError:
            return None
        return cls(began.replace(tzinfo=UTC), ended.replace(tzinfo=UTC), term, number)


@dataclass(frozen=True, slots=True)
class Header:
    """What a segment says of itself."""

    term: int
    """The leader's."""
    number: int
    """Counted in the term."""
    began: str
    """Earliest time of a decision, ISO 8601, UTC."""
    ended: str
    """Latest time of a decision."""
    decisions: int
    weights: Mapping[str, int]
    filters: tuple[str, ...]
    """Names, by the numbers that the records give them."""

    @property
    def name(self) -> SegmentName:
        """Return the name it is stored by."""
        began, ended = datetime.fromisoformat(self.began), datetime.fromisoformat(self.ended)
        return SegmentName(began, ended, self.term, self.number)


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment, not compressed. Memory: some MiB."""

    header: Header
    records: bytes | bytearray

    def entries(self) -> Iterator[tuple[int, memoryview]]:
        """Yield kind and body of each record, in order."""
        view, at = memoryview(self.records), 0
        while at < len(view):
            kind, length = _RECORD.unpack_from(view, at)
            at += _RECORD.size
            yield kind, view[at : at + length]
            at += length


def seal(segment: Segment) -> bytes:
    """Return the bytes to store. Cost: some 10 ms a MiB; it lets other threads run meanwhile."""
    header = json.dumps(asdict(segment.header), separators=(",", ":")).encode()
    body = _LENGTH.pack(len(header)) + header + zlib.compress(segment.records, _LEVEL)
    return _HEAD.pack(MAGIC, FORMAT, len(body), zlib.crc32(body)) + body


def unseal(stored: bytes) -> Segment:
    """Return the segment that `seal` wrote; raise `UnreadableSegment`."""
    if not stored.startswith(MAGIC):
        raise UnreadableSegment("it is no segment of a decision log")
    if len(stored) < _HEAD.size:
        raise UnreadableSegment("it is cut short")
    _, version, length, crc32 = _HEAD.unpack_from(stored)
    if version != FORMAT:
        raise UnreadableSegment(f"its format is {version}, and this version reads {FORMAT}")
    body = stored[_HEAD.size :]
    if len(body) != length:
        raise UnreadableSegment(f"{len(body)} bytes of it are there, and not {length}")
    if zlib.crc32(body) != crc32:
        raise UnreadableSegment("it is damaged: its check sum is wrong")
    at = _LENGTH.size + _LENGTH.unpack_from(body)[0]
    plain = json.loads(body[_LENGTH.size : at])
    header = Header(**{**plain, "filters": tuple(plain["filters"])})
    return Segment(header, zlib.decompress(body[at:]))
