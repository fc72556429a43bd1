"""What somebody can do by hand to the northbound rows that are the cloud's, as `ovn-nbctl` words.

Rows are taken as OVN's tool shows them, whatever made them: that one is the cloud's says its
external id `unkai_unit`, which names its unit.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from tests.support.ovsdb_look import Database, Row, members

UNIT = "unkai_unit"
_HELD: Mapping[str, tuple[str, str]] = {
    "Logical_Switch_Port": ("Logical_Switch", "ports"),
    "ACL": ("Port_Group", "acls"),
    "QoS": ("Logical_Switch", "qos_rules"),
    "Logical_Router_Port": ("Logical_Router", "ports"),
    "Logical_Router_Static_Route": ("Logical_Router", "static_routes"),
    "NAT": ("Logical_Router", "nat"),
    "Load_Balancer_Health_Check": ("Load_Balancer", "health_check"),
    "HA_Chassis": ("HA_Chassis_Group", "ha_chassis"),
}
"""Tables whose rows live only as long as a row of another holds them, and which (ovn-nb(5))."""
_ALTERED: Mapping[str, Sequence[str]] = {
    "Logical_Switch": ("name=else-{uuid}",),
    "Logical_Switch_Port": (
        'addresses="02:00:00:00:00:0a 10.9.9.9"',
        'port_security="02:00:00:00:00:0a"',
    ),
    "Port_Group": ("name=else_{short}",),
    "ACL": ("action=reject", "priority=7", "match=ip"),
    "QoS": ("bandwidth:rate=9", "priority=9"),
    "DHCP_Options": ('options:server_id="02:00:00:00:00:0b"', 'options:dns_server="{{9.9.9.9}}"'),
    "Logical_Router": ("name=else-{uuid}", "enabled=false"),
    "Logical_Router_Port": ('mac="02:00:00:00:00:0c"', 'networks="10.9.9.1/24"'),
    "Logical_Router_Static_Route": ('nexthop="10.9.9.9"',),
    "NAT": ('logical_ip="10.9.9.9"',),
    "Load_Balancer": ("protocol=udp", 'vips={{"10.9.9.9:9"="10.9.9.8:9"}}'),
    "Load_Balancer_Health_Check": ('vip="10.9.9.9:9"', "options:interval=77"),
    "HA_Chassis_Group": ("name=else-{uuid}",),
    "HA_Chassis": ("chassis_name=nobody", "priority=3"),
}
DERIVED = tuple(_ALTERED)
"""All tables that the cloud has rows in."""
_EMPTIED: Mapping[str, Sequence[str]] = {
    "Logical_Switch": ("load_balancer",),
    "Logical_Switch_Port": ("dhcpv4_options", "dhcpv6_options", "port_security"),
    "Port_Group": ("ports", "acls"),
    "Logical_Router": ("load_balancer", "static_routes", "nat"),
    "Logical_Router_Port": ("ha_chassis_group", "ipv6_ra_configs"),
    "Load_Balancer": ("vips", "health_check"),
}
_SETS = frozenset({"ports", "acls", "qos_rules", "load_balancer", "static_routes", "nat"}) | {
    "health_check",
    "ha_chassis",
}
"""Columns that say of other rows where they belong."""


class Kind(Enum):
    """What is done to rows."""

    REMOVED = "removed"
    ALTERED = "altered"
    EMPTIED = "emptied"
    """A column lost all it had."""
    UNMARKED = "unmarked"
    """Nothing says any more that the row is the cloud's."""
    PLANTED = "planted"


@dataclass(frozen=True, slots=True)
class Damage:
    """What somebody does in one transaction."""

    kind: Kind
    table: str
    command: Sequence[str]
    units: frozenset[str]
    """Whose rows are hurt."""


def each_damage(database: Database) -> list[Damage]:
    """Return all that can be done to one row, of each row of ours."""
    some = _Rows(database)
    return [
        one for table in DERIVED for row in some.ours(table) for one in some.damages(table, row)
    ]


def every_row_altered(database: Database) -> Damage:
    """Return what alters all rows of ours."""
    some, words, units = _Rows(database), list[str](), set[str]()
    for table in DERIVED:
        for row in some.ours(table):
            words += ["--", *_altered(table, row, _ALTERED[table][0])]
            units.add(_unit(row))
    return Damage(Kind.ALTERED, "", words[1:], frozenset(units))


