"""A security group's rule as people write it: `ingress tcp 22 from 10.0.0.0/8`.

Pure: a text to a `Rule`, a rule's record to a text that reads back as the same rule.

    DIRECTION [ipv4|ipv6] [PROTOCOL [PORTS]] [from|to CIDR, ADDRESS, any, or a group's NAME]
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unkai_cli.commands.addresses import cidr, is_address, port_range

DIRECTIONS = {"ingress": "INGRESS", "in": "INGRESS", "egress": "EGRESS", "out": "EGRESS"}
VERSIONS = {"ipv4": 4, "ipv6": 6}
PROTOCOLS = {"tcp": "TCP", "udp": "UDP", "sctp": "SCTP", "icmp": "ICMP", "icmpv6": "ICMP"}
_OF_PORTS = {"TCP", "UDP", "SCTP"}
_ALL = {"any", "all"}
_PEER_WORDS = {"INGRESS": "from", "EGRESS": "to"}
_SAMPLE = "write 'ingress tcp 22 from 10.0.0.0/8' or 'egress udp 53'"


@dataclass(frozen=True, slots=True)
class Rule:
    """What a text says; the group is still a name."""

    direction: str
    protocol: str = ""
    """Empty: all."""
    ip_version: int = 0
    """0: as the CIDR's, or both."""
    port_first: int = 0
    port_last: int = 0
    icmp_type: int | None = None
    icmp_code: int | None = None
    remote_cidr: str = ""
    remote_group: str = ""


def parse(text: str) -> Rule:
    """Read a rule; raise `ValueError` with what to write instead."""
    words = text.replace(",", " ").split()
    direction = DIRECTIONS.get(words[0].lower(), "") if words else ""
    if not direction:
        raise ValueError(f"{text!r} does not begin with ingress or egress; {_SAMPLE}")
    body, peer = _parted(text, words[1:], direction)
    said: dict[str, Any] = {"direction": direction}
    if body and body[0].lower() in VERSIONS:
        said["ip_version"] = VERSIONS[body.pop(0).lower()]
    if body:
        said |= _protocol(text, body.pop(0).lower())
    if body:
        said |= _narrowed(text, said.get("protocol", ""), body.pop(0).lower())
    if body:
        raise ValueError(f"{text!r}: {' '.join(body)!r} is too much; {_SAMPLE}")
    said |= _peer(peer)
    _check_versions(text, said)
    return Rule(**said)


def next_words(words: Sequence[str]) -> list[str]:
    """Return the words that may follow those of a rule not yet whole."""
    if not words:
        return ["ingress", "egress"]
    peer = _PEER_WORDS.get(DIRECTIONS.get(words[0], ""), "from")
    if words[-1] == peer:
        return ["any", "group"]
    if peer in words:
        return []
    protocols = [] if any(word in PROTOCOLS for word in words) else [*PROTOCOLS, "any"]
    versions = list(VERSIONS) if len(words) == 1 else []
    return [*versions, *protocols, peer]


def _parted(text: str, words: list[str], direction: str) -> tuple[list[str], list[str]]:
    """Return the words before `from` or `to`, and those after it."""
    places = [i for i, word in enumerate(words) if word.lower() in ("from", "to")]
    if not places:
        return _unglued(words), []
    first, wanted = places[0], _PEER_WORDS[direction]
    if words[first].lower() != wanted:
        raise ValueError(f"{text!r}: {direction.lower()} comes with '{wanted}', not {words[first]}")
    peer = words[first + 1 :]
    if not peer:
        raise ValueError(f"{text!r} says nothing after '{wanted}'; write a CIDR, any or a group")
    return _unglued(words[:first]), peer


def _unglued(words: list[str]) -> list[str]:
    """Take `tcp/22` and `tcp:22` apart."""
    found: list[str] = []
    for word in words:
        match = re.fullmatch(r"([A-Za-z][A-Za-z0-9]*)[/:](.+)", word)
        found += [match[1], match[2]] if match else [word]
    return found


