"""An independent checker of networks: store, OVN and switches, each read as it is, say one thing.

It derives by itself what must be there from the store's rows, and shares no line with what the
product derives: names and UUIDs of rows are read, never reckoned, but for those that the product
promises (a port's UUID, `meta-…`, `lrp-…`, `pg_…`). Compared are contents, as sets. Each kind of
disagreement is a `Kind`, and a test plants each.

It does not look itself, but is given a `Sight`. A cloud at work disagrees: ask until it is settled.
"""

from __future__ import annotations

from tests.support.findings import Finding
from tests.support.network_check.balancers import check_balancers
from tests.support.network_check.books import check_addresses, check_owners, check_work
from tests.support.network_check.groups import check_drops, check_groups
from tests.support.network_check.hosts import check_bindings, check_chassis, check_hosts
from tests.support.network_check.ports import check_dhcp, check_limits, check_ports
from tests.support.network_check.routers import check_nat, check_routers
from tests.support.network_check.sight import Cloud, Sight
from tests.support.network_check.switches import check_switches, check_twice_in_ovn, check_units


def check(sight: Sight) -> list[Finding]:
    """Return all that disagrees."""
    cloud = Cloud(sight)
    judges = [
        check_addresses,
        check_owners,
        check_work,
        check_units,
        check_switches,
        check_ports,
        check_groups,
        check_drops,
        check_dhcp,
        check_limits,
        check_routers,
        check_nat,
        check_balancers,
        check_twice_in_ovn,
    ]
    if sight.southbound is not None:
        judges += [check_chassis, check_bindings]
    if sight.hosts is not None:
        judges += [check_hosts]
    return [finding for judge in judges for finding in judge(cloud)]
