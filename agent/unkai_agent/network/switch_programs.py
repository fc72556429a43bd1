"""Whether the programs that carry and steer a host's packets live: ovs-vswitchd, ovn-controller.

The switch's database answers while they are dead or hang, so each is asked for its version at its
control socket, as `ovs-appctl` does: the file PROGRAM.pid names its process, PROGRAM.PID.ctl beside
it is where its main loop answers. Sources: ovs-appctl(8), Open vSwitch's `lib/unixctl.c` (JSON-RPC
1.0). The trap: a process that is stopped still lets some connect; only an answer counts.
"""

from __future__ import annotations

import asyncio
import json
import socket
from dataclasses import dataclass
from pathlib import Path

from unkai_wire.cluster_records import FORWARDS_NOTHING
from unkai_wire.errors import Unavailable

_ANSWER_S = 5.0
"""Main loops go round many times a second, also under load."""
_ANSWER_BYTES = 65536
_REQUEST = json.dumps({"id": 0, "method": "version", "params": []}).encode()


@dataclass(frozen=True, slots=True)
class Program:
    """One of them."""

    name: str
    folder: Path
    """Where its pid file and its control socket are."""
    task: str
    """What it does, after "the host's switch": what does not happen while it is away."""
    fix: str


def programs_beside(database: str, controller_folder: Path) -> list[Program]:
    """Return the programs of the switch whose database is there, as `unix:/PATH`."""
    folder = Path(database.removeprefix("unix:")).parent
    return [
        Program("ovs-vswitchd", folder, FORWARDS_NOTHING, "systemctl restart openvswitch-switch"),
        Program(
            "ovn-controller",
            controller_folder,
            "learns nothing of OVN",
            "systemctl restart ovn-controller",
        ),
    ]


def control_socket(folder: Path, name: str) -> Path:
    """Return a program's control socket. Raises OSError, ValueError when it tells of none."""
    return _socket_of(folder, name, _process_of(folder, name))


def _process_of(folder: Path, name: str) -> int:
    return int((folder / f"{name}.pid").read_text())


def _socket_of(folder: Path, name: str, process: int) -> Path:
    return folder / f"{name}.{process}.ctl"


async def see_alive(program: Program, within_s: float = _ANSWER_S) -> int:
    """Return the id of the program's process, which has answered.

    Raises `Unavailable` / SWITCH_PROGRAM_DOWN or SWITCH_PROGRAM_HANGS.
    """
    try:
        async with asyncio.timeout(within_s):
            process = _process_of(program.folder, program.name)
            await _ask(_socket_of(program.folder, program.name, process))
            return process
    except (TimeoutError, BlockingIOError) as error:
        said = f"{program.name} has not answered for {within_s:g} s"
        raise Unavailable(
            f"the host's switch {program.task}: {said}",
            reason="SWITCH_PROGRAM_HANGS",
            fix=program.fix,
            metadata={"program": program.name, "problem": said},
            retry_after_s=1.0,
        ) from error
    except (OSError, ValueError) as error:
        raise Unavailable(
            f"the host's switch {program.task}: {program.name} does not run",
            reason="SWITCH_PROGRAM_DOWN",
            fix=program.fix,
            metadata={"program": program.name},
            retry_after_s=1.0,
        ) from error


async def _ask(path: Path) -> None:
    made = socket.socket(socket.AF_UNIX)
    try:
        made.setblocking(False)
        # At once, or never: BlockingIOError when nobody takes them any more.
        made.connect(str(path))
        reader, writer = await asyncio.open_unix_connection(sock=made)
    except BaseException:
        made.close()
        raise
    try:
        writer.write(_REQUEST)
        answer = b""
        while not _is_whole(answer):
            piece = await reader.read(_ANSWER_BYTES)
            answer += piece
            if not piece or len(answer) > _ANSWER_BYTES:
                raise ConnectionError("it ended without an answer")
    finally:
        writer.transport.abort()


def _is_whole(text: bytes) -> bool:
    """Tell whether a JSON object has arrived: nothing says where it ends."""
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
