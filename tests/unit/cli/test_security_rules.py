"""Rules of security groups as people write and read them."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unkai.network.v1 import security_group_pb2
from unkai_cli.commands.security_rules import Rule, fields, next_words, parse, rule_text
from unkai_cli.records import record

READ = {
    "ingress tcp 22 from 10.0.0.0/8": Rule("INGRESS", "TCP", 4, 22, 22, remote_cidr="10.0.0.0/8"),
    "IN TCP 22 FROM 10.0.0.0/8": Rule("INGRESS", "TCP", 4, 22, 22, remote_cidr="10.0.0.0/8"),
    "ingress tcp/8000-8099": Rule("INGRESS", "TCP", 0, 8000, 8099),
    "ingress tcp:443 from any": Rule("INGRESS", "TCP", 0, 443, 443),
    "ingress tcp 443 from fd00::5": Rule("INGRESS", "TCP", 6, 443, 443, remote_cidr="fd00::5/128"),
    "ingress from group web": Rule("INGRESS", remote_group="web"),
    "ingress udp 53 from web": Rule("INGRESS", "UDP", 0, 53, 53, remote_group="web"),
    "ingress from group any": Rule("INGRESS", remote_group="any"),
    "egress": Rule("EGRESS"),
    "out any": Rule("EGRESS"),
    "egress ipv6 any": Rule("EGRESS", "", 6),
    "egress udp any to 0.0.0.0/0": Rule("EGRESS", "UDP", 4, remote_cidr="0.0.0.0/0"),
    "ingress icmp": Rule("INGRESS", "ICMP"),
    "ingress icmp 8": Rule("INGRESS", "ICMP", icmp_type=8),
    "ingress icmp 3/4": Rule("INGRESS", "ICMP", icmp_type=3, icmp_code=4),
    "ingress icmp 0/0": Rule("INGRESS", "ICMP", icmp_type=0, icmp_code=0),
    "ingress icmpv6": Rule("INGRESS", "ICMP", 6),
}
REFUSED = {
    "": "ingress or egress",
    "tcp 22": "ingress or egress",
    "ingress 22": "is not a protocol",
    "ingress any 22": "ports need a protocol",
    "ingress tcp http": "is not a port number",
    "ingress tcp 90-80": "write 80-90",
    "ingress tcp 22 to 10.0.0.0/8": "comes with 'from'",
    "egress from 10.0.0.0/8": "comes with 'to'",
    "ingress tcp 22 from": "says nothing after 'from'",
    "ingress from 10.0.0.0/8 10.1.0.0/16": "a rule for each",
    "ingress tcp 22 10.0.0.0/8": "is too much",
    "ingress from 10.0.0.5/8": "bits beyond its prefix",
    "ingress ipv6 tcp from 10.0.0.0/8": "the rule is for IPv6",
    "ingress icmp 256": "is no type of ICMP",
    "ingress icmp 8/x": "is no type of ICMP",
}


def as_record(rule: Rule) -> dict[str, Any]:
    """Return the rule as the contract carries it, its group's name for the id."""
    said = {key: value for key, value in fields(rule, rule.remote_group).items() if value}
    for key in ("icmp_type", "icmp_code"):
        if getattr(rule, key) is not None:
            said[key] = getattr(rule, key)
    return record(security_group_pb2.SecurityGroup.Rule(**said))


@pytest.mark.parametrize("text", READ)
def test_a_rule_is_read_as_it_is_written(text: str) -> None:
    assert parse(text) == READ[text]


@pytest.mark.parametrize("text", REFUSED)
def test_a_wrong_rule_is_refused_with_what_is_wrong(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(REFUSED[text])):
        parse(text)


_PORTS = st.tuples(st.integers(1, 65535), st.integers(1, 65535)).map(sorted)
_SMALL = st.integers(0, 255)


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    """Draw any rule that the contract allows."""
    said: dict[str, Any] = {"direction": draw(st.sampled_from(("INGRESS", "EGRESS")))}
    said["protocol"] = draw(st.sampled_from(("", "TCP", "UDP", "SCTP", "ICMP")))
    if said["protocol"] in ("TCP", "UDP", "SCTP") and draw(st.booleans()):
        said["port_first"], said["port_last"] = draw(_PORTS)
    if said["protocol"] == "ICMP" and draw(st.booleans()):
        said["icmp_type"] = draw(_SMALL)
        said["icmp_code"] = draw(st.none() | _SMALL)
    match draw(st.sampled_from(("any", "cidr", "group"))):
        case "cidr":
            there = draw(st.ip_addresses())
            said["ip_version"] = there.version
            said["remote_cidr"] = f"{there}/{there.max_prefixlen}"
        case "group":
            said["remote_group"] = draw(st.from_regex(r"[a-z][a-z0-9-]{0,9}", fullmatch=True))
            said["ip_version"] = draw(st.sampled_from((0, 4, 6)))
        case _:
            said["ip_version"] = draw(st.sampled_from((0, 4, 6)))
    return Rule(**said)


@pytest.mark.parametrize(
    ("words", "word"),
    [
        ("", "egress"),
        ("ingress", "ipv6"),
        ("ingress", "tcp"),
        ("ingress tcp", "from"),
        ("egress udp 53", "to"),
        ("ingress tcp 22 from", "group"),
    ],
)
def test_a_word_that_is_offered_next_makes_a_rule_or_leads_to_one(words: str, word: str) -> None:
    assert word in next_words(words.split())


@given(rules())
def test_any_rule_in_words_reads_back_as_the_same_rule(rule: Rule) -> None:
    assert parse(rule_text(as_record(rule))) == rule


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(ValueError):
        parse(f"ingress {text}")
