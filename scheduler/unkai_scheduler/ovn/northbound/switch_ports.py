"""A switch's port, whoever has it. Pure.

Each says all columns that decide what passes it, the empty ones too: what somebody else writes
there is damage, and only a column that is said is put right. ovn-nb(5), Logical_Switch_Port.
"""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

from unkai_scheduler.ovn.northbound.names import in_switch
from unkai_scheduler.ovn.rows import Place, Row, Value

_PLAIN: Mapping[str, Value] = {
    "port_security": (),
    "dhcpv4_options": (),
    "dhcpv6_options": (),
    "parent_name": (),
    "tag_request": (),
    "tag": (),
    "ha_chassis_group": (),
    "enabled": True,
}


def switch_port(
    uuid: UUID,
    network_id: str,
    columns: Mapping[str, Value],
    member_of: frozenset[Place] = frozenset(),
) -> Row:
    """Return a port's row; a column that is not given is as of a plain port."""
    return Row(
        "Logical_Switch_Port",
        uuid,
        {**columns, **{name: value for name, value in _PLAIN.items() if name not in columns}},
        parent=in_switch(network_id, "ports"),
        member_of=member_of,
    )
