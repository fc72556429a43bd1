"""The rendered settings are what the daemons accept, and nothing listens without TLS."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from unkai_agent.settings import Settings as AgentSettings
from unkai_agent.settings_reader import load_settings as load_agent_settings
from unkai_lab import configuration, database
from unkai_lab.cgroups import CellGroups
from unkai_lab.spec import LabPaths, LabSpec
from unkai_scheduler.settings import Settings as SchedulerSettings

SPEC = LabSpec(name="x", hosts=2, simulated=40)
NETWORKED = LabSpec(name="x", hosts=3, networks=True)
PATHS = LabPaths(Path("/labs/x"))
GROUPS = CellGroups(
    Path("/cg/unified/x/h1"), (("memory", Path("/cg/memory/x/h1")), ("cpu", Path("/cg/cpu/x/h1")))
)


def test_the_scheduler_accepts_its_settings() -> None:
    text = configuration.toml_text(configuration.scheduler_settings(SPEC, PATHS, "scheduler"))
    settings = SchedulerSettings(**tomllib.loads(text))
    assert settings.advertise_address == f"{SPEC.address('control')}:7443"
    assert settings.etcd.endpoints == (f"{SPEC.address('control')}:2379",)
    assert settings.socket == PATHS.scheduler_socket


def test_the_scheduler_of_a_lab_with_networks_knows_ovn_and_the_operators_network() -> None:
    wanted = configuration.scheduler_settings(NETWORKED, PATHS, "scheduler")
    network = SchedulerSettings(**tomllib.loads(configuration.toml_text(wanted))).network
    assert network.northbound == (f"ssl:{SPEC.address('control')}:6641",)
    assert network.southbound == (f"ssl:{SPEC.address('control')}:6642",)
    assert network.tls.certificate != PATHS.pki / "scheduler.crt", "a CA of its own"
    assert network.physical_networks == {"external": 1500}


def test_agents_of_a_lab_with_networks_join_ovn_and_two_of_them_lead_out(tmp_path: Path) -> None:
    found = {}
    for host in NETWORKED.host_names:
        settings = configuration.agent_settings(NETWORKED, PATHS, host, GROUPS)
        found[host] = _read_by_an_agent(tmp_path, settings).network
    assert all(each.enabled for each in found.values())
    assert len({each.encap_address for each in found.values()}) == 3
    leads_out = [host for host, each in found.items() if each.bridge_mappings]
    assert leads_out == ["h1", "h2"] == list(NETWORKED.gateway_hosts)


def _read_by_an_agent(folder: Path, settings: dict[str, Any]) -> AgentSettings:
    file = folder / "agent.toml"
    file.write_text(configuration.toml_text(settings))
    return load_agent_settings(file)


def test_an_agent_accepts_its_settings_and_samples_its_own_cgroups(tmp_path: Path) -> None:
    wanted = configuration.agent_settings(SPEC, PATHS, "h1", GROUPS)
    settings = _read_by_an_agent(tmp_path, wanted)
    assert settings.sampler.cgroup2 == Path("/cg/unified/x/h1")
    assert settings.sampler.memory_v1 == Path("/cg/memory/x/h1")
    assert settings.sampler.cpu_v1 == Path("/cg/cpu/x/h1")
    assert settings.sampler.blkio_v1 is None
    assert settings.boot_id_file == Path("/labs/x/h1/boot-id")
    assert settings.capacity.memory_bytes == SPEC.host_memory_bytes


def test_two_agents_share_neither_address_nor_state() -> None:
    one, two = (configuration.agent_settings(SPEC, PATHS, host, GROUPS) for host in ("h1", "h2"))
    for key in ("listen", "advertise", "metrics_listen", "state_dir", "boot_id_file", "tls"):
        assert one[key] != two[key], key


def test_the_fleet_accepts_its_settings(tmp_path: Path) -> None:
    settings = _read_by_an_agent(tmp_path, configuration.fleet_settings(SPEC, PATHS))
    assert settings.fleet.hosts == 40
    assert settings.traits == (configuration.SIMULATED_TRAIT,)


def _options(spec: LabSpec, member: str) -> dict[str, str]:
    """Read the options on the command line of one of etcd's members."""
    command = configuration.etcd_command(spec, PATHS, member)
    return dict(option.removeprefix("--").split("=", 1) for option in command[1:])


