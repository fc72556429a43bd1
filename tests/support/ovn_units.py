"""Units of rows for OVN's northbound database, small and named."""

from __future__ import annotations

from uuid import UUID, uuid5

from unkai_scheduler.ovn.rows import Place, Row, Unit, Value

_SPACE = UUID("6d1f3c1e-0000-4000-8000-000000000000")


def uuid_of(name: str) -> UUID:
    """Return the UUID that goes by a name."""
    return uuid5(_SPACE, name)


def switch(name: str, **columns: Value) -> Unit:
    """Return a unit of one logical switch."""
    row = Row("Logical_Switch", uuid_of(name), {"name": name, **columns})
    return Unit(f"network:{name}", (row,))


def port(name: str, on: str, groups: tuple[str, ...] = (), **columns: Value) -> Unit:
    """Return a unit of one logical switch port."""
    row = Row(
        "Logical_Switch_Port",
        uuid_of(name),
        {"name": name, "addresses": frozenset({"02:00:00:00:00:01 10.0.0.5"}), **columns},
        parent=Place("Logical_Switch", uuid_of(on), "ports"),
        member_of=frozenset(Place("Port_Group", uuid_of(group), "ports") for group in groups),
    )
    return Unit(f"port:{name}", (row,))


def group(name: str, rules: int = 0) -> Unit:
    """Return a unit of one port group and its rules."""
    place = Place("Port_Group", uuid_of(name), "acls")
    acls = tuple(
        Row(
            "ACL",
            uuid_of(f"{name}/{number}"),
            {
                "priority": 1002,
                "direction": "to-lport",
                "match": f"outport == @{name} && ip4 && tcp.dst == {number}",
                "action": "allow-related",
            },
            parent=place,
        )
        for number in range(rules)
    )
    row = Row("Port_Group", uuid_of(name), {"name": name})
    return Unit(f"security_group:{name}", (row, *acls))


def gone(unit: Unit) -> Unit:
    """Return the unit as it is when its resource is removed."""
    return Unit(unit.key)
