"""Page tokens, etcd records, certificate names: what is written is read back, else refused."""

from __future__ import annotations

import base64
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unkai_wire import page_tokens, tls
from unkai_wire.cluster_records import HostRecord, SchedulerRecord
from unkai_wire.errors import InvalidArgument, Unauthenticated

RECORD = HostRecord(
    host_id="hst-1",
    name="h1",
    address="10.0.0.1:7444",
    tls_name="x",
    cpus=2,
    memory_bytes=1,
    disk_bytes=2,
    accelerator="tcg",
    accelerator_reason="no /dev/kvm",
    traits=("CPU_X86_64",),
    boot_id="b",
    agent_version="0",
    features=("a", "b"),
)


@given(st.lists(st.text(), min_size=1, max_size=4), st.text())
def test_a_token_gives_its_key_back(key: list[str], request: str) -> None:
    assert page_tokens.decode(request, page_tokens.encode(request, key)) == key


def test_a_token_of_another_request_is_refused() -> None:
    token = page_tokens.encode("project=a", ["n", "i"])
    with pytest.raises(InvalidArgument, match="another request"):
        page_tokens.decode("project=b", token)


@given(st.text(max_size=60))
def test_any_other_text_is_refused_as_a_token(text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        page_tokens.decode("r", text)
    assert caught.value.reason == "INVALID_PAGE_TOKEN"


@pytest.mark.parametrize("raw", ["[" * 9000, '["x","\\ud800"]', "{}", "[]", "[1,2]", "[" * 100_000])
def test_json_that_is_no_list_of_texts_is_refused_as_a_token(raw: str) -> None:
    token = base64.urlsafe_b64encode(raw.encode()).decode().rstrip("=")
    with pytest.raises(InvalidArgument) as caught:
        page_tokens.decode("r", token)
    assert caught.value.reason == "INVALID_PAGE_TOKEN"


@pytest.mark.parametrize(("asked", "given_"), [(0, 100), (1, 1), (1000, 1000), (5000, 1000)])
def test_page_sizes_are_bounded(asked: int, given_: int) -> None:
    assert page_tokens.page_size(asked) == given_


def test_a_negative_page_size_is_refused() -> None:
    with pytest.raises(InvalidArgument):
        page_tokens.page_size(-1)


def test_a_host_record_is_read_back() -> None:
    assert HostRecord.from_json(RECORD.to_json()) == RECORD


def test_a_record_of_an_older_version_is_read_without_what_it_did_not_know() -> None:
    old = json.loads(RECORD.to_json())
    del old["metrics_address"]
    assert HostRecord.from_json(json.dumps(old)) == replace(RECORD, metrics_address="")


def test_a_record_that_lacks_what_every_version_writes_is_refused() -> None:
    for field in ("host_id", "address", "cpus"):
        torn = json.loads(RECORD.to_json())
        del torn[field]
        with pytest.raises(ValueError, match=f"lacks {field}"):
            HostRecord.from_json(json.dumps(torn))


def test_a_record_of_a_newer_version_is_read_without_what_we_do_not_know() -> None:
    newer = RECORD.to_json().replace("{", '{"colour":"blue",', 1)
    assert HostRecord.from_json(newer) == RECORD


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("cpus", "2"),
        ("cpus", True),
        ("cpus", -1),
        ("cpus", (1 << 16) + 1),
        ("disk_bytes", (1 << 56) + 1),
        ("memory_bytes", 1e30),
        ("memory_bytes", 1 << 80),
        ("disk_bytes", None),
        ("name", 7),
        ("name", "x" * 5000),
        ("address", ["127.0.0.1:1"]),
        ("traits", "CPU_X86_64"),
        ("traits", [1]),
        ("traits", ["T"] * 2000),
        ("features", {}),
    ],
)
def test_a_record_that_would_break_its_reader_is_refused(field: str, value: object) -> None:
    text = json.dumps(json.loads(RECORD.to_json()) | {field: value})
    with pytest.raises(ValueError, match=f"not a HostRecord: {field} is"):
        HostRecord.from_json(text)


def test_a_record_nested_too_deeply_is_refused() -> None:
    with pytest.raises(ValueError, match="not a HostRecord"):
        HostRecord.from_json("[" * 100_000)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"name":"x"}', "null"])
def test_what_is_no_record_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a SchedulerRecord"):
        SchedulerRecord.from_json(text)


@pytest.mark.parametrize(
    "principal",
    [
        tls.Principal(tls.Role.CLIENT, "ada"),
        tls.Principal(tls.Role.MONITOR, "prometheus"),
        tls.Principal(tls.Role.HOST, "h1", "hst-1"),
        tls.Principal(tls.Role.SCHEDULER, "s1"),
        tls.Principal(tls.Role.FLEET, "sim"),
    ],
)
def test_a_principal_is_read_back_from_its_uri(principal: tls.Principal) -> None:
    uri = tls.principal_uri(principal)
    assert tls.principal_of_uri(uri) == principal
    found = tls.principal_of_auth_context(
        {"x509_subject_alternative_name": [b"localhost", uri.encode()]}, "ipv4:127.0.0.1:1"
    )
    assert found == principal


@pytest.mark.parametrize(
    "uri",
    ["", "unkai://", "unkai://local/root", "unkai://host/h1", "http://client/a", "unkai://client/"],
)
def test_other_uris_name_nobody(uri: str) -> None:
    with pytest.raises(ValueError, match="names no principal"):
        tls.principal_of_uri(uri)


def test_only_a_unix_socket_makes_a_caller_local() -> None:
    assert tls.principal_of_auth_context({}, "unix:/x").role is tls.Role.LOCAL
    with pytest.raises(Unauthenticated):
        tls.principal_of_auth_context({}, "ipv4:127.0.0.1:1")
