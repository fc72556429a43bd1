"""Contexts: kept in one private file, chosen by option, environment, file, default."""

from __future__ import annotations

import stat

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.command_line import unkai
from unkai_cli import settings as contexts
from unkai_cli.settings import DEFAULT_SOCKET, Config, Context, chosen
from unkai_wire.errors import FailedPrecondition, InvalidArgument, NotFound

_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


def test_a_context_that_was_added_is_in_use_and_can_be_changed_and_removed() -> None:
    assert unkai("context", "add", "one", "--socket", "/run/one.sock").code == 0
    assert unkai("context", "add", "two", "--socket", "/run/two.sock", "--project", "lab").code == 0
    assert chosen(contexts.load()) == Context("two", socket="/run/two.sock", project="lab")
    assert unkai("context", "use", "one").code == 0
    assert chosen(contexts.load()).socket == "/run/one.sock"
    assert unkai("--context", "two", "context", "show", "-o", "value=name").out == "two\n"
    assert unkai("context", "remove", "one").code == 0
    assert unkai("context", "list", "-o", "name").out == "two\n"
    assert chosen(contexts.load()).socket == DEFAULT_SOCKET


@pytest.mark.parametrize("act", ["use", "remove"])
def test_a_context_that_does_not_exist_is_not_found(act: str) -> None:
    outcome = unkai("context", act, "nothing")
    assert outcome.code == 3
    assert "'unkai context list'" in outcome.err


def test_a_context_of_several_schedulers_names_each() -> None:
    context = Context(
        "three", address="10.0.0.1:7443, 10.0.0.2:7443", ca="a", certificate="b", key="c"
    )
    assert [each.address for each in context.check().schedulers()] == [
        "10.0.0.1:7443",
        "10.0.0.2:7443",
    ]
    with pytest.raises(InvalidArgument, match="is not IP:PORT"):
        Context("x", address="10.0.0.1:7443,10.0.0.2", ca="a", certificate="b", key="c").check()


def test_the_file_is_its_owners_alone() -> None:
    unkai("context", "add", "one", "--socket", "/run/one.sock")
    assert stat.S_IMODE(contexts.config_path().stat().st_mode) == 0o600


def test_relative_paths_are_kept_absolute(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    unkai(
        "context",
        "add",
        "one",
        "--address",
        "10.0.0.1:7443",
        "--ca",
        "ca.crt",
        "--certificate",
        "me.crt",
        "--key",
        "me.key",
    )
    made = contexts.load().contexts["one"]
    assert (made.ca, made.address) == (f"{tmp_path}/ca.crt", "10.0.0.1:7443")


@settings(
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(
    st.dictionaries(
        _names,
        st.builds(Context, st.just(""), _texts, _texts, _texts, _texts, _texts, _texts),
        max_size=3,
    ),
    _texts,
)
def test_what_is_saved_is_loaded_again(made: dict[str, Context], current: str) -> None:
    from dataclasses import replace

    config = Config(current, {name: replace(entry, name=name) for name, entry in made.items()})
    contexts.save(config)
    assert contexts.load() == config


def test_the_environment_wins_over_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    unkai("context", "add", "one", "--socket", "/run/one.sock")
    monkeypatch.setenv("UNKAI_SOCKET", "/run/env.sock")
    assert chosen(contexts.load()).socket == "/run/env.sock"
    monkeypatch.setenv("UNKAI_PROJECT", "lab")
    assert chosen(contexts.load()).project == "lab"
    monkeypatch.setenv("UNKAI_CONTEXT", "one")
    assert chosen(contexts.load()).socket == "/run/one.sock"
    with pytest.raises(NotFound):
        chosen(contexts.load(), "nothing")


def test_an_address_needs_a_certificate_and_a_socket_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNKAI_ADDRESS", "10.0.0.1:7443")
    with pytest.raises(InvalidArgument, match="not all of ca, certificate and key"):
        chosen(Config())
    monkeypatch.setenv("UNKAI_SOCKET", "/run/env.sock")
    with pytest.raises(InvalidArgument, match="and not both"):
        chosen(Config())


@pytest.mark.parametrize("address", ["cloud", "10.0.0.1", "10.0.0.1:", "[::1]", "10.0.0.1:http"])
def test_an_address_has_a_port(address: str) -> None:
    files = ["--ca", "ca.crt", "--certificate", "me.crt", "--key", "me.key"]
    outcome = unkai("context", "add", "one", "--address", address, *files)
    assert outcome.code == 2
    assert "IP:PORT" in outcome.err
    assert contexts.load() == Config()


@pytest.mark.parametrize("address", ["10.0.0.1:7443", "[::1]:7443", "cloud.example:7443"])
def test_an_address_is_an_ip_or_a_name_and_a_port(address: str) -> None:
    files = ["--ca", "ca.crt", "--certificate", "me.crt", "--key", "me.key"]
    assert unkai("context", "add", "one", "--address", address, *files).code == 0


def test_a_context_has_a_name() -> None:
    assert unkai("context", "add", "", "--socket", "/run/one.sock").code == 2
    assert contexts.load() == Config()


@pytest.mark.parametrize("text", ["not = [toml", 'contexts = "one"', "contexts = [1]"])
def test_a_broken_file_is_told_with_its_path(text: str) -> None:
    path = contexts.config_path()
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(FailedPrecondition, match=str(path)):
        contexts.load()