def _protocol(text: str, word: str) -> dict[str, Any]:
    if word in _ALL:
        return {}
    if word not in PROTOCOLS:
        known = ", ".join((*PROTOCOLS, "any"))
        raise ValueError(f"{text!r}: {word!r} is not a protocol; use one of {known}")
    version = {"ip_version": 6} if word == "icmpv6" else {}
    return {"protocol": PROTOCOLS[word], **version}


def _narrowed(text: str, protocol: str, word: str) -> dict[str, Any]:
    """Read ports, or a type of ICMP."""
    if word in _ALL:
        return {}
    if protocol in _OF_PORTS:
        first, last = port_range(word)
        return {"port_first": first, "port_last": last}
    if protocol == "ICMP":
        kind, slash, code = word.partition("/")
        icmp_type = _small(text, kind)
        return {"icmp_type": icmp_type, **({"icmp_code": _small(text, code)} if slash else {})}
    raise ValueError(f"{text!r}: ports need a protocol; write tcp, udp or sctp before {word!r}")


def _small(text: str, word: str) -> int:
    if not re.fullmatch(r"[0-9]{1,3}", word) or int(word) > 255:
        raise ValueError(f"{text!r}: {word!r} is no type of ICMP; write icmp 8 or icmp 3/4")
    return int(word)


def _peer(words: list[str]) -> dict[str, Any]:
    if not words:
        return {}
    if words[0].lower() == "group" and len(words) == 2:
        return {"remote_group": words[1]}
    if len(words) > 1:
        raise ValueError(f"{' '.join(words)!r} is more than one; add a rule for each")
    word = words[0]
    if word.lower() in _ALL:
        return {}
    if "/" in word or ":" in word or is_address(word):
        return {"remote_cidr": cidr(word)}
    return {"remote_group": word}


def _check_versions(text: str, said: dict[str, Any]) -> None:
    """Refuse a CIDR of another kind than the rule; the CIDR says it all where both do."""
    remote, version = said.get("remote_cidr", ""), said.get("ip_version", 0)
    if not remote:
        return
    theirs = 6 if ":" in remote else 4
    if version and version != theirs:
        raise ValueError(f"{text!r}: {remote} is IPv{theirs}, the rule is for IPv{version}")
    said["ip_version"] = theirs


def rule_text(record: Mapping[str, Any], group_name: Callable[[str], str] = str) -> str:
    """Return a rule's record in words; `group_name`: the name of a group's id."""
    direction = record["direction"]
    words = [direction.lower()]
    remote = record["remote_cidr"]
    version = {"4": "ipv4", "6": "ipv6"}.get(record["ip_version"], "")
    if version and not remote:
        words.append(version)
    words += _protocol_words(record)
    if remote or record["remote_group_id"]:
        words.append(_PEER_WORDS[direction])
        words.append(remote or f"group {group_name(record['remote_group_id'])}")
    return " ".join(words)


def _protocol_words(record: Mapping[str, Any]) -> list[str]:
    protocol = record["protocol"]
    if protocol == "UNSPECIFIED":
        return ["any"]
    words = [protocol.lower()]
    first, last = record["port_first"], record["port_last"]
    if first:
        words.append(f"{first}-{last}" if last and last != first else str(first))
    if record["icmp_type"] is not None:
        code = record["icmp_code"]
        words.append(f"{record['icmp_type']}" + (f"/{code}" if code is not None else ""))
    return words


def fields(rule: Rule, group_id: str) -> dict[str, Any]:
    """Return the contract's fields, enums by their numbers' names; `group_id` for the name."""
    return {
        "direction": f"DIRECTION_{rule.direction}",
        "ip_version": f"IP_VERSION_{rule.ip_version}" if rule.ip_version else None,
        "protocol": f"PROTOCOL_{rule.protocol}" if rule.protocol else None,
        "port_first": rule.port_first,
        "port_last": rule.port_last,
        "icmp_type": rule.icmp_type,
        "icmp_code": rule.icmp_code,
        "remote_cidr": rule.remote_cidr,
        "remote_group_id": group_id,
    }
