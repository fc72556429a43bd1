"""A leader is gone where it let us in before and its machine refuses us now; never else."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator

import pytest

from unkai_scheduler.cluster.witness import Witness


@pytest.fixture
async def witness() -> AsyncIterator[Witness]:
    made = Witness()
    yield made
    made.close()


def a_leader() -> tuple[socket.socket, str]:
    listening = socket.create_server(("127.0.0.1", 0))
    return listening, f"127.0.0.1:{listening.getsockname()[1]}"


async def test_a_leader_that_listens_is_there(witness: Witness) -> None:
    listening, address = a_leader()
    with listening:
        assert not await witness.is_gone(1, address)
        assert not await witness.is_gone(1, address)


async def test_a_leader_that_listened_and_listens_no_more_is_gone(witness: Witness) -> None:
    listening, address = a_leader()
    with listening:
        assert not await witness.is_gone(1, address)
    assert await witness.is_gone(1, address)


async def test_an_address_that_never_worked_says_nothing(witness: Witness) -> None:
    listening, address = a_leader()
    listening.close()
    assert not await witness.is_gone(1, address)
    assert not await witness.is_gone(1, address)


async def test_what_an_earlier_lead_let_in_says_nothing_of_the_next(witness: Witness) -> None:
    listening, address = a_leader()
    with listening:
        assert not await witness.is_gone(1, address)
    assert not await witness.is_gone(2, address)


@pytest.mark.parametrize("address", ["nowhere", "127.0.0.1:x", "no-such-name.invalid:7443", ""])
async def test_an_address_that_is_none_says_nothing(witness: Witness, address: str) -> None:
    assert not await witness.is_gone(1, address)


async def test_a_leader_that_is_stopped_is_not_gone(witness: Witness) -> None:
    # As of a process under SIGSTOP: the kernel takes connections, nobody answers.
    listening, address = a_leader()
    with listening:
        for _ in range(3):
            assert not await witness.is_gone(1, address)
