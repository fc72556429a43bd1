"""What a router translates, both for floating addresses and for what hides behind it. Pure.

As a switch's port, it says all columns that decide what is translated. ovn-nb(5), NAT.
"""

from __future__ import annotations

from uuid import UUID

from unkai_scheduler.ovn.northbound.names import in_router
from unkai_scheduler.ovn.rows import Row


def translation(uuid: UUID, router_id: str, kind: str, outside: str, inside: str) -> Row:
    """Return a row: `outside` is seen in place of `inside`, an address or a range."""
    return Row(
        "NAT",
        uuid,
        {
            "type": kind,
            "external_ip": outside,
            "logical_ip": inside,
            "external_port_range": "",
            "external_mac": (),
            "logical_port": (),
            "gateway_port": (),
            "allowed_ext_ips": (),
            "exempted_ext_ips": (),
        },
        parent=in_router(router_id, "nat"),
    )
