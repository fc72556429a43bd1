"""A fleet's ids lie side by side, and no server answers in another host's name."""

from __future__ import annotations

import pytest

from unkai_wire.fleets import FLEET_SIZE, fleet_host_id, speaks_for
from unkai_wire.ids import is_id, new_id
from unkai_wire.tls import SCHEDULER_TLS_NAME, fleet_tls_name, host_tls_name


def test_ids_follow_from_name_and_number_and_keep_their_order() -> None:
    numbers = [0, 1, 31, 32, 1000, FLEET_SIZE - 1]
    found = [fleet_host_id("lab", number) for number in numbers]

    assert found == sorted(set(found))
    assert all(is_id("host", ident) for ident in found)
    assert found == [fleet_host_id("lab", number) for number in numbers]
    assert fleet_host_id("other", 1) not in found


@pytest.mark.parametrize("number", [-1, FLEET_SIZE])
def test_a_fleet_ends_somewhere(number: int) -> None:
    with pytest.raises(ValueError, match="no host"):
        fleet_host_id("lab", number)


def test_a_host_and_its_fleet_alone_speak_for_it() -> None:
    ident, member = new_id("host"), fleet_host_id("lab", 7)

    assert speaks_for(host_tls_name(ident), ident)
    assert speaks_for(fleet_tls_name("lab"), member)
    for tls_name, host_id in (
        (host_tls_name(new_id("host")), ident),
        (fleet_tls_name("lab"), ident),
        (fleet_tls_name("other"), member),
        (fleet_tls_name(""), member),
        (SCHEDULER_TLS_NAME, ident),
        ("", ident),
    ):
        assert not speaks_for(tls_name, host_id), tls_name
