"""A program of the switch lives when it answers, and not when somebody could connect."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.fake_control_socket import FakeProgram
from tests.support.real_agent import until
from unkai_agent.network.switch_programs import Program, programs_beside, see_alive
from unkai_wire.errors import Unavailable

NAME = "ovs-vswitchd"
HANG_S = 0.2


def program(folder: Path) -> Program:
    return Program(NAME, folder, "forwards nothing", "systemctl restart openvswitch-switch")


async def reason(folder: Path) -> str:
    """Return why a program is not alive."""
    with pytest.raises(Unavailable, match=NAME) as caught:
        await see_alive(program(folder), HANG_S)
    assert caught.value.fix
    return caught.value.reason


async def test_it_is_alive_while_it_answers_and_again_afterwards(tmp_path: Path) -> None:
    fake = FakeProgram(tmp_path, NAME)
    assert await see_alive(program(tmp_path)) == os.getpid()
    fake.die()
    assert await reason(tmp_path) == "SWITCH_PROGRAM_DOWN"
    fake.run()
    await see_alive(program(tmp_path))


async def test_one_that_hangs_is_told_so_however_often_it_was_asked(tmp_path: Path) -> None:
    fake = FakeProgram(tmp_path, NAME)
    fake.hang()
    found = {await reason(tmp_path) for _ in range(6)}  # its socket takes three
    assert found == {"SWITCH_PROGRAM_HANGS"}
    fake.wake()

    async def is_alive() -> bool:  # once it has taken those who asked in vain
        try:
            await see_alive(program(tmp_path))
        except Unavailable:
            return False
        return True

    await until(is_alive)


@pytest.mark.parametrize("content", [None, "", "many", "4194304"])
async def test_without_a_process_it_does_not_run(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / f"{NAME}.pid").write_text(content)
    assert await reason(tmp_path) == "SWITCH_PROGRAM_DOWN"


def test_they_are_looked_for_where_the_switch_is() -> None:
    programs = programs_beside("unix:/srv/ovs/db.sock", Path("/srv/ovn"))
    found = {each.name: each.folder for each in programs}
    assert found == {"ovs-vswitchd": Path("/srv/ovs"), "ovn-controller": Path("/srv/ovn")}
