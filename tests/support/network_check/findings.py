"""What the checker of networks finds: each kind of disagreement."""

from __future__ import annotations

from enum import Enum


class Kind(Enum):
    """What must not be."""

    ADDRESS_ASTRAY = "an address that is not of its subnet, or of another network than its port"
    GIVEN_TWICE = "an address or MAC address that two have on one network"
    ROW_DANGLING = "a row about something that is not"
    WORK_LEFT = "a unit that OVN is still to be told of"
    TOMBSTONE_AT_ODDS = "a tombstone of what there is"
    UNIT_OF_NOTHING = "a northbound row of ours about something that is not"
    SWITCH_AT_ODDS = "a network whose switch is missing, doubled or another"
    PORT_AT_ODDS = "a port that OVN has not as the store says"
    SECURITY_AT_ODDS = "a port that may send as somebody it is not, or not as itself"
    GROUP_AT_ODDS = "a security group with other members in OVN"
    RULES_AT_ODDS = "a security group with other rules in OVN"
    DROP_AT_ODDS = "what no rule allows is not dropped for all"
    DHCP_AT_ODDS = "a subnet whose guests are told something else"
    LIMIT_AT_ODDS = "a port with other limits"
    ROUTER_AT_ODDS = "a router that is somewhere else"
    ROUTE_AT_ODDS = "a router with other routes"
    NAT_AT_ODDS = "a router that translates otherwise"
    BALANCER_AT_ODDS = "a load balancer that balances otherwise"
    BINDING_AT_ODDS = "a port on another host than its instance, or up nowhere"
    CHASSIS_OF_NOBODY = "a chassis that is no host"
    OVS_PORT_OF_NOBODY = "a switch's port that is no running machine's of this host"
    OVS_PORT_MISSING = "a running machine whose port is not plugged in"
    OVS_PORT_TWICE = "two of a switch's ports that claim to be one"
    OVS_PORT_BROKEN = "a switch's port without its device, or not installed"
    NAMESPACE_LEFT = "a namespace of a network that no machine of this host is on"
    NAMESPACE_MISSING = "a network of a running machine without its namespace"
    HOST_UNSEEN = "a host with machines that was not looked at"
