"""Snapshots: all of a fleet that decides, as bytes; a segment of the decision log begins with one.

Written apart from `fleet.py`, and a part of it: it reads and fills the fleet's own columns. What
only serves to fold the next samples is left out, so a fleet made from a snapshot takes over folded
figures (`Fleet.take_over`), and no samples. Pure.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from unkai_scheduler.domain.hosts import HostState
from unkai_scheduler.placement.fleet import Fleet
from unkai_scheduler.placement.host_words import WordBits
from unkai_scheduler.placement.moves import Aspect

FIGURES = {"recent": "<u2", "total_mib": "<u4", "sample_s": "<f8", "sampled": "<f4"}
"""The columns that folding makes, but for what only the next fold reads; the last only explains."""
_LENGTH = struct.Struct("<I")
_FOR_FOLDING = ("mean", "ring", "slot", "cpu_before")
_EXPLAINS_ONLY = "sampled"
_LINES = ("ids", "names")
"""Texts of hosts that have no line ends."""
_SAID = ("cordon_reasons", "network_problems")
"""Texts that most hosts have none of."""
_KEPT_BITS, _HALF_BIT = np.uint32(0xFFFFF000), np.uint32(0x800)


def taken(fleet: Fleet) -> bytes:
    """Return a snapshot. Cost: some 0.5 µs and 500 bytes a host."""
    count = len(fleet)
    columns = [name for name in fleet._columns if name not in _FOR_FOLDING]
    arrays = [_written(name, fleet._columns[name][:count]) for name in columns]
    settling = fleet._settling
    told = {
        "max_sample_age_s": fleet.max_sample_age_s,
        "now_s": fleet.now_s,
        "faded_s": fleet._faded_s,
        **{name: "\n".join(getattr(fleet, name)) for name in _LINES},
        **{name: _said(getattr(fleet, name)) for name in _SAID},
        "connecting": [r for r, s in enumerate(fleet._states) if s is HostState.CONNECTING],
        "words": list(fleet.words),
        "settling": [settling._bucket, settling._clock_s, settling._weights.tolist()],
        "columns": [
            [name, array.dtype.str, array.shape]
            for name, array in zip(columns, arrays, strict=True)
        ],
    }
    text = json.dumps(told, separators=(",", ":")).encode()
    return b"".join([_LENGTH.pack(len(text)), text, *(array.tobytes() for array in arrays)])


def restored(snapshot: bytes | memoryview) -> Fleet:
    """Return the fleet of a snapshot, to replay on."""
    (length,) = _LENGTH.unpack_from(snapshot)
    at = _LENGTH.size + length
    told = json.loads(bytes(snapshot[_LENGTH.size : at]))
    fleet = Fleet(max_sample_age_s=told["max_sample_age_s"])
    fleet.now_s, fleet._faded_s = told["now_s"], told["faded_s"]
    for name in _LINES:
        setattr(fleet, name, told[name].split("\n") if told[name] else [])
    count = len(fleet.ids)
    for name in _SAID:
        setattr(fleet, name, [told[name].get(str(row), "") for row in range(count)])
    fleet._rows = {ident: row for row, ident in enumerate(fleet.ids)}
    fleet.words = WordBits(told["words"])
    for name in _FOR_FOLDING:
        empty = fleet._columns[name]
        fleet._columns[name] = np.zeros((count, *empty.shape[1:]), empty.dtype)
    for name, dtype, shape in told["columns"]:
        size = int(np.prod(shape, dtype=np.int64))
        array = np.frombuffer(snapshot, dtype, size, at).reshape(shape)
        at += array.nbytes
        fleet._columns[name] = array.astype(fleet._columns[name].dtype)
    fleet._states = [
        HostState.UP if is_up else HostState.UNKNOWN for is_up in fleet._columns["up"].tolist()
    ]
    for row in told["connecting"]:
        fleet._states[row] = HostState.CONNECTING
    settling = fleet._settling
    settling._bucket, settling._clock_s, weights = told["settling"]
    settling._weights = np.array(weights, np.int64)
    return fleet


def word_count(fleet: Fleet) -> int:
    """Return how many words (traits, and what is kept as traits are) any host has ever had."""
    return len(fleet.words)


def figures(fleet: Fleet, name: str, rows: npt.NDArray[np.int64]) -> bytes:
    """Return some rows of a column of `FIGURES`, in an order that is compressed well.

    First all first figures, then all second ones; of each first all first bytes.
    """
    column = fleet._columns[name].take(rows, axis=0)
    wanted = to_three_digits(column) if name == _EXPLAINS_ONLY else column.astype(FIGURES[name])
    by_figure = np.ascontiguousarray(wanted.T)
    return by_figure.view(np.uint8).reshape(by_figure.size, -1).T.tobytes()


def read_figures(
    fleet: Fleet, name: str, count: int, body: memoryview
) -> tuple[npt.NDArray[Any], memoryview]:
    """Return what `figures` wrote of so many rows, and the rest of the body."""
    column, dtype = fleet._columns[name], np.dtype(FIGURES[name])
    shape = (*column.shape[:0:-1], count)
    size = int(np.prod(shape, dtype=np.int64))
    planes = np.frombuffer(body, np.uint8, size * dtype.itemsize).reshape(dtype.itemsize, size)
    values = np.ascontiguousarray(planes.T).view(dtype).reshape(shape).T
    return values, body[size * dtype.itemsize :]


def taken_row(fleet: Fleet, row: int, known_words: int) -> bytes:
    """Return a snapshot of one host. `known_words`: how many of the fleet's words are told."""
    told = {
        "id": fleet.ids[row],
        "name": fleet.names[row],
        "cordon_reason": fleet.cordon_reasons[row],
        "network_problem": fleet.network_problems[row],
        "state": fleet.state_of(row).value,
        "words": list(fleet.words)[known_words:],
        "columns": {
            name: column[row].tolist()
            for name, column in fleet._columns.items()
            if name not in (*_FOR_FOLDING, _EXPLAINS_ONLY)
        },
    }
    return json.dumps(told, separators=(",", ":")).encode()


