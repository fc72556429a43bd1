"""Any request at all, made from the contracts' descriptors: what hypothesis sends to the API.

Each field gets a plain value, one at a border, or a nasty one. A new method or field is covered
from the day it stands in a contract.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st

_INT32, _INT64 = 1 << 31, 1 << 63
_SIGNED = {FieldDescriptor.CPPTYPE_INT32: _INT32, FieldDescriptor.CPPTYPE_INT64: _INT64}
_UNSIGNED = {FieldDescriptor.CPPTYPE_UINT32: 1 << 32, FieldDescriptor.CPPTYPE_UINT64: 1 << 64}
_NASTY_TEXTS = (
    "",
    "web",
    "Web!",
    "-",
    " ",
    "\0",
    "a\nb",
    "\u202e雲海",
    "%_'\"\\;--",
    "x" * 63,
    "x" * 64,
    "x" * 256,
    "é" * 5000,
    "x" * 100_000,
    "1.1",
    "1." + "9" * 30,
    "²." + "٣",
    "9999-12-31T23:59:59.999999-23:59",
    "0001-01-01T00:00:00+23:59",
    "W10",
    "WyJhIl0",
    "../../etc/passwd",
    "ssh-ed25519 AAAA",
)
_BYTES = (b"", b"\0", b"QFI\xfb" + b"\0" * 100, b"x" * 65_535, b"x" * 65_536, b"x" * 65_537)
_SIZES = st.integers(0, 3)


def any_message(descriptor: Any, known: Mapping[str, Sequence[str]]) -> st.SearchStrategy[Any]:
    """Return messages of a type. `known`: texts with a meaning, by the end of a field's name."""
    if descriptor.full_name == "google.protobuf.Duration":
        return _any_duration(descriptor)
    fields = {field.name: _any_field(field, known) for field in descriptor.fields}

    def build(chosen: Mapping[str, Any]) -> Any:
        message = GetMessageClass(descriptor)()
        for name, value in chosen.items():
            _put(message, name, value)
        return message

    return st.fixed_dictionaries({}, optional=fields).map(build)


def any_requests(
    method: MethodDescriptor, known: Mapping[str, Sequence[str]]
) -> st.SearchStrategy[list[Any]]:
    """Return what a client may send to a method: one message, or a stream of some."""
    message = any_message(method.input_type, known)
    if not method.client_streaming:
        return message.map(lambda one: [one])
    return st.lists(message, max_size=4)


def _any_duration(descriptor: Any) -> st.SearchStrategy[Any]:
    kind = GetMessageClass(descriptor)
    seconds = st.sampled_from([0, 1, -1, 30, 3600, 604_800, 604_801, _INT64 - 1, -_INT64])
    nanos = st.sampled_from([0, 1, -1, 999_999_999, 1_000_000_000, _INT32 - 1, -_INT32])
    return st.builds(lambda s, n: kind(seconds=s, nanos=n), seconds, nanos)


def _any_field(field: FieldDescriptor, known: Mapping[str, Sequence[str]]) -> Any:
    message = field.message_type
    if message is not None and message.GetOptions().map_entry:
        keys = _any_value(message.fields_by_name["key"], known)
        values = _any_value(message.fields_by_name["value"], known)
        huge = st.integers(65, 3000).map(lambda n: {f"k{i}": "v" for i in range(n)})
        return st.one_of(st.dictionaries(keys, values, max_size=3), huge)
    one = _any_value(field, known)
    if not field.is_repeated:
        return one
    many = st.tuples(one, st.sampled_from([65, 2000, 40_000])).map(
        lambda pair: [pair[0]] * (pair[1] if len(str(pair[0])) < 64 else 65)
    )
    return st.one_of(st.lists(one, max_size=3), many)


def _any_value(field: FieldDescriptor, known: Mapping[str, Sequence[str]]) -> Any:
    kind = field.cpp_type
    if kind == FieldDescriptor.CPPTYPE_MESSAGE:
        return st.deferred(lambda: any_message(field.message_type, known))
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        numbers = [value.number for value in field.enum_type.values]
        return st.sampled_from([*numbers, -1, 99, _INT32 - 1])
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return st.booleans()
    if kind in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
        return st.floats()
    if kind in _SIGNED:
        end = _SIGNED[kind]
        common = [0, 1, -1, 1 << 20, 64 << 20, 64 << 20 | 1, end - 1, -end]
        return st.sampled_from([n for n in common if -end <= n < end])
    if kind in _UNSIGNED:
        return st.sampled_from([0, 1, 1 << 20, _UNSIGNED[kind] - 1])
    if field.type == FieldDescriptor.TYPE_BYTES:
        return st.one_of(st.sampled_from(_BYTES), st.binary(max_size=64))
    return _any_text(field.name, known)


def _any_text(name: str, known: Mapping[str, Sequence[str]]) -> st.SearchStrategy[str]:
    meant = [text for end, texts in known.items() if name.endswith(end) for text in texts]
    nasty = st.one_of(st.sampled_from(_NASTY_TEXTS), st.text(max_size=20))
    return st.one_of(st.sampled_from(meant), nasty) if meant else nasty


def _put(message: Any, name: str, value: Any) -> None:
    field = message.DESCRIPTOR.fields_by_name[name]
    target = getattr(message, name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        if field.message_type.fields_by_name["value"].message_type is None:
            target.update(value)
    elif field.is_repeated:
        target.extend(value)
    elif field.message_type is not None:
        target.CopyFrom(value)
    else:
        setattr(message, name, value)
