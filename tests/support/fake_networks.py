"""The services of networks as one dictionary behind a `FakeApi`: for tests of commands.

It keeps what it is told, checks etags, and fills in what a server would (ids, addresses); of the
rules that the real services have it knows none. Refusals are scripted, as of any `FakeApi`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.support.builders import NOON
from tests.support.fake_api import FakeApi
from unkai.compute.v1 import instance_pb2, instance_service_pb2
from unkai.identity.v1 import project_pb2, project_service_pb2
from unkai.network.v1 import (
    floating_ip_pb2,
    floating_ip_service_pb2,
    load_balancer_pb2,
    load_balancer_service_pb2,
    network_pb2,
    network_service_pb2,
    port_pb2,
    port_service_pb2,
    reachability_pb2,
    reachability_service_pb2,
    router_pb2,
    router_service_pb2,
    security_group_pb2,
    security_group_service_pb2,
    subnet_pb2,
    subnet_service_pb2,
)
from unkai.operation.v1 import operation_pb2
from unkai_wire import ids
from unkai_wire.errors import Conflict, NotFound

MESSAGES: dict[str, tuple[Any, Any]] = {
    "network": (network_pb2.Network, network_service_pb2),
    "subnet": (subnet_pb2.Subnet, subnet_service_pb2),
    "port": (port_pb2.Port, port_service_pb2),
    "router": (router_pb2.Router, router_service_pb2),
    "floating_ip": (floating_ip_pb2.FloatingIp, floating_ip_service_pb2),
    "security_group": (security_group_pb2.SecurityGroup, security_group_service_pb2),
    "load_balancer": (load_balancer_pb2.LoadBalancer, load_balancer_service_pb2),
    "instance": (instance_pb2.Instance, instance_service_pb2),
    "project": (project_pb2.Project, project_service_pb2),
}
_READ_ONLY = {"instance", "project"}
_PAGING = {"page_size", "page_token", "id_prefix", "label_selector", "states"}


class FakeNetworks:
    """A project's networks and the instances on them."""

    def __init__(self, api: FakeApi) -> None:
        self.api = api
        self.rows: dict[str, dict[str, Any]] = {kind: {} for kind in MESSAGES}
        self.looks = 0
        """How many looks at what was changed find OVN behind."""
        self._behind: dict[str, int] = {}
        self._changes = 0
        self.project = self.add("project", name="default")
        for kind in MESSAGES:
            self._serve(kind)
        self._serve_acts()

    def add(self, kind: str, **fields: Any) -> Any:
        """Put one there as a server would have made it; return it."""
        message = MESSAGES[kind][0](**fields)
        return self._keep(kind, message)

    def machine(self, name: str, network_id: str, *addresses: str) -> str:
        """Put an instance with a port there; return the port's id."""
        instance = self.add("instance", name=name)
        port = self.add(
            "port",
            network_id=network_id,
            owner=port_pb2.Port.OWNER_INSTANCE,
            owner_id=instance.id,
            fixed_addresses=[port_pb2.FixedAddress(address=each) for each in addresses],
        )
        return str(port.id)

    def all(self, kind: str) -> list[Any]:
        """Return what there is of a kind, oldest first."""
        return list(self.rows[kind].values())

    def one(self, kind: str, name: str) -> Any:
        """Return the only one of this name."""
        (found,) = (row for row in self.all(kind) if row.name == name)
        return found

    def _keep(self, kind: str, message: Any) -> Any:
        number = len(self.rows[kind]) + 1
        message.id = message.id or ids.new_id(kind)
        if kind != "project":
            message.project_id = message.project_id or self.project.id
        message.create_time.FromDatetime(NOON)
        if kind in ("port", "floating_ip") and not message.name:
            message.name = f"{kind.replace('_', '-')}-{number}"
        _fill(kind, message, number, self.rows)
        return self._changed(kind, message)

    def _changed(self, kind: str, message: Any) -> Any:
        self._changes += 1
        message.etag = f"e{self._changes}"
        if kind == "floating_ip":
            owner = self.rows["port"].get(message.port_id)
            message.instance_id = ""
            if owner is not None and owner.owner == port_pb2.Port.OWNER_INSTANCE:
                message.instance_id = owner.owner_id
        if kind not in _READ_ONLY:
            message.reconciling = self.looks > 0
            self._behind[message.id] = self.looks
        self.rows[kind][message.id] = message
        return message

    def _get(self, kind: str, ident: str) -> Any:
        if ident not in self.rows[kind]:
            raise NotFound.of(kind, ident)
        message = self.rows[kind][ident]
        if self._behind.get(ident):
            self._behind[ident] -= 1
            message.reconciling = self._behind[ident] > 0
        return message

    def _serve(self, kind: str) -> None:
        module = MESSAGES[kind][1]
        noun = "".join(part.capitalize() for part in kind.split("_"))

        def served(verb: str, act: Callable[[Any], dict[str, Any]]) -> None:
            answer = getattr(module, f"{verb}{noun}{'s' * (verb == 'List')}Response")
            name = f"{verb}{noun}{'s' * (verb == 'List')}"
            self.api.script(name, lambda request: answer(**act(request)))

        served("List", lambda request: {f"{kind}s": self._matching(kind, request)})
        served("Get", lambda request: {kind: self._get(kind, getattr(request, f"{kind}_id"))})
        if kind in _READ_ONLY:
            return
        served("Create", lambda request: {kind: self._create(kind, request)})
        served("Update", lambda request: {kind: self._update(kind, request)})
        served("Delete", lambda request: self._delete(kind, getattr(request, f"{kind}_id")))

    def _matching(self, kind: str, request: Any) -> list[Any]:
        wanted = {
            field.name: value
            for field, value in request.ListFields()
            if field.name not in _PAGING and value
        }
        return sorted(
            (row for row in self.all(kind) if all(_has(row, *pair) for pair in wanted.items())),
            key=lambda row: row.name,
        )

    def _create(self, kind: str, request: Any) -> Any:
        message = MESSAGES[kind][0]()
        message.CopyFrom(getattr(request, kind))
        message.project_id = request.project_id
        return self._keep(kind, message)

    def _update(self, kind: str, request: Any) -> Any:
        given = getattr(request, kind)
        message = self._checked(kind, given.id, given.etag)
        for path in request.update_mask.paths:
            message.ClearField(path)
        chosen = type(given)()
        request.update_mask.MergeMessage(given, chosen, True, True)
        message.MergeFrom(chosen)
        return self._changed(kind, message)

    def _checked(self, kind: str, ident: str, etag: str) -> Any:
        message = self._get(kind, ident)
        if etag and etag != message.etag:
            raise Conflict("somebody else was quicker", reason="ETAG_MISMATCH")
        return message

    def _delete(self, kind: str, ident: str) -> dict[str, Any]:
        self._get(kind, ident)
        del self.rows[kind][ident]
        return {}

    def _serve_acts(self) -> None:
        script = self.api.script
        script("AttachPort", self._attach)
        script("DetachPort", self._detach)
        script("AddRouterInterface", self._add_interface)
        script("RemoveRouterInterface", self._remove_interface)
        script("AddSecurityGroupRule", self._add_rule)
        script("RemoveSecurityGroupRule", self._remove_rule)

    def _attach(self, request: Any) -> Any:
        port = self._checked("port", request.port_id, request.etag)
        port.owner, port.owner_id = port_pb2.Port.OWNER_INSTANCE, request.instance_id
        port.state = port_pb2.Port.STATE_ACTIVE
        self._changed("port", port)
        return port_service_pb2.AttachPortResponse(port=port, operation=_done())

    def _detach(self, request: Any) -> Any:
        port = self._checked("port", request.port_id, request.etag)
        port.owner, port.owner_id = port_pb2.Port.OWNER_UNSPECIFIED, ""
        port.state = port_pb2.Port.STATE_DOWN
        self._changed("port", port)
        return port_service_pb2.DetachPortResponse(port=port, operation=_done())

    def _add_interface(self, request: Any) -> Any:
        router = self._checked("router", request.router_id, request.etag)
        place = router.interfaces.add()
        place.CopyFrom(request.interface)
        place.address = place.address or self._get("subnet", place.subnet_id).gateway_address
        self._changed("router", router)
        return router_service_pb2.AddRouterInterfaceResponse(router=router)

    def _remove_interface(self, request: Any) -> Any:
        router = self._checked("router", request.router_id, request.etag)
        kept = [place for place in router.interfaces if place.subnet_id != request.subnet_id]
        del router.interfaces[:]
        router.interfaces.extend(kept)
        self._changed("router", router)
        return router_service_pb2.RemoveRouterInterfaceResponse(router=router)

    def _add_rule(self, request: Any) -> Any:
        group = self._get("security_group", request.security_group_id)
        rule = group.rules.add()
        rule.CopyFrom(request.rule)
        rule.id = ids.new_id("security_group_rule")
        self._changed("security_group", group)
        return security_group_service_pb2.AddSecurityGroupRuleResponse(
            security_group=group, rule=rule
        )

    def _remove_rule(self, request: Any) -> Any:
        for group in self.all("security_group"):
            for rule in group.rules:
                if rule.id == request.rule_id:
                    group.rules.remove(rule)
                    self._changed("security_group", group)
                    return security_group_service_pb2.RemoveSecurityGroupRuleResponse(
                        security_group=group
                    )
        raise NotFound.of("security_group_rule", request.rule_id)


