"""A network's names: how they are told, kept, and answered."""

from __future__ import annotations

from pathlib import Path

import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.reversename
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.ports import a_network_id
from unkai_agent.network.names.answers import UDP_BYTES, answer, packet
from unkai_agent.network.names.table import NameChanges, NameTable, NameTables
from unkai_wire.errors import FailedPrecondition, Unavailable

NETWORK = a_network_id()
TABLE = NameTable(
    "internal",
    7,
    {
        "web": ("10.0.0.5", "fd00::5"),
        "old": ("10.0.0.6",),
        "many": tuple(f"10.1.{n // 250}.{n % 250}" for n in range(200)),
    },
)


def asked(name: str, kind: str = "A", **options: object) -> dns.message.Message | None:
    return answer(dns.message.make_query(name, kind, **options), TABLE)  # type: ignore[arg-type]


def said(response: dns.message.Message | None) -> tuple[str, set[str]]:
    assert response is not None
    found = {record.to_text() for rrset in response.answer for record in rrset}
    return dns.rcode.to_text(response.rcode()), found


@pytest.mark.parametrize(
    ("name", "kind", "rcode", "found"),
    [
        ("web.internal", "A", "NOERROR", {"10.0.0.5"}),
        ("web.internal", "AAAA", "NOERROR", {"fd00::5"}),
        ("WEB.Internal.", "A", "NOERROR", {"10.0.0.5"}),
        ("web", "A", "NOERROR", {"10.0.0.5"}),
        ("web", "AAAA", "NOERROR", {"fd00::5"}),
        ("web.internal", "ANY", "NOERROR", {"10.0.0.5", "fd00::5"}),
        ("web.internal", "MX", "NOERROR", set()),
        ("old.internal", "AAAA", "NOERROR", set()),
        ("nobody.internal", "A", "NXDOMAIN", set()),
        ("a.web.internal", "A", "NXDOMAIN", set()),
        ("internal", "A", "NOERROR", set()),
        (str(dns.reversename.from_address("10.0.0.5")), "PTR", "NOERROR", {"web.internal."}),
        (str(dns.reversename.from_address("fd00::5")), "PTR", "NOERROR", {"web.internal."}),
        (str(dns.reversename.from_address("10.0.0.5")), "A", "NOERROR", set()),
    ],
)
def test_what_is_ours_is_answered(name: str, kind: str, rcode: str, found: set[str]) -> None:
    response = asked(name, kind)
    assert said(response) == (rcode, found)
    assert response is not None
    assert response.flags & dns.flags.AA
    assert response.flags & dns.flags.RA


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("example.org", "A"),
        ("nobody", "A"),  # a single word may be somebody's top domain
        ("org", "NS"),
        (".", "NS"),
        ("webinternal", "A"),
        ("web.internal.example", "A"),
        (str(dns.reversename.from_address("10.0.0.99")), "PTR"),
        ("x.10.in-addr.arpa", "PTR"),
    ],
)
def test_what_is_not_ours_is_somebody_elses_to_answer(name: str, kind: str) -> None:
    assert asked(name, kind) is None


@pytest.mark.parametrize("name", ["nobody.internal", "old.internal"])
def test_that_something_is_missing_may_be_remembered_for_seconds(name: str) -> None:
    response = asked(name, "AAAA")
    assert response is not None
    [soa] = response.authority
    assert soa.ttl == soa[0].minimum == 5
    assert soa.name.to_text() == "internal."


def test_a_query_with_edns_is_answered_with_edns() -> None:
    with_edns = asked("web.internal", use_edns=True)
    without = asked("web.internal", use_edns=False)
    assert with_edns is not None
    assert without is not None
    assert (with_edns.edns, without.edns) == (0, -1)


def test_what_is_no_plain_question_is_refused() -> None:
    notify = dns.message.make_query("web.internal", "A")
    notify.set_opcode(dns.opcode.NOTIFY)
    nothing = dns.message.make_query("web.internal", "A")
    nothing.question.clear()
    for query, rcode in (
        (notify, "NOTIMP"),
        (nothing, "FORMERR"),
        (dns.message.make_query("web.internal", "A", dns.rdataclass.CH), "REFUSED"),
    ):
        assert said(answer(query, TABLE)) == (rcode, set())