def every_row_removed(database: Database) -> Damage:
    """Return what removes all rows of ours."""
    some, words, units = _Rows(database), list[str](), set[str]()
    for table in DERIVED:
        units.update(_unit(row) for row in some.ours(table))
        if table not in _HELD:
            for row in some.ours(table):
                words += ["--", *some.removal(table, row)]
    return Damage(Kind.REMOVED, "", words[1:], frozenset(units))


def planted(database: Database) -> list[Damage]:
    """Return what puts rows with a mark of ours where none of ours should be."""
    some = _Rows(database)
    router = some.ours("Logical_Router")[0]
    group = next(row for row in some.ours("Port_Group") if row["name"] == "unkai_drop")
    options = some.ours("DHCP_Options")[0]
    route = ["ip_prefix=10.66.0.0/16", "nexthop=10.0.0.77"]
    opens = ["priority=2000", "direction=to-lport", "action=allow", "match=ip"]
    return [
        _planted("Logical_Router_Static_Route", route, router, "static_routes"),
        _planted("ACL", opens, group, "acls"),
        Damage(
            Kind.PLANTED,
            "DHCP_Options",
            [
                "create",
                "DHCP_Options",
                "cidr=10.66.0.0/16",
                f"external_ids:{UNIT}={_quoted(options)}",
            ],
            frozenset({_unit(options)}),
        ),
    ]


def _planted(table: str, columns: Sequence[str], parent: Row, column: str) -> Damage:
    holder = _HELD[table][0]
    made = ["--id=@made", "create", table, *columns, f"external_ids:{UNIT}={_quoted(parent)}"]
    joined = ["--", "add", holder, parent["_uuid"], column, "@made"]
    return Damage(Kind.PLANTED, table, [*made, *joined], frozenset({_unit(parent)}))


def _quoted(row: Row) -> str:
    return f'"{_unit(row)}"'


def _unit(row: Row) -> str:
    return str(row.get("external_ids", {}).get(UNIT, ""))


def _altered(table: str, row: Row, text: str) -> list[str]:
    uuid = str(row["_uuid"])
    return ["set", table, uuid, text.format(uuid=uuid, short=uuid.replace("-", "_"))]


class _Rows:
    """The database, and who refers to whom in it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._by_uuid = {row["_uuid"]: row for some in database.values() for row in some}

    def ours(self, table: str) -> list[Row]:
        return sorted(
            (row for row in self._database[table] if _unit(row)), key=lambda row: str(row["_uuid"])
        )

    def damages(self, table: str, row: Row) -> Iterator[Damage]:
        """Yield all that can be done to a row."""
        uuid, own = row["_uuid"], frozenset({_unit(row)})
        lost = own | self._units_in(row, _SETS) | self._units_that_name(uuid)
        yield Damage(Kind.REMOVED, table, self.removal(table, row), lost)
        for text in _ALTERED[table]:
            yield Damage(Kind.ALTERED, table, _altered(table, row, text), own)
        for column in _EMPTIED.get(table, ()):
            if members(row[column]) - {""} if not isinstance(row[column], dict) else row[column]:
                hurt = self._units_in(row, [column]) if column in _SETS else own
                yield Damage(Kind.EMPTIED, table, ["clear", table, uuid, column], hurt)
        yield Damage(Kind.UNMARKED, table, ["clear", table, uuid, "external_ids"], own)

    def removal(self, table: str, row: Row) -> list[str]:
        """Return the words that remove a row."""
        uuid = row["_uuid"]
        if table in _HELD:
            holder, column = _HELD[table]
            (parent,) = [one for one in self._database[holder] if uuid in members(one[column])]
            return ["remove", holder, parent["_uuid"], column, uuid]
        words = ["destroy", table, uuid]
        for port in self._database["Logical_Router_Port"]:  # it holds fast what it names
            if uuid in members(port["ha_chassis_group"]):
                words += ["--", "clear", "Logical_Router_Port", port["_uuid"], "ha_chassis_group"]
        return words

    def _units_in(self, row: Row, columns: Collection[str]) -> frozenset[str]:
        """Return the units of the rows that these columns of a row have."""
        named = {one for column in columns if column in row for one in members(row[column])}
        return frozenset(_unit(self._by_uuid[one]) for one in named if one in self._by_uuid) - {""}

    def _units_that_name(self, uuid: str) -> frozenset[str]:
        """Return the units of the rows that have a row in a column for one."""
        return frozenset(
            _unit(row)
            for row in self._by_uuid.values()
            for column, value in row.items()
            if column not in _SETS and column != "_uuid" and value == uuid
        ) - {""}
