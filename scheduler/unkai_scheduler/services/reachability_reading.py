"""The way of a packet through OVN, told in the user's words. Pure.

A flow is brought back to what it was derived from by its text, not by OVN's hint: equal flows of
several networks are one row, whose hint names one of them alone. Texts name ports and groups by
their ids, and the pipeline names its network or router.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from unkai_scheduler.domain.networks import Network
from unkai_scheduler.domain.ports import Port, PortOwner
from unkai_scheduler.domain.reachability import Hop
from unkai_scheduler.domain.routers import Router
from unkai_scheduler.domain.security_groups import Rule, SecurityGroup
from unkai_scheduler.ovn.northbound.names import (
    group_name,
    in_router,
    name_of,
    router_port_name,
    switch_uuid,
)
from unkai_scheduler.ovn.northbound.security_groups import match
from unkai_scheduler.ovn.trace_tree import Step, Way
from unkai_scheduler.services.reachability_checks import Place, at
from unkai_scheduler.services.reachability_rules import said
from unkai_scheduler.services.reachability_scene import Scene

_GROUP = re.compile(r"[io][nu]t?port == @(pg_[0-9a-f_]+)")
_BACKEND = re.compile(r"ct_lb(?:_mark)?\(backends=(.*?)(?:;.*)?\);")
_ROUTE = re.compile(r"ip[46]\.(?:dst|src) == ([0-9a-f.:]+/\d+)")
_ECHO_REPLY = re.compile(r"icmp4\.type = 0;|icmp6\.type = 129;")
_OUT = re.compile(r'outport = "([^"]+)"')
_VIA = re.compile(r"(?:xx)?reg0 = ([0-9a-f]*[.:][0-9a-f.:]*);")


@dataclass(frozen=True)
class Reading:
    """A packet's way, and the scene that it is read in."""

    scene: Scene
    way: Way
    source: str
    """The packet's addresses as it began."""
    destination: str
    answer: bool = False
    handing: Mapping[str, int] = field(default_factory=dict)
    """Cookies of the flows that hand packets to ports, by the port's name in OVN."""

    @cached_property
    def networks(self) -> Mapping[str, Network]:
        """By the UUID of the northbound row."""
        return {str(switch_uuid(some.id)): some for some in self.scene.networks.values()}

    @cached_property
    def routers(self) -> Mapping[str, Router]:
        """By the UUID of the northbound row."""
        return {str(in_router(some.id, "ports").uuid): some for some in self.scene.routers.values()}

    @cached_property
    def ports(self) -> Mapping[str, Port]:
        """By the name of either end in OVN."""
        known = self.scene.ports.values()
        return {name_of(some.id): some for some in known} | {
            router_port_name(some.id): some for some in known
        }

    @cached_property
    def groups(self) -> Mapping[str, SecurityGroup]:
        """By the port group's name."""
        return {group_name(some.id): some for some in self.scene.groups.values()}

    @property
    def last(self) -> Step:
        """Where it ended."""
        return self.way.steps[-1]

    @property
    def seen_source(self) -> str:
        """The address that the other end sees, where it is not the source's own; else empty."""
        return "" if self.last_source == self.scene.source_address else self.last_source

    @property
    def last_source(self) -> str:
        """The address that it comes from at the end."""
        return self._changed("src") or self.source

    @property
    def seen_destination(self) -> str:
        """The address that it is for at the end."""
        return self._changed("dst") or self.destination

    def _changed(self, field: str) -> str:
        found = ""
        for step in self.way.steps:
            name, _, address = step.changes.partition("=")
            if name.endswith(f".{field}"):
                found = address
        return found

    @property
    def next_hop(self) -> tuple[Port, str] | None:
        """The port that a router last sent it by, and the address it is sent to there."""
        for step in reversed(self.way.steps):
            if step.stage == "lr_in_ip_routing":
                text = " ".join(step.actions)
                out, via = _OUT.search(text), _VIA.search(text)
                port = self.ports.get(out[1]) if out else None
                return (port, via[1] if via else self.seen_destination) if port else None
        return None

    @property
    def leaving_by(self) -> Router | None:
        """The router whose gateway it leaves by at the end."""
        hop = self.next_hop
        if hop is None or hop[0].owner is not PortOwner.GATEWAY:
            return None
        return self.scene.routers.get(hop[0].owner_id)

    @property
    def has_entered_router(self) -> bool:
        """Whether a router has taken it."""
        return any(step.datapath in self.routers for step in self.way.steps)

    @property
    def is_answered_by_router(self) -> bool:
        """Whether a router itself answers a ping. What it sends then is no new connection."""
        return any(
            step.stage == "lr_in_ip_input" and _ECHO_REPLY.search(" ".join(step.actions))
            for step in self.way.steps
        )

    def hops(self, *, before: str = "") -> Iterator[Hop]:
        """Yield what the packet passed, where it is something of the user's.

        `before`: of which stages on not, by the beginning of the name.
        """
        for step in self.way.steps:
            if before and step.stage.startswith(before):
                return
            found = self._hop(step)
            if step.stage == "lr_in_ip_input" and self.is_answered_by_router:
                message = "answers the ping itself"
                yield Hop(*self.place_of(step), message, answer=True, cookies=cookies_of(step))
                return
            if found is not None:
                place, message = found
                yield Hop(*place, message, answer=self.answer, cookies=self._cookies_of(step))

    def _cookies_of(self, step: Step) -> tuple[int, ...]:
        """Return the cookies of a step; what hands over is one flow of all ports in OVN's words."""
        if step.stage.startswith("ls_out_") and step.stage != "ls_out_acl":
            return (self.handing[step.outport],) if step.outport in self.handing else ()
        return cookies_of(step)

    def place_of(self, step: Step) -> Place:
        """Return the network or router whose flow it is."""
        if network := self.networks.get(step.datapath):
            return at("network", network)
        if router := self.routers.get(step.datapath):
            return at("router", router)
        return Place("network", "", "")

    def rule_of(self, step: Step) -> tuple[SecurityGroup, Rule] | None:
        """Return the rule that a flow is derived from."""
        named = _GROUP.search(step.match)
        group = self.groups.get(named[1]) if named else None
        for rule in group.rules if group else ():
            for version in (4, 6):
                if group and f"({match(group.id, rule, version)})" in step.match:
                    return group, rule
        return None

    def _hop(self, step: Step) -> tuple[Place, str] | None:
        if step.stage in {"ls_in_acl", "ls_out_acl"}:
            return self._allowed(step)
        if step.stage in {"ls_in_lb", "lr_in_dnat"} and _BACKEND.search(" ".join(step.actions)):
            return self._balanced(step)
        if step.stage in {"lr_in_dnat", "lr_out_snat"} and step.changes:
            return self._translated(step)
        if step.stage == "lr_in_ip_routing" and step.actions != ("drop;",):
            return self._routed(step)
        if step.stage in {"ls_out_apply_port_sec", "ls_out_port_sec_l2"}:
            return self._handed_over(step)
        return None

    def _allowed(self, step: Step) -> tuple[Place, str] | None:
        found = self.rule_of(step)
        if found is None or step.actions == ("drop;",):
            return None
        group, rule = found
        way = "in" if step.stage == "ls_out_acl" else "out"
        return at("security_group", group), f"rule {rule.id} lets {said(rule, self.scene)} {way}"

    def _balanced(self, step: Step) -> tuple[Place, str] | None:
        balancer = self.scene.balancer
        named = _BACKEND.search(" ".join(step.actions))
        if balancer is None or named is None:
            return None
        return at("load_balancer", balancer), f"sends it on to one of {named[1]}"

    def _translated(self, step: Step) -> tuple[Place, str]:
        field, _, address = step.changes.partition("=")
        for floating in self.scene.floating_ips.values():
            if field.endswith(".dst") and f"== {floating.address} " in f"{step.match} ":
                return at("floating_ip", floating), f"{floating.address} leads to {address}"
            if field.endswith(".src") and floating.address == address:
                return at("floating_ip", floating), f"it goes out as {address}"
        what = "goes out as" if field.endswith(".src") else "is for"
        return self.place_of(step), f"it {what} {address}"

    def _routed(self, step: Step) -> tuple[Place, str]:
        text = " ".join(step.actions)
        out = _OUT.search(text)
        port = self.ports.get(out[1]) if out else None
        network = self.scene.networks.get(port.network_id) if port else None
        route = _ROUTE.search(step.match)
        via = _VIA.search(text)
        words = f"sends it by network {network.name}" if network else "sends it on"
        if route:
            words += f", by its route to {route[1]}"
        if via:
            words += f" via {via[1]}"
        return self.place_of(step), words

    def _handed_over(self, step: Step) -> tuple[Place, str] | None:
        """Tell of ports of machines, and of the way out; those of routers say so themselves."""
        port = self.ports.get(step.outport)
        if port is not None and port.owner in {None, PortOwner.INSTANCE}:
            if step.actions == ("drop;",):
                return None
            return at("port", port), f"hands it to {self.scene.called(port)}"
        if step.outport.startswith("phys-"):
            return self.place_of(step), "lets it out of the cloud"
        return None


def cookies_of(step: Step) -> tuple[int, ...]:
    """Return the cookie of the flows that a step is, on the hosts."""
    return (int(step.uuid, 16),) if step.uuid else ()
