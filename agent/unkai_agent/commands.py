"""`unkai-agent init` and `diagnose`: what an operator does beside the daemon.

`init` writes what a new host needs beside its certificate, and talks to nobody; `diagnose` looks at
the host and changes nothing.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from unkai_agent.settings import DEFAULT_FILE
from unkai_wire.doctor.findings import CHECK_S
from unkai_wire.new_files import hint, write_new
from unkai_wire.setting_values import split_address

_UNIT = "unkai-agent.service"
_NETWORKS = "unkai-agent-networks.conf"
"""What goes beside the unit on hosts with networks."""
_SHIPPED_PROGRAM = "/opt/unkai/bin/unkai-agent"
_SHIPPED_FOLDER = "/etc/unkai/"
_PORT = 7444


@click.command()
@click.option(
    "--etcd",
    "endpoints",
    multiple=True,
    required=True,
    help="HOST:PORT of an etcd member; repeatable.",
)
@click.option("--address", default="", help="This host's IP address; found out by default.")
@click.option(
    "--dir",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("/etc/unkai"),
    show_default=True,
    help="Folder of settings; the certificate lies in its pki/.",
)
def init(endpoints: tuple[str, ...], address: str, folder: Path) -> None:
    """Write the agent's settings and its systemd unit; keep what exists."""
    folder = folder.absolute()
    try:
        for endpoint in endpoints:
            split_address(endpoint)
        folder.joinpath("pki").mkdir(parents=True, exist_ok=True, mode=0o755)
        _write(folder / "agent.toml", _settings(endpoints, address, folder))
        _write(folder / _UNIT, _unit(folder))
        _write(
            folder / _NETWORKS, _shipped(_NETWORKS).replace("THIS-FILE", f"{folder / _NETWORKS}")
        )
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--etcd") from error
    except OSError as error:
        raise click.ClickException(
            f"{error.filename or folder}: {error.strerror or error}\n"
            f"fix: {hint(error, 'run as root, or name a folder of yours (--dir)')}"
        ) from error
    click.echo(_next_steps(folder))


def _write(path: Path, text: str) -> None:
    if path.exists():
        click.echo(f"kept {path}: it exists")
        return
    write_new(path, text.encode())
    click.echo(f"made {path}")


def _settings(endpoints: tuple[str, ...], address: str, folder: Path) -> str:
    host = f"[{address}]" if ":" in address else address
    advertise = f'advertise = "{host}:{_PORT}"' if address else '# advertise = "192.0.2.11:7444"'
    listed = ", ".join(f'"{endpoint}"' for endpoint in endpoints)
    text = _shipped("agent.toml")
    text = text.replace('# advertise = "192.0.2.11:7444"', advertise)
    text = text.replace('endpoints = ["192.0.2.1:2379"]', f"endpoints = [{listed}]")
    if folder != Path(_SHIPPED_FOLDER):
        files = {"ca": "ca.crt", "certificate": "host.crt", "key": "host.key"}
        lines = [f"{key} = '{folder / 'pki' / name}'" for key, name in files.items()]
        text += "\n[tls]\n" + "\n".join(lines) + "\n"
    return text


def _unit(folder: Path) -> str:
    program = Path(sys.executable).with_name("unkai-agent")
    text = _shipped(_UNIT).replace(_SHIPPED_PROGRAM, str(program))
    return text.replace(_SHIPPED_FOLDER, f"{folder}{os.sep}")


def _next_steps(folder: Path) -> str:
    certificate = folder / "pki/host.crt"
    has_one = certificate.exists()
    ask = (
        ""
        if has_one
        else f"""
  on the control machine: unkai-scheduler cert host NAME --address ADDRESS --out NAME
                          unkai-scheduler etcd secure
                          scp NAME/* root@THIS-HOST:{folder}/pki/"""
    )
    return f"""
next, as root:{ask}
  unkai-agent --check-config
  cp {folder}/{_UNIT} /etc/systemd/system/
  systemctl enable --now unkai-agent"""


def _shipped(name: str) -> str:
    """Read a file of the package; in a clone it lies beside it."""
    package = Path(__file__).parent
    inside = package / "systemd" / name
    return (inside if inside.exists() else package.parent / "systemd" / name).read_text()


@click.command()
@click.option("--config", type=click.Path(path_type=Path, dir_okay=False), help="Settings, TOML.")
@click.option("--check", "only", multiple=True, help="Only the check of this name; repeatable.")
@click.option("--list", "list_them", is_flag=True, help="List the checks and end.")
@click.option("-o", "--output", "form", type=click.Choice(["text", "json"]), default="text")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0.1, 300),
    default=CHECK_S,
    show_default=True,
    help="Seconds that the checks may take.",
)
@click.pass_obj
def diagnose(
    outer: Path | None,
    *,
    config: Path | None,
    only: tuple[str, ...],
    list_them: bool,
    form: str,
    timeout_s: float,
) -> None:
    """Look for what is wrong with this host; 'unkai doctor' shows it with all else.

    Exit codes: 0 nothing found; 1 warnings; 2 something does not work.
    """
    from unkai_agent.doctor import networks
    from unkai_agent.doctor.scene import Scene
    from unkai_agent.host_facts import agent_version
    from unkai_agent.settings_reader import load_settings
    from unkai_wire.doctor import command

    checks = networks.CHECKS
    if list_them:
        click.echo(command.listing(checks))
        return
    file = config or outer

    def scene() -> tuple[str, Scene]:
        made = Scene(load_settings(file))
        return made.where, made

    report = command.diagnosis(
        checks,
        scene,
        agent_version(),
        only=only,
        timeout_s=timeout_s,
        file=str(file or DEFAULT_FILE),
    )
    command.finish(report, form)
