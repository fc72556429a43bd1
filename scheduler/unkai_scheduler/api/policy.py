"""Who may call what, how long it may take, and whether only the leader can answer.

One table, read from top to bottom by people. A method that is not listed is refused; a test
compares the table with the contracts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from unkai_wire.deadlines import DIAGNOSE_S, READ_S, WAIT_MAX_S, WRITE_S
from unkai_wire.errors import PermissionDenied
from unkai_wire.tls import MONITORS_READ, Principal, Role

USERS = frozenset({Role.LOCAL, Role.CLIENT})
"""People and programs; all rights until users come."""
DOWNLOADERS = USERS | {Role.HOST, Role.FLEET, Role.SCHEDULER}
"""Agents fetch image bytes from any scheduler."""
PEERS = frozenset({Role.SCHEDULER})
EVERYBODY = frozenset(Role)
"""A monitor too: whether a daemon serves is what it watches, and all that it may ask here."""
_WAIT_S = WAIT_MAX_S + READ_S


@dataclass(frozen=True, slots=True)
class Rule:
    """What is said of one method."""

    roles: frozenset[Role]
    deadline_s: float | None
    """Longest it may take; None: a stream that its caller ends."""
    writes: bool = False
    """It changes something: each call is logged."""
    live: bool = False
    """It needs what only the leader knows: other schedulers pass it on."""
    alone: bool = False
    """It does without that while nobody leads."""
    waits: bool = False
    """It mostly waits for news: ended at once when the scheduler stops."""


def _read(*, live: bool = False) -> Rule:
    return Rule(USERS, READ_S, live=live, alone=live)


def _write(*, live: bool = False) -> Rule:
    return Rule(USERS, WRITE_S, writes=True, live=live)


def _console(*, writes: bool = False) -> Rule:
    return Rule(USERS, None, live=True, alone=True, writes=writes, waits=True)


def _watch(*, live: bool = False) -> Rule:
    return Rule(USERS, None, live=live, waits=True)


TABLE: Mapping[str, Rule] = {
    "/unkai.compute.v1.InstanceService/CreateInstance": _write(),
    "/unkai.compute.v1.InstanceService/BatchCreateInstances": _write(),
    "/unkai.compute.v1.InstanceService/GetInstance": _read(),
    "/unkai.compute.v1.InstanceService/ListInstances": _read(),
    "/unkai.compute.v1.InstanceService/UpdateInstance": _write(),
    "/unkai.compute.v1.InstanceService/DeleteInstance": _write(),
    "/unkai.compute.v1.InstanceService/StartInstance": _write(),
    "/unkai.compute.v1.InstanceService/StopInstance": _write(),
    "/unkai.compute.v1.InstanceService/RebootInstance": _write(),
    "/unkai.compute.v1.InstanceService/AdoptInstance": _write(live=True),
    "/unkai.compute.v1.InstanceService/ReadConsoleLog": _console(),
    "/unkai.compute.v1.InstanceService/AttachConsole": _console(writes=True),
    "/unkai.compute.v1.InstanceService/Forward": Rule(USERS, None, writes=True, waits=True),
    "/unkai.compute.v1.FlavorService/CreateFlavor": _write(),
    "/unkai.compute.v1.FlavorService/GetFlavor": _read(),
    "/unkai.compute.v1.FlavorService/ListFlavors": _read(),
    "/unkai.compute.v1.FlavorService/UpdateFlavor": _write(),
    "/unkai.compute.v1.FlavorService/DeleteFlavor": _write(),
    "/unkai.compute.v1.KeyPairService/CreateKeyPair": _write(),
    "/unkai.compute.v1.KeyPairService/GetKeyPair": _read(),
    "/unkai.compute.v1.KeyPairService/ListKeyPairs": _read(),
    "/unkai.compute.v1.KeyPairService/DeleteKeyPair": _write(),
    "/unkai.compute.v1.PlacementGroupService/CreatePlacementGroup": _write(),
    "/unkai.compute.v1.PlacementGroupService/GetPlacementGroup": _read(),
    "/unkai.compute.v1.PlacementGroupService/ListPlacementGroups": _read(),
    "/unkai.compute.v1.PlacementGroupService/UpdatePlacementGroup": _write(),
    "/unkai.compute.v1.PlacementGroupService/DeletePlacementGroup": _write(),
    "/unkai.storage.v1.ImageService/CreateImage": _write(),
    "/unkai.storage.v1.ImageService/UploadImage": Rule(USERS, None, writes=True),
    "/unkai.storage.v1.ImageService/DownloadImage": Rule(DOWNLOADERS, None),
    "/unkai.storage.v1.ImageService/GetImage": _read(),
    "/unkai.storage.v1.ImageService/ListImages": _read(),
    "/unkai.storage.v1.ImageService/DeleteImage": _write(),
    "/unkai.host.v1.HostService/GetHost": _read(live=True),
    "/unkai.host.v1.HostService/ListHosts": _read(live=True),
    "/unkai.host.v1.HostService/UpdateHost": _write(),
    "/unkai.host.v1.HostService/CordonHost": _write(),
    "/unkai.host.v1.HostService/UncordonHost": _write(),
    "/unkai.host.v1.HostService/RemoveHost": _write(live=True),
    "/unkai.host.v1.HostService/WatchUsage": _watch(live=True),
    "/unkai.host.v1.AggregateService/CreateAggregate": _write(),
    "/unkai.host.v1.AggregateService/GetAggregate": _read(),
    "/unkai.host.v1.AggregateService/ListAggregates": _read(),
    "/unkai.host.v1.AggregateService/UpdateAggregate": _write(),
    "/unkai.host.v1.AggregateService/DeleteAggregate": _write(),
    "/unkai.host.v1.AggregateService/AddAggregateHosts": _write(),
    "/unkai.host.v1.AggregateService/RemoveAggregateHosts": _write(),
    "/unkai.host.v1.AuditService/ListFindings": Rule(USERS, READ_S, live=True),
    "/unkai.host.v1.HostService/DiagnoseHost": Rule(USERS, DIAGNOSE_S),
    "/unkai.host.v1.HostService/DiagnoseScheduler": Rule(USERS, DIAGNOSE_S),
    "/unkai.host.v1.PlacementService/Explain": _read(),
    "/unkai.host.v1.PlacementService/ReplayDecision": _read(live=True),
    "/unkai.host.v1.PlacementService/Simulate": Rule(USERS, READ_S, live=True),
    "/unkai.host.v1.PlacementService/SimulateLosses": Rule(USERS, READ_S, live=True),
    "/unkai.operation.v1.OperationService/GetOperation": _read(),
    "/unkai.operation.v1.OperationService/ListOperations": _read(),
    "/unkai.operation.v1.OperationService/WaitOperation": Rule(USERS, _WAIT_S, waits=True),
    "/unkai.operation.v1.OperationService/CancelOperation": _write(),
    "/unkai.event.v1.EventService/ListEvents": _read(),
    "/unkai.event.v1.EventService/WatchEvents": _watch(),
    "/unkai.identity.v1.ProjectService/CreateProject": _write(),
    "/unkai.identity.v1.ProjectService/GetProject": _read(),
    "/unkai.identity.v1.ProjectService/ListProjects": _read(),
    "/unkai.identity.v1.ProjectService/UpdateProject": _write(),
    "/unkai.identity.v1.ProjectService/DeleteProject": _write(),
    "/unkai.network.v1.NetworkService/CreateNetwork": _write(),
    "/unkai.network.v1.NetworkService/GetNetwork": _read(),
    "/unkai.network.v1.NetworkService/ListNetworks": _read(),
    "/unkai.network.v1.NetworkService/UpdateNetwork": _write(),
    "/unkai.network.v1.NetworkService/DeleteNetwork": _write(),
    "/unkai.network.v1.SubnetService/CreateSubnet": _write(),
    "/unkai.network.v1.SubnetService/GetSubnet": _read(),
    "/unkai.network.v1.SubnetService/ListSubnets": _read(),
    "/unkai.network.v1.SubnetService/UpdateSubnet": _write(),
    "/unkai.network.v1.SubnetService/DeleteSubnet": _write(),
    "/unkai.network.v1.PortService/CreatePort": _write(),
    "/unkai.network.v1.PortService/GetPort": _read(),
    "/unkai.network.v1.PortService/ListPorts": _read(),
    "/unkai.network.v1.PortService/UpdatePort": _write(),
    "/unkai.network.v1.PortService/DeletePort": _write(),
    "/unkai.network.v1.PortService/AttachPort": _write(),
    "/unkai.network.v1.PortService/DetachPort": _write(),
    "/unkai.network.v1.SecurityGroupService/CreateSecurityGroup": _write(),
    "/unkai.network.v1.SecurityGroupService/GetSecurityGroup": _read(),
    "/unkai.network.v1.SecurityGroupService/ListSecurityGroups": _read(),
    "/unkai.network.v1.SecurityGroupService/UpdateSecurityGroup": _write(),
    "/unkai.network.v1.SecurityGroupService/DeleteSecurityGroup": _write(),
    "/unkai.network.v1.SecurityGroupService/AddSecurityGroupRule": _write(),
    "/unkai.network.v1.SecurityGroupService/RemoveSecurityGroupRule": _write(),
    "/unkai.network.v1.RouterService/CreateRouter": _write(),
    "/unkai.network.v1.RouterService/GetRouter": _read(),
    "/unkai.network.v1.RouterService/ListRouters": _read(),
    "/unkai.network.v1.RouterService/UpdateRouter": _write(),
    "/unkai.network.v1.RouterService/DeleteRouter": _write(),
    "/unkai.network.v1.RouterService/AddRouterInterface": _write(),
    "/unkai.network.v1.RouterService/RemoveRouterInterface": _write(),
    "/unkai.network.v1.FloatingIpService/CreateFloatingIp": _write(),
    "/unkai.network.v1.FloatingIpService/GetFloatingIp": _read(),
    "/unkai.network.v1.FloatingIpService/ListFloatingIps": _read(),
    "/unkai.network.v1.FloatingIpService/UpdateFloatingIp": _write(),
    "/unkai.network.v1.FloatingIpService/DeleteFloatingIp": _write(),
    "/unkai.network.v1.LoadBalancerService/CreateLoadBalancer": _write(),
    "/unkai.network.v1.LoadBalancerService/GetLoadBalancer": _read(),
    "/unkai.network.v1.LoadBalancerService/ListLoadBalancers": _read(),
    "/unkai.network.v1.LoadBalancerService/UpdateLoadBalancer": _write(),
    "/unkai.network.v1.LoadBalancerService/DeleteLoadBalancer": _write(),
    "/unkai.network.v1.ReachabilityService/Explain": Rule(USERS, DIAGNOSE_S),
    "/unkai.scheduler.v1.PeerService/Wake": Rule(PEERS, READ_S),
    "/unkai.scheduler.v1.PeerService/Proxy": Rule(PEERS, None, waits=True),
    "/grpc.health.v1.Health/Check": Rule(EVERYBODY, READ_S),
    "/grpc.health.v1.Health/Watch": Rule(EVERYBODY, None, waits=True),
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Rule(USERS, None, waits=True),
}


def allow(principal: Principal, method: str) -> Rule:
    """Return the method's rule if the caller may call it, else raise `PermissionDenied`."""
    rule = TABLE.get(method)
    if rule is None or principal.role not in rule.roles:
        reads_figures = principal.role is Role.MONITOR
        raise PermissionDenied(
            f"{principal} may not call {method}{MONITORS_READ if reads_figures else ''}",
            reason="METHOD_NOT_ALLOWED",
            fix="use a client certificate, or the unix socket as root",
            metadata={"principal": str(principal), "method": method},
        )
    return rule
