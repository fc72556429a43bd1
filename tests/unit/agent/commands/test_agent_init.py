"""`unkai-agent init`: what it writes is what the agent takes."""

from __future__ import annotations

import sys
from pathlib import Path

from click.testing import CliRunner

from unkai_agent.main import main
from unkai_agent.settings_reader import load_settings


def _init(folder: Path, *more: str) -> str:
    arguments = ["init", "--etcd", "192.0.2.1:2379", "--dir", str(folder), *more]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    return result.output


def test_the_settings_written_say_where_etcd_and_this_host_are(tmp_path: Path) -> None:
    _init(tmp_path, "--etcd", "192.0.2.2:2379", "--address", "192.0.2.11")
    settings = load_settings(tmp_path / "agent.toml")
    assert settings.etcd.endpoints == ("192.0.2.1:2379", "192.0.2.2:2379")
    assert settings.advertise == "192.0.2.11:7444"
    assert settings.tls.key == tmp_path / "pki/host.key"


def test_the_unit_written_runs_this_installation_with_these_settings(tmp_path: Path) -> None:
    _init(tmp_path)
    unit = (tmp_path / "unkai-agent.service").read_text()
    program = Path(sys.executable).with_name("unkai-agent")
    assert f"ExecStart={program} run --config {tmp_path}/agent.toml\n" in unit


def test_what_goes_beside_the_unit_for_networks_is_written_too(tmp_path: Path) -> None:
    _init(tmp_path)
    text = (tmp_path / "unkai-agent-networks.conf").read_text()
    assert f"cp {tmp_path}/unkai-agent-networks.conf /etc/systemd" in text


def test_what_exists_is_kept(tmp_path: Path) -> None:
    _init(tmp_path)
    (tmp_path / "agent.toml").write_text("# mine\n")
    assert "kept" in _init(tmp_path)
    assert (tmp_path / "agent.toml").read_text() == "# mine\n"


def test_the_certificate_is_asked_for_only_while_it_is_missing(tmp_path: Path) -> None:
    assert "cert host" in _init(tmp_path)
    (tmp_path / "pki/host.crt").write_text("")
    assert "cert host" not in _init(tmp_path)


def test_an_address_without_port_is_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["init", "--etcd", "192.0.2.1", "--dir", str(tmp_path)])
    assert result.exit_code == 2
    assert "HOST:PORT" in result.output
