"""Ids are typed, sortable by time, and carry their UUID both ways."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unkai_wire import ids
from unkai_wire.errors import InvalidArgument


@given(st.uuids())
def test_an_id_gives_its_uuid_back(value: uuid.UUID) -> None:
    ident = ids.encode("ins", value)
    assert len(ident) == 30
    assert ids.uuid_of(ident) == value
    assert ids.is_id("instance", ident)
    assert not ids.is_id("host", ident)


@given(st.integers(0, 2**48 - 2), st.integers(0, 2**74 - 1), st.integers(0, 2**74 - 1))
def test_ids_sort_by_time(ms: int, low: int, high: int) -> None:
    first = ids.encode("ins", ids.uuid7(ms, low))
    second = ids.encode("ins", ids.uuid7(ms + 1, high))
    assert first < second


def test_ids_by_a_clock_sort_by_its_time_whatever_this_machine_s_is() -> None:
    moment = datetime(2020, 1, 1, tzinfo=UTC)
    early = ids.ids_by(lambda: moment)("operation")
    late = ids.ids_by(lambda: moment + timedelta(seconds=1))("operation")
    assert early < late < ids.new_id("operation")
    assert ids.uuid_of(early).int >> 80 == moment.timestamp() * 1000


@given(st.integers(0, 2**48 - 1), st.integers(0, 2**74 - 1))
def test_a_uuid7_bears_version_and_variant(ms: int, rand: int) -> None:
    value = ids.uuid7(ms, rand)
    assert value.version == 7
    assert value.variant == uuid.RFC_4122
    assert value.int >> 80 == ms


@pytest.mark.parametrize(
    "text", ["", "ins-", "ins-" + "z" * 26, "ins-" + "0" * 25, "ins-" + "0" * 27, "ins-" + "I" * 26]
)
def test_what_is_no_id_is_refused(text: str) -> None:
    assert not ids.is_id("instance", text)
    with pytest.raises(InvalidArgument):
        ids.uuid_of(text)


@given(st.text(max_size=40))
def test_check_id_takes_ids_and_nothing_else(text: str) -> None:
    if ids.is_id("image", text):
        assert ids.check_id("image", text, "image_id") == text
    else:
        with pytest.raises(InvalidArgument) as caught:
            ids.check_id("image", text, "image_id")
        assert caught.value.violations[0][0] == "image_id"


def test_no_two_kinds_share_a_prefix() -> None:
    assert len(set(ids.PREFIXES.values())) == len(ids.PREFIXES)
    assert all(len(prefix) == 3 for prefix in ids.PREFIXES.values())
