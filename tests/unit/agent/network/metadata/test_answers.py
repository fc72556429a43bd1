"""Answers to guests' requests, and the tokens they ask by."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.agent import a_spec
from tests.support.ports import a_network_id, a_port
from unkai_agent.domain.machines import SeedSpec
from unkai_agent.network.guests import Guest
from unkai_agent.network.metadata.answers import (
    TOKEN,
    TTL,
    Answer,
    Request,
    answer,
    subject_of,
)
from unkai_agent.network.metadata.tokens import TTL_MAX_S, Tokens

HOST = {"host": "169.254.169.254"}


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def a_guest(*, metadata_seed: bool = False, number: int = 1) -> Guest:
    seed = SeedSpec("web", ("ssh-ed25519 AAAA ada",), b"\x00user-data")
    spec = a_spec(number, ports=(a_port(number),), metadata_seed=metadata_seed, seed=seed)
    return Guest(spec, spec.ports[0])


def get(path: str, guest: Guest | None, tokens: Tokens, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return answer(Request("GET", path, HOST | named), guest, tokens)


def a_token(guest: Guest, tokens: Tokens, ttl: str = "60") -> Answer:
    return answer(Request("PUT", "/latest/api/token", HOST | {TTL: ttl}), guest, tokens)


def test_with_a_token_everything_is_read() -> None:
    guest, tokens = a_guest(), Tokens()
    given_token = a_token(guest, tokens)
    assert (given_token.status, given_token.headers[TTL], given_token.near) == (200, "60", True)
    for path, body in (
        ("/latest/meta-data/instance-id", guest.spec.instance_id.encode()),
        ("/2009-04-04/meta-data/local-ipv4", b"10.0.0.5"),
        ("//latest//user-data", b"\x00user-data"),
        ("/openstack/latest/user_data", b"\x00user-data"),
        ("/latest/meta-data/public-keys/", b"0=key-0"),
        ("/latest/meta-data/public-keys/0/openssh-key", b"ssh-ed25519 AAAA ada\n"),
    ):
        said = answer(
            Request("GET", path, HOST | {TOKEN: given_token.body.decode()}), guest, tokens
        )
        assert (said.status, said.body) == (200, body), path


@pytest.mark.parametrize(
    ("path", "by_disk", "by_service"),
    [
        ("/", 200, 200),
        ("/openstack", 200, 200),
        ("/openstack/latest/meta_data.json", 200, 200),
        ("/openstack/2018-08-27/network_data.json", 200, 200),
        ("/latest/", 401, 200),
        ("/latest/meta-data/", 401, 200),
        ("/2009-04-04/meta-data/instance-id", 401, 200),
        ("/latest/user-data", 401, 401),
        ("/latest/dynamic/instance-identity/document", 401, 401),
        ("/latest/nothing", 401, 401),
        ("/nothing", 401, 401),
    ],
)
def test_without_a_token_little_is_read(path: str, by_disk: int, by_service: int) -> None:
    tokens = Tokens()
    assert get(path, a_guest(), tokens).status == by_disk
    assert get(path, a_guest(metadata_seed=True), tokens).status == by_service


def test_a_bad_token_is_refused_even_where_none_is_needed() -> None:
    assert (
        answer(Request("GET", "/openstack", HOST | {TOKEN: "x"}), a_guest(), Tokens()).status == 401
    )


@pytest.mark.parametrize("ttl", ["", "0", "21601", "-1", "1.5", "x", "999999", "٣"])
def test_a_token_has_a_life_of_a_second_to_six_hours(ttl: str) -> None:
    assert a_token(a_guest(), Tokens(), ttl).status == 400


def test_a_token_ends() -> None:
    clock = Clock()
    tokens = Tokens(monotonic=clock)
    guest = a_guest()
    token = a_token(guest, tokens, str(TTL_MAX_S)).body.decode()
    clock.now_s += TTL_MAX_S - 1
    assert tokens.is_good(token, subject_of(guest))
    clock.now_s += 1
    assert not tokens.is_good(token, subject_of(guest))


def test_a_token_is_no_other_guests_nor_an_earlier_runs() -> None:
    tokens, guest = Tokens(), a_guest()
    token = a_token(guest, tokens).body.decode()
    elsewhere = replace(guest.port, network_id=a_network_id(2))
    for other in (
        a_guest(number=2),
        Guest(guest.spec, elsewhere),
        Guest(replace(guest.spec, run_epoch=2), guest.port),
    ):
        assert not tokens.is_good(token, subject_of(other))
    assert not Tokens().is_good(token, subject_of(guest)), "another agent's key"


@given(st.one_of(st.text(max_size=80), st.binary(max_size=80).map(lambda b: b.decode("latin-1"))))
def test_whatever_is_shown_as_a_token_is_none(text: str) -> None:
    assert not Tokens(b"k" * 32).is_good(text, "s")


@pytest.mark.parametrize("header", ["x-forwarded-for", "forwarded", "via"])
@pytest.mark.parametrize("value", ["10.0.0.1", ""])
def test_what_comes_by_way_of_a_proxy_is_refused(header: str, value: str) -> None:
    said = answer(Request("GET", "/", HOST | {header: value}), a_guest(), Tokens())
    assert said.status == 403


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("169.254.169.254", 200),
        ("169.254.169.254:80", 200),
        ("[fe80::a9fe:a9fe]", 200),
        ("[fe80::a9fe:a9fe%eth0]:80", 200),
        ("instance-data", 200),
        ("instance-data.internal", 200),
        ("evil.example", 403),
        ("169.254.169.254.evil.example", 403),
        ("169.254.169.254:8080", 403),
        ("", 403),
    ],
)
def test_only_under_its_own_name_does_it_answer(host: str, status: int) -> None:
    assert answer(Request("GET", "/", {"host": host}), a_guest(), Tokens()).status == status


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "BREW"])
def test_nothing_can_be_written(method: str) -> None:
    assert answer(Request(method, "/openstack", HOST), a_guest(), Tokens()).status == 405


def test_a_token_is_only_put() -> None:
    assert get("/latest/api/token", a_guest(), Tokens()).status == 405


@pytest.mark.parametrize("path", ["/", "/openstack/latest/meta_data.json", "/latest/api/token"])
def test_nobodys_address_reads_nothing(path: str) -> None:
    assert get(path, None, Tokens()).status == 404