@pytest.mark.parametrize(("payload", "most"), [(None, 512), (600, 600), (4096, UDP_BYTES)])
def test_what_is_too_long_for_a_packet_asks_the_guest_to_come_by_tcp(
    payload: int | None, most: int
) -> None:
    query = dns.message.make_query("many.internal", "A", use_edns=payload and 0, payload=payload)
    response = answer(query, TABLE)
    assert response is not None
    text = packet(response, query)
    assert len(text) <= most
    cut = dns.message.from_wire(text)
    assert cut.flags & dns.flags.TC
    assert cut.id == query.id


def test_a_network_without_a_domain_knows_single_words_alone() -> None:
    table = NameTable("", 1, {"web": ("10.0.0.5",)})
    assert said(answer(dns.message.make_query("web", "A"), table)) == ("NOERROR", {"10.0.0.5"})
    assert answer(dns.message.make_query("web.internal", "A"), table) is None


@given(st.binary(max_size=80))
def test_whatever_is_asked_there_is_an_answer_or_it_is_not_ours(text: bytes) -> None:
    query = dns.message.make_query("web.internal", "A").to_wire()[:12] + text
    try:
        message = dns.message.from_wire(query, ignore_trailing=True)
    except Exception:  # noqa: BLE001 - what is no message is not asked
        return
    response = answer(message, TABLE)
    if response is not None:
        assert packet(response, message)


# -- how they are told ---------------------------------------------------------------------


def a_change(base: int, revision: int, **changes: object) -> NameChanges:
    put = {"web": ("10.0.0.5",)} if base == 0 else {}
    return NameChanges(NETWORK, base, revision, "internal", **({"put": put} | changes))  # type: ignore[arg-type]


def test_changes_build_on_what_is_held(tmp_path: Path) -> None:
    tables = NameTables(tmp_path)
    tables.change(a_change(0, 5))
    tables.change(a_change(5, 6, put={"db": ("10.0.0.9",)}))
    table = tables.change(a_change(6, 7, removed=frozenset({"web", "gone"})))
    assert (table.revision, table.names) == (7, {"db": ("10.0.0.9",)})
    assert table.name_of("10.0.0.5") is None


def test_changes_to_what_is_not_held_are_refused_and_change_nothing(tmp_path: Path) -> None:
    tables = NameTables(tmp_path)
    tables.change(a_change(0, 5))
    with pytest.raises(FailedPrecondition) as caught:
        tables.change(a_change(6, 7, put={"db": ("10.0.0.9",)}))
    assert caught.value.reason == "NAMES_REVISION"
    assert caught.value.metadata["held"] == "5"
    assert tables.of(NETWORK).names == {"web": ("10.0.0.5",)}


def test_the_same_change_twice_is_one(tmp_path: Path) -> None:
    tables = NameTables(tmp_path)
    tables.change(a_change(0, 5))
    for _ in range(2):
        table = tables.change(a_change(5, 6, put={"db": ("10.0.0.9",)}))
    assert table.revision == 6
    assert set(table.names) == {"web", "db"}


def test_all_names_replace_whatever_was_there(tmp_path: Path) -> None:
    tables = NameTables(tmp_path)
    tables.change(a_change(0, 5))
    table = tables.change(a_change(0, 6, put={"db": ("10.0.0.9",)}))
    assert (table.revision, set(table.names)) == (6, {"db"})


def test_names_outlive_the_agent(tmp_path: Path) -> None:
    NameTables(tmp_path).change(a_change(0, 5))
    again = NameTables(tmp_path).of(NETWORK)
    assert (again.revision, again.domain, again.names) == (5, "internal", {"web": ("10.0.0.5",)})


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"version": 2}', '{"version": 1}'])
def test_a_file_that_cannot_be_read_is_told_anew(tmp_path: Path, text: str) -> None:
    NameTables(tmp_path).change(a_change(0, 5))
    (tmp_path / f"{NETWORK}.json").write_text(text)
    tables = NameTables(tmp_path)
    assert tables.of(NETWORK).revision == 0
    assert tables.change(a_change(0, 6)).revision == 6


def test_networks_that_no_machine_is_on_are_forgotten(tmp_path: Path) -> None:
    tables = NameTables(tmp_path)
    tables.change(a_change(0, 5))
    tables.keep_only([NETWORK])
    assert tables.of(NETWORK).revision == 5
    tables.keep_only([])
    assert tables.of(NETWORK).revision == 0
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_kept_is_not_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = NameTables(tmp_path)
    tables.change(a_change(0, 5))

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(Unavailable) as caught:
        tables.change(a_change(0, 6, put={}))
    assert caught.value.reason == "NAMES_UNWRITABLE"
    assert tables.of(NETWORK).revision == 5
