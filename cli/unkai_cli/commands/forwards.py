"""`unkai forward` and `unkai ssh`: TCP to an instance, from here, without an address of its own."""

from __future__ import annotations

import os
import select
import shlex
import socket
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from unkai_cli.commands.options import common, named
from unkai_cli.output import note
from unkai_cli.settings import state_path
from unkai_cli.tunnels import PIECE_BYTES, Tunnel
from unkai_wire.errors import FailedPrecondition, UnkaiError

if TYPE_CHECKING:
    from unkai_cli.session import Session

SSH_PORT = 22
USER_LABEL = "ssh-user"
"""Label of an image that says who its guests let in."""
DEFAULT_USER = "root"
CONNECT_S = 3.0
"""How long a floating address may take to answer before the other way is taken."""
CONNECTIONS = 32
"""Forwarded at once by one command."""


def _ports(text: str) -> tuple[int, int]:
    """Read `LOCAL:PORT` or `PORT`; a local port of 0 is any free one."""
    local, colon, remote = text.rpartition(":")
    try:
        ports = int(local) if colon else int(remote), int(remote)
    except ValueError:
        ports = (-1, -1)
    if not (0 <= ports[0] <= 65535 and 1 <= ports[1] <= 65535):
        raise click.BadParameter(f"{text!r} is not LOCALPORT:PORT or PORT; write 8080:80")
    return ports


@click.command("forward")
@named("instance")
@click.argument("ports", metavar="[LOCALPORT:]PORT...", nargs=-1, required=True)
@click.option("--address", default="127.0.0.1", show_default=True, help="Listen on this address.")
@click.option("--stdio", is_flag=True, help="Join input and output to PORT, as ssh -W does.")
@common
def forward(
    session: Session, instance: str, ports: tuple[str, ...], *, address: str, stdio: bool
) -> None:
    """Forward local TCP ports to ports of an instance, until Ctrl-C.

    The instance's host connects from inside the instance's network, from 169.254.169.254: a
    security group must let that in.

    \b
    unkai forward web 8080:80
    unkai forward --stdio web 22
    """
    pairs = [_ports(text) for text in ports]
    ident = session.client.resolve("instance", instance)
    if stdio:
        if len(pairs) != 1:
            raise click.UsageError("--stdio takes one port")
        _by_stdio(session, ident, pairs[0][1])
        return
    with _listening(address, pairs) as listeners:
        for listener, (_, number) in zip(listeners, pairs, strict=True):
            note(f"{_text(listener)} is port {number} of {instance}; Ctrl-C ends it")
        with suppress(KeyboardInterrupt):
            _serve(session, ident, dict(zip(listeners, (n for _, n in pairs), strict=True)))


def _by_stdio(session: Session, ident: str, number: int) -> None:
    tunnel = Tunnel(session.client, ident, number)
    tunnel.open()
    source, sink = sys.stdin.fileno(), sys.stdout.fileno()

    def take() -> bytes:
        while not tunnel.is_over:
            if select.select([source], [], [], 0.25)[0]:
                return os.read(source, PIECE_BYTES)
        return b""

    def give(piece: bytes) -> None:
        while piece:
            piece = piece[os.write(sink, piece) :]

    def end() -> None:
        # Told by closing our output, while input goes on.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sink)

    tunnel.carry(take, give, end)


class _listening:  # noqa: N801 - read as a word: with _listening(…)
    """Listening sockets, all of them or none."""

    def __init__(self, address: str, pairs: Sequence[tuple[int, int]]) -> None:
        self._address = address
        self._pairs = pairs
        self._made: list[socket.socket] = []

    def __enter__(self) -> list[socket.socket]:
        for local, _ in self._pairs:
            try:
                made = socket.create_server(
                    (self._address, local),
                    family=socket.AF_INET6 if ":" in self._address else socket.AF_INET,
                )
            except OSError as error:
                self.__exit__()
                raise FailedPrecondition(
                    f"cannot listen on {self._address} port {local}: {error.strerror}",
                    reason="CANNOT_LISTEN",
                    fix="name another local port, or 0 for any that is free",
                    metadata={"address": self._address, "port": str(local)},
                ) from error
            self._made.append(made)
        return self._made

    def __exit__(self, *_: object) -> None:
        for made in self._made:
            made.close()


