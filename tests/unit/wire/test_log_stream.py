"""Logs on a full disk and on a closed stream: lines are lost, and nothing else."""

from __future__ import annotations

import io
from contextlib import suppress
from pathlib import Path

from unkai_wire.log_stream import LastingStream


def test_a_full_disk_costs_the_lines_and_is_counted() -> None:
    with suppress(OSError), Path("/dev/full").open("w", buffering=1) as full:
        stream = LastingStream(full)
        for _ in range(3):
            stream.write("a line\n")
            stream.flush()
    assert stream.lost >= 3


def test_a_closed_stream_costs_the_lines() -> None:
    closed = io.StringIO()
    closed.close()
    stream = LastingStream(closed)
    assert stream.write("a line\n") == 7
    stream.flush()
    assert stream.lost == 1
    assert not stream.isatty()


def test_what_can_be_written_is_written() -> None:
    text = io.StringIO()
    stream = LastingStream(text)
    stream.write("a line\n")
    stream.flush()
    assert (text.getvalue(), stream.lost) == ("a line\n", 0)