def _has(row: Any, field: str, value: Any) -> bool:
    if field == "security_group_id":
        return value in row.security_group_ids
    found: Any = getattr(row, field)
    return bool(found == value)


def _fill(kind: str, message: Any, number: int, rows: dict[str, dict[str, Any]]) -> None:
    """Fill in what a server would."""
    match kind:
        case "network":
            message.type = message.type or network_pb2.Network.TYPE_OVERLAY
            message.mtu = message.mtu or 1442
        case "subnet":
            first = message.cidr.partition("/")[0].removesuffix("0") + "1"
            message.gateway_address = "" if message.no_gateway else message.gateway_address or first
            message.address_count = message.address_count or 253
        case "port":
            if not message.fixed_addresses:
                message.fixed_addresses.add()
            for fixed in message.fixed_addresses:
                fixed.address = fixed.address or f"10.0.0.{number + 9}"
            message.mac_address = message.mac_address or f"02:00:00:00:00:{number:02x}"
            message.state = message.state or port_pb2.Port.STATE_DOWN
        case "floating_ip":
            message.address = message.address or f"192.0.2.{number + 9}"
        case "load_balancer":
            message.address = message.address or f"10.0.0.{number + 99}"
        case "security_group":
            for rule in message.rules:
                rule.id = rule.id or ids.new_id("security_group_rule")
        case _:
            pass


def _done() -> operation_pb2.Operation:
    """Return an operation that has ended well."""
    return operation_pb2.Operation(
        id=ids.new_id("operation"),
        state=operation_pb2.Operation.STATE_SUCCEEDED,
        resource_kind="instance",
        progress_message="done",
    )


def blocked() -> reachability_service_pb2.ExplainResponse:
    """Return an answer: the packet ends at the far port's group."""
    hop = reachability_pb2.Reachability.Hop
    return reachability_service_pb2.ExplainResponse(
        reachability=reachability_pb2.Reachability(
            verdict=reachability_pb2.Reachability.VERDICT_UNREACHABLE,
            reason="NO_INGRESS_RULE",
            summary="no rule of security group db lets TCP 5432 from 10.0.0.5 in",
            fix="unkai security-group rule add db ingress tcp 5432 from 10.0.0.5/32",
            hops=[
                hop(resource_kind="port", resource_name="web-0", message="lets it out"),
                hop(resource_kind="network", resource_name="back", message="carries it"),
                hop(
                    resource_kind="security_group",
                    resource_name="db",
                    message="has no rule that lets it in",
                    dropped=True,
                ),
            ],
            trace="ingress(dp=back)\n 0. ls_in_check_port_sec\n",
        )
    )