def _text(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _serve(session: Session, ident: str, numbers: dict[socket.socket, int]) -> None:
    room = threading.BoundedSemaphore(CONNECTIONS)

    def one(accepted: socket.socket, number: int) -> None:
        try:
            _join(session, ident, number, accepted)
        except UnkaiError as error:
            note(f"port {number}: {error.message}" + (f"; {error.fix}" if error.fix else ""))
        finally:
            accepted.close()
            room.release()

    client = session.client  # made here: its making is not for several threads at once
    assert client is not None
    while True:
        for listener in select.select(list(numbers), [], [])[0]:
            accepted, _ = listener.accept()
            room.acquire()
            threading.Thread(target=one, args=(accepted, numbers[listener]), daemon=True).start()


def _join(session: Session, ident: str, number: int, accepted: socket.socket) -> None:
    tunnel = Tunnel(session.client, ident, number)
    tunnel.open()

    def take() -> bytes:
        try:
            return accepted.recv(PIECE_BYTES)
        except OSError:
            tunnel.close()  # the caller here is gone: so is the connection
            return b""

    def give(piece: bytes) -> None:
        try:
            accepted.sendall(piece)
        except OSError:
            tunnel.close()

    def end() -> None:
        with suppress(OSError):
            accepted.shutdown(socket.SHUT_WR)

    try:
        tunnel.carry(take, give, end)
    finally:
        with suppress(OSError):
            accepted.shutdown(socket.SHUT_RDWR)  # who waits in `take` goes on


@click.command("ssh")
@named("instance")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.option("-l", "--login", default="", help="User; else the image's label 'ssh-user', or root.")
@click.option(
    "-i",
    "--identity",
    type=click.Path(exists=True, dir_okay=False),
    help="Private key; else ssh's own.",
)
@click.option("--port", type=click.IntRange(1, 65535), default=SSH_PORT, help="Port of the guest.")
@click.option(
    "--via",
    type=click.Choice(["auto", "floating", "forward"]),
    default="auto",
    show_default=True,
    help="By its floating address, or by its host.",
)
@common
def ssh(
    session: Session,
    instance: str,
    command: tuple[str, ...],
    *,
    login: str,
    identity: str | None,
    port: int,
    via: str,
) -> None:
    """Run the system's ssh on an instance; a command stands after '--'.

    It goes to the instance's floating address if that answers from here, else by its host from
    inside its network, as 'unkai forward' does.

    \b
    unkai ssh web
    unkai ssh web -- uname -a
    """
    from unkai_cli.commands.resources import read

    ident = session.client.resolve("instance", instance)
    address = "" if via == "forward" else _floating(session, ident)
    if via == "floating" and not address:
        raise FailedPrecondition(
            f"instance {instance} has no floating address",
            reason="NO_FLOATING_IP",
            fix=f"unkai floating-ip create --to {instance}, or leave --via out",
            metadata={"instance_id": ident},
        )
    if via == "auto" and address and not _answers(address, port):
        note(f"{address} does not answer from here; going by the instance's host")
        address = ""
    user = login or _user(session, read(session, "instance", ident))
    words = ssh_words(
        ident,
        user=user,
        identity=identity or "",
        address=address,
        port=port,
        proxy="" if address else _proxy(session, ident, port),
    )
    session.close()
    os.execvp(words[0], [*words, *command])  # noqa: S606 - the user's own ssh


def ssh_words(
    ident: str, *, user: str, identity: str, address: str, port: int, proxy: str
) -> list[str]:
    """Return the command line of ssh. Host keys are kept by the instance's id. Pure but a folder.

    Ids are never used again, so a key that changes is told by ssh as what it may be: an attack.
    """
    known = state_path() / "known_hosts" / ident
    known.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    options = [
        f"HostKeyAlias={ident}",
        f'UserKnownHostsFile="{known}"',
        "GlobalKnownHostsFile=none",
        "StrictHostKeyChecking=accept-new",
        "CheckHostIP=no",
    ]
    if proxy:
        options.append(f"ProxyCommand={proxy}")
    words = ["ssh", *(word for option in options for word in ("-o", option))]
    words += ["-i", identity, "-o", "IdentitiesOnly=yes"] if identity else []
    return [*words, "-p", str(port), "-l", user, "--", address or ident]


def _proxy(session: Session, ident: str, port: int) -> str:
    """Return what ssh runs to reach the instance; its own %-words are not meant."""
    words = [sys.executable, "-m", "unkai_cli"]
    words += ["--context", session.context_name] if session.context_name else []
    words += ["forward", "--stdio", ident, str(port)]
    return shlex.join(words).replace("%", "%%")


def _floating(session: Session, ident: str) -> str:
    for some in session.client.pages("FloatingIpService", "ListFloatingIps", instance_id=ident):
        return str(some.address)
    return ""


def _answers(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=CONNECT_S).close()
    except OSError:
        return False
    return True


def _user(session: Session, instance: Any) -> str:
    from unkai_cli.commands.resources import read

    try:
        image = read(session, "image", instance.image_id)
    except UnkaiError:
        return DEFAULT_USER  # images may go before their instances
    return str(image.labels.get(USER_LABEL, DEFAULT_USER))
