"""Filters: which hosts cannot be chosen, each one boolean array and a sentence about a near miss.

They run in the order of `FILTERS`. Adding one is one function for the array, one for the sentence
and one line in the table. Pure; cost elementwise in the hosts looked at, which are all, or those
that have moved since (`Filter.reads`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from unkai_scheduler.domain.hosts import HostState
from unkai_scheduler.domain.port_orders import NETWORKS
from unkai_scheduler.placement import group_rules
from unkai_scheduler.placement.elementwise import N
from unkai_scheduler.placement.fleet import Fleet
from unkai_scheduler.placement.host_words import (
    DEDICATED,
    DEDICATED_BY,
    SWITCH_JOINED,
    ZONE_WORD,
    aggregate_word,
    physical_network_word,
    project_word,
    zone_word,
)
from unkai_scheduler.placement.hosts_view import Bools, Hosts, Ints, OneHost, Some
from unkai_scheduler.placement.moves import Aspect
from unkai_scheduler.placement.requests import PlacementRequest

_UNITS = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


@dataclass(frozen=True, slots=True)
class Filter:
    """One reason a host cannot be chosen."""

    name: str
    passes: Callable[[Any, PlacementRequest], Any]
    """True for each host that may be chosen."""
    missing: Callable[[Any, PlacementRequest], Any]
    """How far each host is from passing; compared only among hosts that do not."""
    sentence: Callable[[Fleet, PlacementRequest, int], str]
    """What would let the host of a row pass."""
    one: str
    """What is true of one host it keeps out: "lacks memory"."""
    many: str
    """What is true of several: "lack memory"."""
    reads: int = Aspect.ALL
    """What of a host it looks at: it is asked again when that moves."""
    of_one: bool = False
    """It can be asked of `OneHost`, too, and gives the same."""
    applies: Callable[[PlacementRequest], bool] | None = None
    """Set: it looks at more of a request than its shape. It is asked anew for each request that it
    applies to, and of no other."""


def format_bytes(amount: int) -> str:
    """Write an amount in the largest unit that leaves at most two decimals: "512 MiB"."""
    for unit, name in _UNITS:
        if amount >= unit:
            return f"{amount / unit:.2f}".rstrip("0").rstrip(".") + f" {name}"
    return f"{amount} bytes"


def _none_missing(hosts: Hosts, _request: PlacementRequest) -> Ints:
    return np.zeros(len(hosts), np.int64)


def _excluded(hosts: Hosts, request: PlacementRequest) -> Bools:
    return ~hosts.among(request.excluded_host_ids)


def _state_missing(hosts: Hosts, _request: PlacementRequest) -> Ints:
    return hosts.flags("silent").astype(np.int64)


def _state_sentence(fleet: Fleet, _request: PlacementRequest, row: int) -> str:
    if fleet.state_of(row) is HostState.CONNECTING:
        return f"{fleet.names[row]} does not answer yet"
    return f"{fleet.names[row]} is silent"


def _cordon_sentence(fleet: Fleet, _request: PlacementRequest, row: int) -> str:
    reason = fleet.cordon_reasons[row]
    return f"{fleet.names[row]} is cordoned" + (f": {reason[:80]}" if reason else "")


def _traits(hosts: Hosts, request: PlacementRequest) -> Bools:
    return hosts.having(request.required_traits)


def _traits_missing(hosts: Hosts, request: PlacementRequest) -> Ints:
    return _words_missing(hosts, request.required_traits)


def _words_missing(hosts: Hosts, words: Sequence[str]) -> Ints:
    missing = np.zeros(len(hosts), np.int64)
    for word in set(words):
        missing += ~hosts.having((word,))
    return missing


def _traits_sentence(fleet: Fleet, request: PlacementRequest, row: int) -> str:
    lacking = fleet.words.lacking(fleet.table("words")[row], request.required_traits)
    return f"{fleet.names[row]} lacks {', '.join(lacking[:5])}"


def _zone(hosts: Hosts, request: PlacementRequest) -> Bools:
    return hosts.having([zone_word(request.zone)] if request.zone else ())


def _zone_sentence(fleet: Fleet, _request: PlacementRequest, row: int) -> str:
    zone = fleet.words.after(fleet.table("words")[row], ZONE_WORD)
    return f"{fleet.names[row]} is in zone {' '.join(zone)}"


def _aggregate(hosts: Hosts, request: PlacementRequest) -> Bools:
    return hosts.having([aggregate_word(request.aggregate_id)] if request.aggregate_id else ())


def _dedicated(hosts: Hosts, request: PlacementRequest) -> Bools:
    passes: Bools = hosts.having((project_word(request.project_id),)) | ~hosts.having((DEDICATED,))
    return passes


def _dedicated_sentence(fleet: Fleet, _request: PlacementRequest, row: int) -> str:
    by = ", ".join(sorted(fleet.words.after(fleet.table("words")[row], DEDICATED_BY))[:5])
    return f"{fleet.names[row]} is dedicated to other projects by aggregate {by}"


def _forbidden(hosts: Hosts, request: PlacementRequest) -> Bools:
    passes: Bools = _forbidden_missing(hosts, request) == 0
    return passes


def _forbidden_missing(hosts: Hosts, request: PlacementRequest) -> Ints:
    found = np.zeros(len(hosts), np.int64)
    for trait in request.forbidden_traits:
        found += hosts.having((trait,))
    return found


def _forbidden_sentence(fleet: Fleet, request: PlacementRequest, row: int) -> str:
    lacking = fleet.words.lacking(fleet.table("words")[row], request.forbidden_traits)
    found = [trait for trait in request.forbidden_traits if trait not in lacking]
    return f"{fleet.names[row]} has {', '.join(found[:5])}"


def _network_words(request: PlacementRequest) -> tuple[str, ...]:
    if request.physical_networks is None:
        return ()
    return (NETWORKS, SWITCH_JOINED, *map(physical_network_word, request.physical_networks))


def _networks(hosts: Hosts, request: PlacementRequest) -> Bools:
    return hosts.having(_network_words(request))


def _networks_missing(hosts: Hosts, request: PlacementRequest) -> Ints:
    return _words_missing(hosts, _network_words(request))


def _networks_sentence(fleet: Fleet, request: PlacementRequest, row: int) -> str:
    lacking = fleet.words.lacking(fleet.table("words")[row], _network_words(request))
    if NETWORKS in lacking:
        return f"{fleet.names[row]} has no virtual networks: its agent is not told of an OVN"
    if SWITCH_JOINED in lacking:
        return f"{fleet.names[row]}'s switch is in trouble: {fleet.network_problems[row][:80]}"
    named = ", ".join(
        name
        for name in sorted(set(request.physical_networks or ()))
        if physical_network_word(name) in lacking
    )
    return f"{fleet.names[row]} is not attached to physical network {named}"


def _metrics_sentence(fleet: Fleet, _request: PlacementRequest, row: int) -> str:
    age_s = fleet.age_s(row)
    if age_s == float("inf"):
        return f"{fleet.names[row]} has sent no metrics yet"
    return f"{fleet.names[row]}'s metrics are {age_s:.0f} s old"


def _metrics_missing(hosts: Hosts, _request: PlacementRequest) -> Ints:
    # As their ages, and without the time: all ages grow alike, and who is nearest stays so.
    missing: Ints = (np.minimum(-hosts.sampled_s(), 1e9) * 1000).astype(np.int64)
    return missing


def _capacity(
    resource: str, wanted: Callable[[PlacementRequest], int], unit: Callable[[int], str], noun: str
) -> Filter:
    claimed, claimable = f"claimed_{resource}", f"claimable_{resource}"

    def short(hosts: Some[N], request: PlacementRequest) -> N:
        return hosts.column(claimed) + wanted(request) - hosts.column(claimable)

    def passes(hosts: Some[N], request: PlacementRequest) -> bool | Bools:
        return short(hosts, request) <= 0

    def sentence(fleet: Fleet, request: PlacementRequest, row: int) -> str:
        return f"{fleet.names[row]} lacks {unit(short(OneHost(fleet, row), request))}"

    reads = Aspect.HOST | Aspect.CLAIMS
    return Filter(
        resource, passes, short, sentence, f"lacks {noun}", f"lack {noun}", reads, of_one=True
    )


FILTERS: tuple[Filter, ...] = (
    Filter(
        "excluded",
        _excluded,
        _none_missing,
        lambda fleet, _request, row: f"{fleet.names[row]} has failed this instance before",
        "has failed it before",
        "have failed it before",
        applies=lambda request: bool(request.excluded_host_ids),
    ),
    Filter(
        "state",
        lambda hosts, _request: hosts.flags("up"),
        _state_missing,
        _state_sentence,
        "is not up",
        "are not up",
        Aspect.HOST,
    ),
    Filter(
        "cordon",
        lambda hosts, _request: ~hosts.flags("cordoned"),
        _none_missing,
        _cordon_sentence,
        "is cordoned",
        "are cordoned",
        Aspect.HOST,
    ),
    Filter(
        "zone",
        _zone,
        _none_missing,
        _zone_sentence,
        "is in another zone",
        "are in another zone",
        Aspect.HOST,
    ),
    Filter(
        "aggregate",
        _aggregate,
        _none_missing,
        lambda fleet, _request, row: f"{fleet.names[row]} is outside its aggregate",
        "is outside its aggregate",
        "are outside its aggregate",
        Aspect.HOST,
    ),
    Filter(
        "dedicated",
        _dedicated,
        _none_missing,
        _dedicated_sentence,
        "is dedicated to others",
        "are dedicated to others",
        Aspect.HOST,
    ),
    Filter(
        "traits",
        _traits,
        _traits_missing,
        _traits_sentence,
        "lacks a trait",
        "lack a trait",
        Aspect.HOST,
    ),
    Filter(
        "forbidden_traits",
        _forbidden,
        _forbidden_missing,
        _forbidden_sentence,
        "has a forbidden trait",
        "have a forbidden trait",
        Aspect.HOST,
    ),
    Filter(
        "networks",
        _networks,
        _networks_missing,
        _networks_sentence,
        "lacks a network",
        "lack a network",
        Aspect.HOST,
    ),
    Filter(
        "group",
        group_rules.passes,
        group_rules.missing,
        group_rules.sentence,
        "is kept out by its placement group",
        "are kept out by its placement group",
        applies=group_rules.is_hard,
    ),
    _capacity("vcpus", lambda r: r.vcpus, lambda n: f"{n} vCPU{'s' * (n != 1)}", "vCPUs"),
    _capacity(
        "memory", lambda r: r.memory_bytes, lambda n: f"{format_bytes(n)} of memory", "memory"
    ),
    _capacity("disk", lambda r: r.disk_bytes, lambda n: f"{format_bytes(n)} of disk", "disk"),
    Filter(
        "metrics",
        lambda hosts, _request: hosts.flags("fresh"),
        _metrics_missing,
        _metrics_sentence,
        "has no fresh metrics",
        "have no fresh metrics",
        Aspect.LIVE,
    ),
)
"""In the order they run."""
