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


Known = Mapping[str, Sequence[Any]]
"""What a field may hold that means something, by the end of the field's name. A name that begins
with `=` is the whole name of a field that holds nothing else."""
_TIDY_TEXTS = ("", "web", "db")
_TIDY_NUMBERS = (0, 1, 2)


def any_requests(
    method: MethodDescriptor, known: Known, *, tidy: bool = False
) -> st.SearchStrategy[list[Any]]:
    """Return what a client may send to a method: one message, or a stream of some.

    `tidy`: mostly right, so that a story gets somewhere: what means something is always there.
    """
    message = _Drawing(known, tidy).message(method.input_type)
    if not method.client_streaming:
        return message.map(lambda one: [one])
    return st.lists(message, max_size=4)


class _Drawing:
    """Makes strategies; `known`: what means something."""

    def __init__(self, known: Known, tidy: bool) -> None:
        self._known = known
        self._tidy = tidy

    def message(self, descriptor: Any) -> st.SearchStrategy[Any]:
        """Return messages of a type."""
        if descriptor.full_name == "google.protobuf.Duration":
            return self._duration(descriptor)
        fields = {field.name: self._field(field) for field in descriptor.fields}
        always = {name: s for name, s in fields.items() if self._tidy and self._means(name)}
        rest = {name: s for name, s in fields.items() if name not in always}

        def build(chosen: Mapping[str, Any]) -> Any:
            message = GetMessageClass(descriptor)()
            for name, value in chosen.items():
                _put(message, name, value)
            return message

        return st.fixed_dictionaries(always, optional=rest).map(build)

    def _means(self, name: str) -> bool:
        """Tell whether a tidy client always says it."""
        return bool(self._meant(name)) and not name.endswith(("request_id", "token", "etag"))

    def _meant(self, name: str) -> list[Any]:
        ends = [end for end in self._known if name.endswith(end)]
        if self._tidy and ends:
            ends = [max(ends, key=len)]
        return [value for end in ends for value in self._known[end]]

    def _duration(self, descriptor: Any) -> st.SearchStrategy[Any]:
        kind = GetMessageClass(descriptor)
        if self._tidy:
            return st.builds(lambda s: kind(seconds=s), st.integers(0, 30))
        seconds = st.sampled_from([0, 1, -1, 30, 3600, 604_800, 604_801, _INT64 - 1, -_INT64])
        nanos = st.sampled_from([0, 1, -1, 999_999_999, 1_000_000_000, _INT32 - 1, -_INT32])
        return st.builds(lambda s, n: kind(seconds=s, nanos=n), seconds, nanos)

    def _field(self, field: FieldDescriptor) -> Any:
        message = field.message_type
        if message is not None and message.GetOptions().map_entry:
            return self._map(message)
        one = self._value(field)
        if not field.is_repeated:
            return one
        if self._tidy:
            return st.lists(one, max_size=2)
        many = st.tuples(one, st.sampled_from([65, 2000, 40_000])).map(
            lambda pair: [pair[0]] * (pair[1] if len(str(pair[0])) < 64 else 65)
        )
        return st.one_of(st.lists(one, max_size=3), many)

    def _map(self, message: Any) -> Any:
        keys = self._value(message.fields_by_name["key"])
        values = self._value(message.fields_by_name["value"])
        few = st.dictionaries(keys, values, max_size=3)
        if self._tidy:
            return few
        is_text = message.fields_by_name["value"].cpp_type == FieldDescriptor.CPPTYPE_STRING
        value = "v" if is_text else 1
        huge = st.integers(65, 3000).map(lambda n: {f"k{i}": value for i in range(n)})
        return st.one_of(few, huge)

    def _value(self, field: FieldDescriptor) -> Any:
        kind = field.cpp_type
        if f"={field.name}" in self._known:
            return st.sampled_from(self._known[f"={field.name}"])
        if kind == FieldDescriptor.CPPTYPE_MESSAGE:
            return st.deferred(lambda: self.message(field.message_type))
        if kind == FieldDescriptor.CPPTYPE_ENUM:
            numbers = [value.number for value in field.enum_type.values]
            return st.sampled_from(numbers if self._tidy else [*numbers, -1, 99, _INT32 - 1])
        if kind == FieldDescriptor.CPPTYPE_BOOL:
            return st.booleans()
        if kind in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
            return st.floats()
        if kind in _SIGNED or kind in _UNSIGNED:
            return self._number(field)
        if field.type == FieldDescriptor.TYPE_BYTES:
            meant = self._known.get(f"{field.name} bytes", ())
            nasty = st.one_of(st.sampled_from(_BYTES), st.binary(max_size=64))
            return st.one_of(st.sampled_from(meant), nasty) if meant else nasty
        return self._text(field.name)

    def _number(self, field: FieldDescriptor) -> st.SearchStrategy[int]:
        meant = [n for n in self._meant(field.name) if isinstance(n, int)]
        if self._tidy:
            return st.sampled_from(meant or _TIDY_NUMBERS)
        if field.cpp_type in _UNSIGNED:
            nasty = st.sampled_from([0, 1, 1 << 20, _UNSIGNED[field.cpp_type] - 1])
        else:
            end = _SIGNED[field.cpp_type]
            common = [0, 1, -1, 1 << 20, 64 << 20, 64 << 20 | 1, end - 1, -end]
            nasty = st.sampled_from([n for n in common if -end <= n < end])
        return st.one_of(st.sampled_from(meant), nasty) if meant else nasty

    def _text(self, name: str) -> st.SearchStrategy[str]:
        meant = [text for text in self._meant(name) if isinstance(text, str)]
        if self._tidy:
            return st.sampled_from(meant or _TIDY_TEXTS)
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
