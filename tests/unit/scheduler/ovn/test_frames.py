"""Frames between the scheduler and its child, and units in them."""

from __future__ import annotations

import asyncio
import io
import json
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unkai_scheduler.ovn import frames
from unkai_scheduler.ovn.encoding import Piece, decode_piece, encode_piece, refs_of
from unkai_scheduler.ovn.rows import Place, Row, Unit

ATOMS = st.one_of(st.text(), st.integers(-(2**63), 2**63), st.booleans(), st.uuids())
VALUES = st.one_of(
    ATOMS,
    st.frozensets(ATOMS, max_size=4),
    st.dictionaries(st.text(), st.one_of(st.text(), st.integers()), max_size=4),
)
PLACES = st.builds(Place, st.text(), st.uuids(), st.text())
ROWS = st.builds(
    Row,
    st.text(),
    st.uuids(),
    st.dictionaries(st.text(), VALUES, max_size=4),
    st.none() | PLACES,
    st.frozensets(PLACES, max_size=3),
)


@settings(max_examples=30)
@given(st.text(), st.lists(ROWS, max_size=3), st.integers(0, 3))
def test_a_piece_comes_back_as_it_was(key: str, rows: list[Row], first: int) -> None:
    unit = Unit(key, tuple(rows))
    piece = Piece(key, unit.rows[first:], refs_of(unit))

    message = json.loads(frames.encode({"piece": encode_piece(piece)})[4:])

    assert decode_piece(message["piece"]) == piece


def read_all(text: bytes) -> frames.Message | None:
    async def read() -> frames.Message | None:
        stream = asyncio.StreamReader()
        stream.feed_data(text)
        stream.feed_eof()
        return await frames.read(stream)

    return asyncio.run(read())


@pytest.mark.parametrize("reader", [read_all, lambda text: frames.read_blocking(io.BytesIO(text))])
class TestReading:
    def test_a_frame_is_read(self, reader) -> None:
        assert reader(frames.encode({"a": "é", "b": [1]})) == {"a": "é", "b": [1]}

    @pytest.mark.parametrize("length", range(10))
    def test_an_end_within_a_frame_is_the_end(self, reader, length: int) -> None:
        assert reader(frames.encode({"a": 12345})[:length]) is None

    @pytest.mark.parametrize(
        "text", [b"\xff\xff\xff\xff", b"\x00\x00\x00\x01[", b"\x00\x00\x00\x02[]", b"GET / HTTP"]
    )
    def test_what_is_no_frame_is_said_to_be_broken(self, reader, text: bytes) -> None:
        with pytest.raises(frames.BrokenFrame):
            reader(text + b" " * 100)


def test_a_frame_that_is_too_large_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "LIMIT_BYTES", 100)

    with pytest.raises(frames.BrokenFrame):
        frames.encode({"a": "x" * 100})


def test_frames_are_ascii() -> None:
    assert frames.encode({"ü": str(UUID(int=0)) + "ß"}).isascii()
