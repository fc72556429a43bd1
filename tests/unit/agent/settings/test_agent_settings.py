"""The agent's settings: what wins, and what is refused with its place."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from unkai_agent.main import main
from unkai_agent.settings import EtcdSettings, InvalidSettings, Settings, TlsSettings
from unkai_agent.settings_apart import load_settings_apart
from unkai_agent.settings_reader import load_settings


def a_file(folder: Path, text: str) -> Path:
    path = folder / "agent.toml"
    path.write_text(text)
    return path


def test_the_environment_wins_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = a_file(tmp_path, 'listen = "10.0.0.1:1"\n[converge]\nstarts = 2\nresync_s = 7\n')
    monkeypatch.setenv("UNKAI_AGENT_CONVERGE__STARTS", "3")
    settings = load_settings(file)
    assert (settings.listen, settings.converge.starts) == ("10.0.0.1:1", 3)
    assert settings.converge.resync_s == 7


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("listn = 1", "agent.toml: listn: no such setting"),
        ("[converge]\nstart = 1", "agent.toml: converge.start: no such setting"),
        ('listen = "x"', "agent.toml: listen: 'x' is not HOST:PORT"),
        ("[converge]\nstarts = 0", "agent.toml: converge.starts: "),
        ('[network]\nsouthbound = ["ssl:central:6642"]', "agent.toml: network.southbound.0: "),
        ('[network]\nsouthbound = ["udp:10.0.0.1:1"]', "agent.toml: network.southbound.0: "),
        ('[network]\ndatapath = "dpdk"', "agent.toml: network.datapath: "),
        ('[network]\nswitch = "tcp:10.0.0.1:1"', "agent.toml: network.switch: "),
        ('[network]\nencap_address = "h1"', "agent.toml: network.encap_address: "),
        ('[network.bridge_mappings]\nA = "br"', "agent.toml: network.bridge_mappings.A"),
        ('[network.bridge_mappings]\na = "br:int"', "agent.toml: network.bridge_mappings.a: "),
        ("= 1", "agent.toml: is not TOML"),
    ],
)
def test_a_wrong_file_is_refused_with_the_place(tmp_path: Path, text: str, place: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        load_settings(a_file(tmp_path, text))
    assert place in caught.value.problems[0]


def test_a_host_has_networks_where_the_southbound_database_is_named(tmp_path: Path) -> None:
    assert not load_settings(a_file(tmp_path, "")).network.enabled
    text = """[network]
southbound = ["ssl:10.0.0.1:6642", "ssl:[fd00::1]:6642"]
bridge_mappings = {external = "br-ex"}
"""
    network = load_settings(a_file(tmp_path, text)).network
    assert network.enabled
    assert network.bridge_mappings == {"external": "br-ex"}
    assert load_settings_apart(a_file(tmp_path, text)).network == network


def test_a_misspelt_variable_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNKAI_AGENT_LISTN", "x:1")
    result = CliRunner().invoke(
        main, ["run", "--check-config", "--config", str(a_file(tmp_path, ""))]
    )
    assert result.exit_code == 1
    assert "UNKAI_AGENT_LISTN: no such setting" in result.output


def test_a_file_that_was_named_must_be_there(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["--check-config", "--config", str(tmp_path / "none")])
    assert result.exit_code == 1
    assert "there is no such file" in result.output


def test_a_fine_file_is_called_so(tmp_path: Path) -> None:
    names = {"ca": "ca.crt", "certificate": "host.crt", "key": "host.key"}
    text = 'advertise = "10.0.0.1:7444"\n[tls]\n'
    for key, name in names.items():
        (tmp_path / name).touch()
        text += f'{key} = "{tmp_path / name}"\n'
    file = a_file(tmp_path, text)
    for words in ([], ["run"], ["simulate"]):
        result = CliRunner().invoke(main, [*words, "--check-config", "--config", str(file)])
        assert (result.exit_code, result.output) == (0, "the settings are fine\n")


def test_certificates_that_are_not_there_are_named(tmp_path: Path) -> None:
    file = a_file(tmp_path, f'[tls]\nkey = "{tmp_path}/none.key"\n')
    result = CliRunner().invoke(main, ["--check-config", "--config", str(file)])
    assert result.exit_code == 1
    assert f"{tmp_path}/none.key: cannot be read" in result.stderr


def test_lists_and_tables_may_come_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNKAI_AGENT_ETCD__ENDPOINTS", '["10.0.0.1:1", "10.0.0.2:1"]')
    monkeypatch.setenv("UNKAI_AGENT_TLS", '{"ca": "/x/ca.crt"}')
    settings = load_settings(a_file(tmp_path, "[etcd]\ntimeout_s = 3\n"))
    assert settings.etcd == EtcdSettings(("10.0.0.1:1", "10.0.0.2:1"), 3.0)
    assert settings.tls == TlsSettings(ca=Path("/x/ca.crt"))


def test_without_a_word_the_defaults_are_those_written_down(tmp_path: Path) -> None:
    assert load_settings(a_file(tmp_path, "")) == Settings()


def test_a_process_of_their_own_reads_the_same_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNKAI_AGENT_SAMPLER__MEMORY_V1", "/sys/fs/cgroup/memory/x")
    file = a_file(tmp_path, 'traits = ["A"]\n[converge]\nresync_s = 7\n')
    settings = load_settings_apart(file)
    assert settings == load_settings(file) != Settings()
    assert settings.tls.files().ca == settings.tls.ca


def test_a_process_of_their_own_tells_every_problem(tmp_path: Path) -> None:
    file = a_file(tmp_path, "listn = 1\nlisten = 'x'\n[converge]\nstarts = 0\n")
    with pytest.raises(InvalidSettings) as here:
        load_settings(file)
    with pytest.raises(InvalidSettings) as apart:
        load_settings_apart(file)
    assert apart.value.problems == here.value.problems
    assert len(apart.value.problems) == 3


def test_an_agent_that_is_to_stay_has_its_settings_refused_too(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["--config", str(a_file(tmp_path, "listen = 'x'"))])
    assert (result.exit_code, result.stderr) == (
        1,
        f"{tmp_path}/agent.toml: listen: 'x' is not HOST:PORT\n",
    )


def test_a_check_that_cannot_start_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(InvalidSettings, match="ended with 1"):
        load_settings_apart(a_file(tmp_path, ""))