def test_every_party_knows_all_members_of_etcd() -> None:
    spec = LabSpec(name="x", hosts=1, simulated=1, etcd_members=3)
    address = spec.address("control")
    members = [f"{address}:{port}" for port in (2379, 2389, 2399)]
    scheduler = configuration.scheduler_settings(spec, PATHS, "scheduler")
    assert scheduler["etcd"]["endpoints"] == members
    agent = configuration.agent_settings(spec, PATHS, "h1", GROUPS)
    assert agent["etcd"]["endpoints"] == members
    assert configuration.fleet_settings(spec, PATHS)["etcd"]["endpoints"] == members


def test_members_of_etcd_agree_on_the_cluster_and_share_nothing_else() -> None:
    spec = LabSpec(name="x", etcd_members=3)
    members = [_options(spec, name) for name in spec.etcd_names]
    assert len({member["initial-cluster"] for member in members}) == 1
    for option in ("name", "data-dir", "listen-client-urls", "listen-peer-urls", "key-file"):
        assert len({member[option] for member in members}) == 3, option
    for member in members:
        peer = f"{member['name']}={member['initial-advertise-peer-urls']}"
        assert peer in member["initial-cluster"].split(",")


def test_schedulers_share_database_and_images_and_nothing_else() -> None:
    spec = LabSpec(name="x", schedulers=2, database="mariadb")
    one, two = (configuration.scheduler_settings(spec, PATHS, name) for name in ("s1", "s2"))
    assert one["images"] == two["images"]
    assert one["database"]["url"] == two["database"]["url"]
    for key in ("name", "listen", "advertise", "socket", "metrics_listen", "tls"):
        assert one[key] != two[key], key


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_a_database_server_is_no_root_and_ends_idle_transactions(kind: str) -> None:
    server = database.server_of(LabSpec(name="x", database=kind), PATHS)
    assert server is not None
    for command in (*server.making(), server.command()):
        assert command[:4] == ["setpriv", "--reuid", server.user, "--regid"], command
    words = " ".join(server.command()).replace("_", "-")
    assert "idle-in-transaction-session-timeout=3s" in words or (
        "idle-transaction-timeout=3" in words
    )


def test_etcd_listens_with_tls_only_and_demands_certificates() -> None:
    options = _options(SPEC, "etcd")
    listening = {k: v for k, v in options.items() if k.startswith("listen-")}
    assert set(listening) == {"listen-client-urls", "listen-peer-urls"}
    assert all(url.startswith(f"https://{SPEC.address('control')}:") for url in listening.values())
    assert options["client-cert-auth"] == options["peer-client-cert-auth"] == "true"


def test_qemu_is_told_to_drop_root_and_filter_system_calls() -> None:
    active = dict(
        line.split(" = ")
        for line in configuration.QEMU_CONF.splitlines()
        if not line.startswith("#")
    )
    assert active["user"] == active["group"] == '"libvirt-qemu"'
    assert active["seccomp_sandbox"] == "1"
    assert active["dynamic_ownership"] == active["remember_owner"] == "0"
    assert active["cgroup_controllers"] == active["namespaces"] == "[]"


def test_libvirt_is_given_the_hosts_uuid_and_no_tcp() -> None:
    text = configuration.libvirtd_conf("6d1f0a52-0000-4000-8000-000000000001")
    assert 'host_uuid = "6d1f0a52-0000-4000-8000-000000000001"' in text
    assert "listen" not in text


def test_toml_puts_a_tables_own_keys_before_its_subtables() -> None:
    settings = {"a": {"x": 1, "b": {"y": [True, "q\"'"]}, "z": 2.5}, "first": "ü"}
    assert tomllib.loads(configuration.toml_text(settings)) == settings
