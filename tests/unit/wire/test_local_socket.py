"""The file of a unix socket: whose it is, and what is said when there can be none."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import grpc
import pytest

from unkai_wire.errors import FailedPrecondition
from unkai_wire.local_socket import LONGEST_BYTES, SocketFile, claim_socket


def a_path_of(folder: Path, length: int) -> Path:
    return folder / ("s" * (length - len(str(folder)) - 1))


async def test_a_path_as_long_as_may_be_is_served_and_a_longer_one_is_said_to_be_too_long(
    tmp_path: Path,
) -> None:
    server = grpc.aio.server()
    longest = a_path_of(tmp_path, LONGEST_BYTES)
    SocketFile(longest).bind(server)
    assert longest.stat().st_mode & 0o777 == 0o600
    with pytest.raises(FailedPrecondition, match="more than 107 bytes") as caught:
        SocketFile(a_path_of(tmp_path, LONGEST_BYTES + 1)).bind(server)
    assert caught.value.reason == "SOCKET_UNUSABLE"
    await server.start()
    await server.stop(0)


async def test_a_folder_that_cannot_be_made_is_named_with_its_cause(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "run" / "a.sock"
    with pytest.raises(FailedPrecondition, match="Not a directory") as caught:
        SocketFile(path).bind(grpc.aio.server())
    assert (caught.value.reason, str(path) in caught.value.message) == ("SOCKET_UNUSABLE", True)


async def test_a_socket_that_somebody_serves_is_left_to_them(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(FailedPrecondition) as caught:
            SocketFile(path).bind(grpc.aio.server())
        assert caught.value.reason == "SOCKET_IN_USE"
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(str(path))
    claim_socket(path)  # nobody serves it any more
    assert not path.exists()


def test_what_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    for name, precious in (("file", tmp_path / "file"), ("link", tmp_path / "link")):
        if name == "file":
            precious.write_text("precious")
        else:
            precious.symlink_to(tmp_path / "nowhere")
        with pytest.raises(FailedPrecondition) as caught:
            claim_socket(precious)
        assert caught.value.reason == "SOCKET_IN_USE"
        assert precious.is_symlink() or precious.read_text() == "precious"


async def test_a_file_with_the_number_of_ours_that_came_after_it_is_not_ours(
    tmp_path: Path,
) -> None:
    server, path = grpc.aio.server(), tmp_path / "a.sock"
    file = SocketFile(path)
    file.bind(server)
    assert file.is_ours()
    later_ns = path.stat().st_mtime_ns + 10_000_000  # more than a tick of any kernel
    os.utime(path, ns=(later_ns, later_ns))  # as a file system makes one that reuses a freed number
    assert not file.is_ours()
    file.remove()
    assert path.exists()
    await server.start()
    await server.stop(0)


class Listener:
    """Listens as a server of the library does: what is at its address is removed first."""

    def __init__(self) -> None:
        self.sockets: list[socket.socket] = []
        self.addresses: list[str] = []

    def add_insecure_port(self, address: str) -> None:
        path = Path(address.removeprefix("unix:"))
        path.unlink(missing_ok=True)
        self.sockets.append(socket.socket(socket.AF_UNIX))
        self.sockets[-1].bind(str(path))
        self.addresses.append(address)


def test_no_two_that_begin_at_the_same_moment_listen_at_one_address(tmp_path: Path) -> None:
    listener = Listener()
    for path in (tmp_path / "a.sock", tmp_path / "a.sock", tmp_path / "b.sock"):
        file = SocketFile(path)
        for _ in range(2):
            file.bind(listener)  # type: ignore[arg-type]
        file.remove()
    for each in listener.sockets:
        each.close()
    assert len(set(listener.addresses)) == 6, "one would remove the other's file"
    assert list(tmp_path.iterdir()) == []