def put_row(fleet: Fleet, snapshot: bytes | memoryview) -> None:
    """Add the host of a snapshot, or replace what is known of it."""
    told = json.loads(bytes(snapshot))
    row = fleet.row_of(told["id"])
    if row is None:
        row = fleet._append(told["id"])
    if fleet.names[row] != told["name"]:
        fleet.names[row] = told["name"]
        fleet._reorder()
    fleet.cordon_reasons[row] = told["cordon_reason"]
    fleet.network_problems[row] = told["network_problem"]
    fleet._states[row] = HostState(told["state"])
    fleet._set_words(row, told["words"])  # makes room for the bits of new words
    for name, value in told["columns"].items():
        fleet._columns[name][row] = value
    fleet._settling.rows_changed()
    fleet.moves.note(row, Aspect.ALL)


def checksum(fleet: Fleet) -> int:
    """Return a check sum of all that decides: equal fleets have equal ones."""
    crc32 = 0
    for name, column in fleet._columns.items():
        if name not in (*_FOR_FOLDING, _EXPLAINS_ONLY):
            crc32 = zlib.crc32(column[: len(fleet)].tobytes(), crc32)
    return zlib.crc32("\n".join((*fleet.ids, *fleet.names)).encode(), crc32)


def _said(texts: Sequence[str]) -> dict[int, str]:
    """Return texts by row, without those that say nothing."""
    return {row: text for row, text in enumerate(texts) if text}


def to_three_digits(figures: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Return figures that only explain, short enough: single floats of 11 bits after the first."""
    bits = (figures.astype("<f4").view("<u4") + _HALF_BIT) & _KEPT_BITS
    rounded: npt.NDArray[np.float32] = bits.view("<f4")
    return rounded


def _written(name: str, column: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if name == _EXPLAINS_ONLY:
        return to_three_digits(column)
    return column.astype(column.dtype.newbyteorder("<"), copy=False)
