"""Messages as plain values: what tables, JSON and YAML are printed from.

Keys are the contract's field names; enum values lose their prefix (`STATE_RUNNING` is `RUNNING`);
times are RFC 3339; a message that is absent is None, so that every record of a kind has the same
keys. Much quicker than protobuf's own JSON for long lists: what to do with a field is found once
for each kind of message.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor

Reader = Callable[[Any], Any]
"""Turns one value of a field into a plain one."""


def record(message: Any) -> dict[str, Any]:
    """Return a message as plain values; bytes, which only requests carry, are left out."""
    values: dict[str, Any] = {}
    for name, read, has_presence in _readers(message.DESCRIPTOR):
        present = not has_presence or message.HasField(name)
        values[name] = read(getattr(message, name)) if present else None
    return values


@functools.cache
def _readers(descriptor: Descriptor) -> list[tuple[str, Reader, bool]]:
    return [
        (field.name, _reader(field), field.has_presence)
        for field in descriptor.fields
        if field.type != FieldDescriptor.TYPE_BYTES
    ]


def _reader(field: FieldDescriptor) -> Reader:
    kind = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        return _plain_map
    read = _of_enum(field) if field.enum_type is not None else _of_message(kind) if kind else _plain
    if not field.is_repeated:
        return read
    return lambda values: [read(value) for value in values]


def _plain(value: Any) -> Any:
    return value


def _plain_map(values: Any) -> Any:
    return {key: values[key] for key in sorted(values)}


def _of_enum(field: FieldDescriptor) -> Reader:
    enum = field.enum_type
    assert enum is not None
    words = "".join(f"_{c}" if c.isupper() else c for c in enum.name).lstrip("_").upper()
    names = {value.number: value.name.removeprefix(f"{words}_") for value in enum.values}
    return lambda number: names.get(number, str(number))


def _of_message(kind: Descriptor) -> Reader:
    if kind.full_name == "google.protobuf.Timestamp":
        return lambda value: value.ToJsonString()
    if kind.full_name.startswith("unkai."):
        return record
    # By way of text: MessageToDict leaves dictionaries of a class of its own in an Any.
    return lambda value: json.loads(
        json_format.MessageToJson(value, preserving_proto_field_name=True)
    )


def progress_text(operation: Any) -> str:
    """Return one line that says how far an operation is."""
    shown = record(operation)
    text: str = f"{shown['verb'].lower()} {shown['resource_kind']}: "
    text += shown["progress_message"] or shown["state"].lower()
    if shown["queue_position"]:
        text += f" (number {shown['queue_position']} in the queue)"
    if 0 < shown["progress_percent"] < 100:
        text += f" {shown['progress_percent']}%"
    return text
