"""A lab's network, cut between one cell and some of what it talks to.

Packets are dropped in the cell's own namespace, both ways and without a word, so that open
connections hang as they do when a switch fails. The cable as a whole is `Lab.cut`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from unkai_lab.configuration import etcd_endpoints
from unkai_lab.database import server_of
from unkai_lab.lab import Lab
from unkai_lab.spec import CONTROL, FLEET

ETCD, DATABASE, AGENTS, SCHEDULERS = "etcd", "database", "agents", "schedulers"


@contextmanager
def cut_off(lab: Lab, cell: str, *parties: str) -> Iterator[None]:
    """Cut a cell off from parties (ETCD, DATABASE, AGENTS, SCHEDULERS) until the end."""
    rules = [rule for party in parties for rule in _rules(lab, cell, party)]
    for rule in rules:
        _iptables(lab, cell, "--append", rule)
    try:
        yield
    finally:
        for rule in rules:
            _iptables(lab, cell, "--delete", rule)


def _rules(lab: Lab, cell: str, party: str) -> list[Sequence[str]]:
    spec = lab.spec
    if party == ETCD:
        return [rule for each in etcd_endpoints(spec) for rule in _both_ways(each)]
    if party == DATABASE:
        server = server_of(spec, lab.paths)
        assert server is not None, "an SQLite file cannot be cut off"
        return _both_ways(f"{spec.address(CONTROL)}:{server.port}")
    if party == AGENTS:
        cells = [*spec.host_names, *([FLEET] if spec.simulated else [])]
    else:
        assert party == SCHEDULERS, party
        cells = [spec.scheduler_cell(name) for name in spec.scheduler_names]
    addresses = [spec.address(each) for each in cells if each != cell]
    return [rule for address in addresses for rule in _both_ways(address)]


def _both_ways(endpoint: str) -> list[Sequence[str]]:
    """Return the rules that drop what goes to an address, or one port of it, and what comes."""
    address, _, port = endpoint.partition(":")
    to, of = (["--dport", port], ["--sport", port]) if port else ([], [])
    return [
        ["OUTPUT", "--destination", address, "--protocol", "tcp", *to, "--jump", "DROP"],
        ["INPUT", "--source", address, "--protocol", "tcp", *of, "--jump", "DROP"],
    ]


def _iptables(lab: Lab, cell: str, verb: str, rule: Sequence[str]) -> None:
    lab.run(cell, ["iptables", "--wait", verb, *rule])
