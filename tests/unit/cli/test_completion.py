"""Completion: commands, options, live names; never a trace, never a wait."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.shell_completion import get_completion_class

from tests.support.api import an_ssh_key
from tests.support.builders import a_key_pair, a_placement_group, an_aggregate
from tests.support.command_line import unkai
from tests.support.fake_networks import FakeNetworks
from tests.support.served_api import ServedApi
from unkai_cli.main import cli
from unkai_scheduler.store import aggregates, key_pairs, placement_groups


@pytest.fixture(scope="module")
def furnished(tmp_path_factory: pytest.TempPathFactory, pki: Path) -> Iterator[ServedApi]:
    """A cloud with names to offer; completion changes nothing in it."""
    with ServedApi(tmp_path_factory.mktemp("completion") / "cloud", pki=pki) as served:
        key = a_key_pair(name="laptop", public_key=an_ssh_key())
        served.lead(lambda conn: key_pairs.insert(conn, key))
        served.lead(lambda conn: aggregates.insert(conn, an_aggregate(name="fast")))
        group = a_placement_group(name="apart")
        served.lead(lambda conn: placement_groups.insert(conn, group))
        served.do(served.api.create("web"))
        yield served


@pytest.fixture
def cloud(furnished: ServedApi, monkeypatch: pytest.MonkeyPatch) -> ServedApi:
    monkeypatch.setenv("UNKAI_SOCKET", str(furnished.socket))
    return furnished


def offered(line: str) -> list[str]:
    """Return what is offered for the last word of a line."""
    *words, last = line.split(" ")[1:]
    kind = get_completion_class("bash")
    assert kind is not None
    completion = kind(cli, {}, "unkai", "_UNKAI_COMPLETE")
    return [item.value for item in completion.get_completions(words, last)]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_each_shell_calls_the_command_back(shell: str) -> None:
    outcome = unkai("completion", shell)
    assert outcome.code == 0
    assert f"_UNKAI_COMPLETE={shell}_complete" in outcome.out


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("unkai flavor sh", ["show"]),
        ("unkai host show h", ["h1"]),
        ("unkai placement s", ["simulate"]),
        ("unkai placement losses h", ["h1"]),
        ("unkai placement simulate --lose h", ["h1"]),
        ("unkai placement simulate --add 2 --like h", ["h1"]),
        ("unkai placement simulate --place 2 --flavor na", ["nano"]),
        ("unkai project show de", ["default"]),
        ("unkai instance show w", ["web"]),
        ("unkai instance stop web w", ["web"]),
        ("unkai launch image-of-w", ["image-of-web"]),
        ("unkai launch tiny x --flavor na", ["nano"]),
        ("unkai launch tiny x --key la", ["laptop"]),
        ("unkai launch tiny x --group ap", ["apart"]),
        ("unkai instance list --state STOPP", ["stopping", "stopped"]),
        ("unkai instance list --host h", ["h1"]),
        ("unkai launch tiny x --zone d", ["default"]),
        ("unkai host update h1 --zone d", ["default"]),
        ("unkai launch tiny x --aggregate f", ["fast"]),
        ("unkai aggregate show f", ["fast"]),
        ("unkai aggregate remove-host fast h", ["h1"]),
        ("unkai aggregate create x --dedicate d", ["default"]),
        ("unkai instance list --all", ["--all-projects"]),
        ("unkai flavor list -o j", ["json"]),
        ("unkai -p de", ["default"]),
        ("unkai doctor --check host-", ["host-names", "host-records"]),
        ("unkai nothing like th", []),
    ],
)
def test_live_names_are_offered_where_a_name_belongs(
    line: str, found: list[str], cloud: ServedApi
) -> None:
    assert offered(line) == found


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("unkai netw", ["network"]),
        ("unkai security-group rule a", ["add"]),
        ("unkai security-group rule add db in", ["ingress"]),
        ("unkai security-group rule add db ingress tcp 80 f", ["from"]),
        ("unkai security-group rule add db ingress from group ", ["db"]),
        ("unkai network show b", ["back"]),
        ("unkai subnet create x 10.0.0.0/24 --network b", ["back"]),
        ("unkai router add-subnet e", ["edge"]),
        ("unkai router add-subnet edge f", ["four"]),
        ("unkai port create x --network back --security-group d", ["db"]),
        ("unkai port attach front w", ["web"]),
        ("unkai launch tiny x --network b", ["back"]),
        ("unkai launch tiny x --port f", ["front"]),
        ("unkai launch tiny x --security-group d", ["db"]),
        ("unkai launch tiny x --floating-ip w", ["www"]),
        ("unkai launch tiny x --seed m", ["metadata"]),
        ("unkai floating-ip move w", ["www"]),
        ("unkai floating-ip move www ", ["front", "shop", "web"]),
        ("unkai load-balancer show s", ["shop"]),
        ("unkai network why web ", ["front", "shop", "web", "www"]),
    ],
)
def test_live_names_of_networks_are_offered(
    line: str, found: list[str], networks: FakeNetworks
) -> None:
    back = networks.add("network", name="back")
    networks.add("subnet", name="four", network_id=back.id, cidr="10.0.0.0/24")
    networks.add("port", name="front", network_id=back.id)
    for kind, name in (
        ("instance", "web"),
        ("router", "edge"),
        ("floating_ip", "www"),
        ("security_group", "db"),
        ("load_balancer", "shop"),
    ):
        networks.add(kind, name=name)
    assert offered(line) == found


def test_contexts_are_offered_without_any_cloud() -> None:
    unkai("context", "add", "one", "--socket", "/nowhere/one.sock")
    assert offered("unkai context use o") == ["one"]
    assert offered("unkai --context o") == ["one"]


def test_without_a_scheduler_nothing_is_offered_and_nothing_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("UNKAI_SOCKET", "/nowhere/api.sock")
    assert offered("unkai instance show w") == []
