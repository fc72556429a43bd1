"""Filters: which hosts cannot be chosen, each one boolean array and a sentence about a near miss.

They run in the order of `FILTERS`. Adding one is one function for the array, one for the sentence
and one line in the table. Pure; cost O(hosts) elementwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from unkai_scheduler.domain.hosts import HostState
from unkai_scheduler.domain.port_orders import NETWORKS
from unkai_scheduler.placement.fleet import (
    SWITCH_JOINED,
    ZONE_WORD,
    Bools,
    Fleet,
    Ints,
    physical_network_word,
    zone_word,
)
from unkai_scheduler.placement.requests import PlacementRequest

_UNITS = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


@dataclass(frozen=True, slots=True)
class Filter:
    """One reason a host cannot be chosen."""

    name: str
    passes: Callable[[Fleet, PlacementRequest, float], Bools]
    """True for each host that may be chosen. The float is now, monotonic seconds."""
    missing: Callable[[Fleet, PlacementRequest, float], Ints]
    """How far each host is from passing; compared only among hosts that do not."""
    sentence: Callable[[Fleet, PlacementRequest, int, float], str]
    """What would let the host of a row pass."""
    one: str
    """What is true of one host it keeps out: "lacks memory"."""
    many: str
    """What is true of several: "lack memory"."""


def format_bytes(amount: int) -> str:
    """Write an amount in the largest unit that leaves at most two decimals: "512 MiB"."""
    for unit, name in _UNITS:
        if amount >= unit:
            return f"{amount / unit:.2f}".rstrip("0").rstrip(".") + f" {name}"
    return f"{amount} bytes"


def _none_missing(fleet: Fleet, _request: PlacementRequest, _now_s: float) -> Ints:
    return np.zeros(len(fleet), np.int64)


def _excluded(fleet: Fleet, request: PlacementRequest, _now_s: float) -> Bools:
    passes = np.ones(len(fleet), np.bool_)
    for host_id in request.excluded_host_ids:
        row = fleet.row_of(host_id)
        if row is not None:
            passes[row] = False
    return passes


def _state_missing(fleet: Fleet, _request: PlacementRequest, _now_s: float) -> Ints:
    return fleet.flags("silent").astype(np.int64)


def _state_sentence(fleet: Fleet, _request: PlacementRequest, row: int, _now_s: float) -> str:
    if fleet.state_of(row) is HostState.CONNECTING:
        return f"{fleet.names[row]} does not answer yet"
    return f"{fleet.names[row]} is silent"


def _cordon_sentence(fleet: Fleet, _request: PlacementRequest, row: int, _now_s: float) -> str:
    reason = fleet.cordon_reasons[row]
    return f"{fleet.names[row]} is cordoned" + (f": {reason[:80]}" if reason else "")


def _traits(fleet: Fleet, request: PlacementRequest, _now_s: float) -> Bools:
    return _traits_of(fleet, request.required_traits)


def _traits_of(fleet: Fleet, traits: Sequence[str]) -> Bools:
    mask = fleet.trait_mask(traits)
    if mask is None:
        return np.zeros(len(fleet), np.bool_)
    passes: Bools = ((fleet.column("traits") & mask) == mask).all(axis=1)
    return passes


def _traits_missing(fleet: Fleet, request: PlacementRequest, _now_s: float) -> Ints:
    missing = np.zeros(len(fleet), np.int64)
    for trait in set(request.required_traits):
        missing += ~_traits_of(fleet, (trait,))
    return missing


def _traits_sentence(fleet: Fleet, request: PlacementRequest, row: int, _now_s: float) -> str:
    lacking = fleet.lacking_traits(row, request.required_traits)
    return f"{fleet.names[row]} lacks {', '.join(lacking[:5])}"


def _zone(fleet: Fleet, request: PlacementRequest, _now_s: float) -> Bools:
    return _traits_of(fleet, [zone_word(request.zone)] if request.zone else ())


def _zone_sentence(fleet: Fleet, _request: PlacementRequest, row: int, _now_s: float) -> str:
    return f"{fleet.names[row]} is in zone {' '.join(fleet.words_of(row, ZONE_WORD))}"


def _forbidden(fleet: Fleet, request: PlacementRequest, now_s: float) -> Bools:
    passes: Bools = _forbidden_missing(fleet, request, now_s) == 0
    return passes


def _forbidden_missing(fleet: Fleet, request: PlacementRequest, _now_s: float) -> Ints:
    found = np.zeros(len(fleet), np.int64)
    for trait in request.forbidden_traits:
        found += _traits_of(fleet, (trait,))
    return found


def _forbidden_sentence(fleet: Fleet, request: PlacementRequest, row: int, _now_s: float) -> str:
    lacking = fleet.lacking_traits(row, request.forbidden_traits)
    found = [trait for trait in request.forbidden_traits if trait not in lacking]
    return f"{fleet.names[row]} has {', '.join(found[:5])}"


def _network_words(request: PlacementRequest) -> tuple[str, ...]:
    if request.physical_networks is None:
        return ()
    return (NETWORKS, SWITCH_JOINED, *map(physical_network_word, request.physical_networks))


def _networks(fleet: Fleet, request: PlacementRequest, _now_s: float) -> Bools:
    return _traits_of(fleet, _network_words(request))


def _networks_missing(fleet: Fleet, request: PlacementRequest, _now_s: float) -> Ints:
    missing = np.zeros(len(fleet), np.int64)
    for word in set(_network_words(request)):
        missing += ~_traits_of(fleet, (word,))
    return missing


def _networks_sentence(fleet: Fleet, request: PlacementRequest, row: int, _now_s: float) -> str:
    lacking = fleet.lacking_traits(row, _network_words(request))
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


def _metrics_sentence(fleet: Fleet, _request: PlacementRequest, row: int, now_s: float) -> str:
    age_s = fleet.age_s(row, now_s)
    if age_s == float("inf"):
        return f"{fleet.names[row]} has sent no metrics yet"
    return f"{fleet.names[row]}'s metrics are {age_s:.0f} s old"


def _metrics_missing(fleet: Fleet, _request: PlacementRequest, now_s: float) -> Ints:
    ages_ms = np.minimum(fleet.ages_s(now_s), 1e9) * 1000
    missing: Ints = ages_ms.astype(np.int64)
    return missing


def _capacity(
    resource: str, wanted: Callable[[PlacementRequest], int], unit: Callable[[int], str], noun: str
) -> Filter:
    def short(fleet: Fleet, request: PlacementRequest, _now_s: float) -> Ints:
        taken = fleet.column(f"claimed_{resource}")
        return taken + wanted(request) - fleet.column(f"claimable_{resource}")

    def passes(fleet: Fleet, request: PlacementRequest, now_s: float) -> Bools:
        return short(fleet, request, now_s) <= 0

    def sentence(fleet: Fleet, request: PlacementRequest, row: int, now_s: float) -> str:
        return f"{fleet.names[row]} lacks {unit(int(short(fleet, request, now_s)[row]))}"

    return Filter(resource, passes, short, sentence, f"lacks {noun}", f"lack {noun}")


FILTERS: tuple[Filter, ...] = (
    Filter(
        "excluded",
        _excluded,
        _none_missing,
        lambda fleet, _request, row, _now_s: f"{fleet.names[row]} has failed this instance before",
        "has failed it before",
        "have failed it before",
    ),
    Filter(
        "state",
        lambda fleet, _request, _now_s: fleet.flags("up"),
        _state_missing,
        _state_sentence,
        "is not up",
        "are not up",
    ),
    Filter(
        "cordon",
        lambda fleet, _request, _now_s: ~fleet.flags("cordoned"),
        _none_missing,
        _cordon_sentence,
        "is cordoned",
        "are cordoned",
    ),
    Filter(
        "zone", _zone, _none_missing, _zone_sentence, "is in another zone", "are in another zone"
    ),
    Filter("traits", _traits, _traits_missing, _traits_sentence, "lacks a trait", "lack a trait"),
    Filter(
        "forbidden_traits",
        _forbidden,
        _forbidden_missing,
        _forbidden_sentence,
        "has a forbidden trait",
        "have a forbidden trait",
    ),
    Filter(
        "networks",
        _networks,
        _networks_missing,
        _networks_sentence,
        "lacks a network",
        "lack a network",
    ),
    _capacity("vcpus", lambda r: r.vcpus, lambda n: f"{n} vCPU{'s' * (n != 1)}", "vCPUs"),
    _capacity(
        "memory", lambda r: r.memory_bytes, lambda n: f"{format_bytes(n)} of memory", "memory"
    ),
    _capacity("disk", lambda r: r.disk_bytes, lambda n: f"{format_bytes(n)} of disk", "disk"),
    Filter(
        "metrics",
        lambda fleet, _request, now_s: fleet.ages_s(now_s) <= fleet.max_sample_age_s,
        _metrics_missing,
        _metrics_sentence,
        "has no fresh metrics",
        "have no fresh metrics",
    ),
)
"""In the order they run."""

BY_NAME = {f.name: f for f in FILTERS}
