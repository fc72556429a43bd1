"""The rendered settings are what the daemons accept, and nothing listens without TLS."""

from __future__ import annotations

import tomllib
from pathlib import Path

from unkai_agent.settings import Settings as AgentSettings
from unkai_lab import configuration
from unkai_lab.cgroups import CellGroups
from unkai_lab.spec import LabPaths, LabSpec
from unkai_scheduler.settings import Settings as SchedulerSettings

SPEC = LabSpec(name="x", hosts=2, simulated=40)
PATHS = LabPaths(Path("/labs/x"))
GROUPS = CellGroups(
    Path("/cg/unified/x/h1"), (("memory", Path("/cg/memory/x/h1")), ("cpu", Path("/cg/cpu/x/h1")))
)


def test_the_scheduler_accepts_its_settings() -> None:
    text = configuration.toml_text(configuration.scheduler_settings(SPEC, PATHS))
    settings = SchedulerSettings(**tomllib.loads(text))
    assert settings.advertise_address == f"{SPEC.address('control')}:7443"
    assert settings.etcd.endpoints == (f"{SPEC.address('control')}:2379",)
    assert settings.socket == PATHS.scheduler_socket


def test_an_agent_accepts_its_settings_and_samples_its_own_cgroups() -> None:
    text = configuration.toml_text(configuration.agent_settings(SPEC, PATHS, "h1", GROUPS))
    settings = AgentSettings(**tomllib.loads(text))
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


def test_the_fleet_accepts_its_settings() -> None:
    text = configuration.toml_text(configuration.fleet_settings(SPEC, PATHS))
    settings = AgentSettings(**tomllib.loads(text))
    assert settings.fleet.hosts == 40
    assert settings.traits == (configuration.SIMULATED_TRAIT,)


def test_etcd_listens_with_tls_only_and_demands_certificates() -> None:
    options = dict(
        option.removeprefix("--").split("=", 1)
        for option in configuration.etcd_command(SPEC, PATHS)[1:]
    )
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
