"""Words: what hosts are said to have, as bits of the fleet's column `words`.

Traits are words. So are zones, aggregates and networks: what hosts have or have not, and no trait
can be named like, as each has a colon or a space in it. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from unkai_scheduler.domain.hosts import Host
from unkai_scheduler.domain.names import is_trait
from unkai_scheduler.domain.port_orders import NETWORKS

Ints = npt.NDArray[np.int64]

_BITS = 63
"""Words in one integer: its sign stays free."""

SWITCH_JOINED = "network joined"
"""The word of hosts whose switch belongs to OVN as it must; no trait has a space in it."""


def physical_network_word(name: str) -> str:
    """Return the word, kept as traits are, of hosts that reach one of the operator's networks.

    No trait that anybody may ask for has a colon in it.
    """
    return f"network:{name}"


ZONE_WORD = "zone:"
"""What words of zones begin with."""


def zone_word(name: str) -> str:
    """Return the word, kept as traits are, of hosts in a zone."""
    return f"{ZONE_WORD}{name}"


DEDICATED = "dedicated"
"""The word of hosts that are for some projects alone."""
DEDICATED_BY = "dedicated by:"
"""What the words begin with that name the aggregates which say so."""


def aggregate_word(ident: str) -> str:
    """Return the word of hosts in an aggregate."""
    return f"aggregate:{ident}"


def project_word(ident: str) -> str:
    """Return the word of hosts dedicated to a project."""
    return f"project:{ident}"


def words_of(host: Host) -> Iterator[str]:
    """Yield all words of a host."""
    yield from _traits(host)
    yield from _abilities(host)
    yield from _said(host)


def _traits(host: Host) -> Iterator[str]:
    """Yield a host's own traits; its agent's word for anything else counts for nothing."""
    return filter(is_trait, host.traits)


def _said(host: Host) -> Iterator[str]:
    """Yield the words of what the operator says of a host: traits of its aggregates too."""
    yield zone_word(host.zone)
    for aggregate in host.aggregates:
        yield aggregate_word(aggregate.id)
        yield from aggregate.traits
    closed = [aggregate for aggregate in host.aggregates if aggregate.project_ids]
    if closed:
        yield DEDICATED
        yield from (f"{DEDICATED_BY}{aggregate.name}" for aggregate in closed)
        # Each of them says that nobody else is placed there.
        allowed = set.intersection(*(set(aggregate.project_ids) for aggregate in closed))
        yield from map(project_word, sorted(allowed))


def _abilities(host: Host) -> Iterator[str]:
    """Yield the words of what a host can for networks."""
    if NETWORKS in host.features:
        yield NETWORKS
        if not host.network_problem:
            yield SWITCH_JOINED
        yield from map(physical_network_word, host.physical_networks)


class WordBits:
    """Which bit stands for which word. A word that some host has had keeps its bit for good."""

    def __init__(self, words: Iterable[str] = ()) -> None:
        """`words`: in the order of their bits."""
        self._bits = {word: bit for bit, word in enumerate(words)}

    def __len__(self) -> int:
        return len(self._bits)

    def __contains__(self, word: str) -> bool:
        return word in self._bits

    def __iter__(self) -> Iterator[str]:
        return iter(self._bits)

    def copy(self) -> WordBits:
        """Return the same that can be changed apart."""
        return WordBits(self._bits)

    @property
    def width(self) -> int:
        """Return how many integers all words take."""
        return len(self._bits) // _BITS + 1

    def added(self, words: Iterable[str]) -> Ints:
        """Return the bits of words, which new ones are given."""
        bits = [self._bits.setdefault(word, len(self._bits)) for word in words]
        return self._packed(bits)

    def mask(self, words: Iterable[str]) -> Ints | None:
        """Return the bits of words; None when no host has ever had one of them."""
        bits = [self._bits.get(word) for word in words]
        known = [bit for bit in bits if bit is not None]
        return self._packed(known) if len(known) == len(bits) else None

    def lacking(self, have: Ints, words: Sequence[str]) -> list[str]:
        """Return those of the words that are not among the bits that a host has."""
        return [word for word in words if not self._is_in(have, word)]

    def after(self, have: Ints, kind: str) -> list[str]:
        """Return what follows the kind in those words that a host has: of `zone:` its zone."""
        words = [word for word in self._bits if word.startswith(kind)]
        return [word.removeprefix(kind) for word in words if self._is_in(have, word)]

    def _is_in(self, have: Ints, word: str) -> bool:
        bit = self._bits.get(word)
        return bit is not None and bool(int(have[bit // _BITS]) >> (bit % _BITS) & 1)

    def _packed(self, bits: Iterable[int]) -> Ints:
        packed = np.zeros(self.width, np.int64)
        for bit in bits:
            packed[bit // _BITS] |= 1 << (bit % _BITS)
        return packed
