"""Contexts: which cloud to talk to, and as whom.

Kept in `~/.config/unkai/config.toml` (`XDG_CONFIG_HOME` is honoured). The environment wins:
`UNKAI_SOCKET`, or `UNKAI_ADDRESS` with `UNKAI_CA`, `UNKAI_CERTIFICATE` and `UNKAI_KEY`;
`UNKAI_CONTEXT` picks a context, `UNKAI_PROJECT` a project. With nothing set up, the scheduler's
unix socket on this machine is used.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from unkai_wire.errors import FailedPrecondition, InvalidArgument, NotFound

DEFAULT_SOCKET = "/run/unkai/scheduler.sock"
DEFAULT_AGENT_SOCKET = "/run/unkai/agent.sock"
DEFAULT_PROJECT = "default"
_HAS_PORT = re.compile(r":\d{1,5}$", re.ASCII)
_KEYS = ("socket", "address", "ca", "certificate", "key", "project")


@dataclass(frozen=True, slots=True)
class Context:
    """One cloud: a unix socket, or an address with a client certificate.

    Of a cloud with several schedulers all may be named, separated by commas: any of them answers.
    """

    name: str
    socket: str = ""
    address: str = ""
    ca: str = ""
    certificate: str = ""
    key: str = ""
    project: str = ""
    """Name or id of the project that commands work in; empty: `default`."""

    def check(self) -> Context:
        """Return the context when it says one way to connect, else raise `InvalidArgument`."""
        if not self.name:
            raise InvalidArgument("a context has a name", reason="INVALID_CONTEXT")
        if bool(self.socket) == bool(self.address):
            raise InvalidArgument(
                f"context {self.name} must name a socket or an address, and not both",
                reason="INVALID_CONTEXT",
                fix="unkai context add NAME --address IP:PORT --ca F --certificate F --key F",
                metadata={"context": self.name},
            )
        if not all(_HAS_PORT.search(each) for each in _split(self.address)):
            raise InvalidArgument(
                f"the address of context {self.name}, {self.address}, is not IP:PORT",
                reason="INVALID_CONTEXT",
                fix="give the scheduler's address with its port, such as 192.0.2.1:7443",
                metadata={"context": self.name, "address": self.address},
            )
        if self.address and not (self.ca and self.certificate and self.key):
            raise InvalidArgument(
                f"context {self.name} has an address but not all of ca, certificate and key",
                reason="INVALID_CONTEXT",
                fix="make a certificate with 'unkai-scheduler cert client NAME'",
                metadata={"context": self.name},
            )
        return self

    def schedulers(self) -> list[Context]:
        """Return a context for each of the schedulers that are named."""
        sockets = [replace(self, socket=each) for each in _split(self.socket)]
        return sockets or [replace(self, address=each) for each in _split(self.address)] or [self]


def _split(text: str) -> list[str]:
    return [part for each in text.split(",") if (part := each.strip())]


@dataclass(frozen=True, slots=True)
class Config:
    """All contexts, and which one is in use."""

    current: str = ""
    contexts: Mapping[str, Context] = field(default_factory=dict)


def config_path() -> Path:
    """Return where the contexts are kept."""
    root = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(root) / "unkai" / "config.toml"


def state_path() -> Path:
    """Return the folder of what is remembered between runs (`XDG_STATE_HOME` is honoured)."""
    root = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(root) / "unkai"


def load() -> Config:
    """Read the contexts; a missing file has none. Raise `FailedPrecondition` for a broken one."""
    import tomllib

    path = config_path()
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        entries = values.get("contexts", {})
        if not isinstance(entries, dict):
            raise ValueError("contexts is no table")  # noqa: TRY004 - as any unreadable file
    except FileNotFoundError:
        return Config()
    except (OSError, ValueError) as error:
        raise FailedPrecondition(
            f"{path} cannot be read: {error}",
            reason="CONFIG_UNREADABLE",
            fix="mend or remove the file",
            metadata={"path": str(path)},
        ) from error
    contexts = {
        str(name): Context(str(name), **{k: str(v) for k, v in entry.items() if k in _KEYS})
        for name, entry in entries.items()
        if isinstance(entry, dict)
    }
    return Config(str(values.get("current", "")), contexts)


def save(config: Config) -> None:
    """Write the contexts, readable by their owner only, whole or not at all."""
    lines = [f"current = {_quote(config.current)}", ""]
    for name, context in sorted(config.contexts.items()):
        lines.append(f"[contexts.{_quote(name)}]")
        lines += [f"{k} = {_quote(v)}" for k in _KEYS if (v := getattr(context, k))]
        lines.append("")
    content = "\n".join(lines).encode()
    path = config_path()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = path.with_suffix(".part")
    part.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
        part.replace(path)
    except OSError:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def _quote(text: str) -> str:
    # JSON's strings are TOML's, but that TOML wants DEL escaped too (TOML 1.0, "String").
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def chosen(config: Config, name: str = "") -> Context:
    """Return the context to use: the one named, the environment's, the current, the local one.

    Raise `NotFound` for a name that no context has.
    """
    env = os.environ
    name = name or env.get("UNKAI_CONTEXT", "")
    if name:
        if name not in config.contexts:
            raise NotFound.of("context", name)
        context = config.contexts[name]
    elif env.get("UNKAI_SOCKET") or env.get("UNKAI_ADDRESS"):
        context = Context(
            "environment",
            socket=env.get("UNKAI_SOCKET", ""),
            address=env.get("UNKAI_ADDRESS", ""),
            ca=env.get("UNKAI_CA", ""),
            certificate=env.get("UNKAI_CERTIFICATE", ""),
            key=env.get("UNKAI_KEY", ""),
        )
    elif config.current:
        if config.current not in config.contexts:
            raise NotFound.of("context", config.current)
        context = config.contexts[config.current]
    else:
        context = Context("local", socket=DEFAULT_SOCKET)
    if env.get("UNKAI_PROJECT"):
        context = replace(context, project=env["UNKAI_PROJECT"])
    return context.check()


def agent_socket() -> str:
    """Return the agent's unix socket on this host."""
    return os.environ.get("UNKAI_AGENT_SOCKET") or DEFAULT_AGENT_SOCKET
