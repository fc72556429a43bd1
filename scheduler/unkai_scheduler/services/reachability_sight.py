"""What OVN sees and its flows do not say: where ports are, which members are well. Pure.

A trace passes all the same where nobody is at the other end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from unkai_scheduler.domain.hosts import HostState
from unkai_scheduler.domain.load_balancers import Member
from unkai_scheduler.domain.networks import Network
from unkai_scheduler.domain.ports import Port, PortOwner
from unkai_scheduler.domain.reachability import Reachability
from unkai_scheduler.domain.routers import Router
from unkai_scheduler.ovn.northbound.names import name_of, router_port_name
from unkai_scheduler.ovn.trace import Sight
from unkai_scheduler.services.reachability_checks import POWERED, Place, at, blocked, listener_of
from unkai_scheduler.services.reachability_routes import (
    holder_of,
    is_on_link,
    next_hop,
    own_subnet,
    router_of,
)
from unkai_scheduler.services.reachability_scene import Scene
from unkai_wire.cluster_records import FORWARDS_NOTHING

MAX_GATEWAYS = 64
"""Of a scene's routers; those that the packet surely passes come first."""
_ILL = frozenset({"offline", "error"})


def names_to_look_at(scene: Scene) -> list[str]:
    """Return the names in OVN of what must be somewhere."""
    ends = [port for port in (scene.source, scene.end) if port]
    ends += [scene.ports[member.port_id] for member in members(scene)]
    names = [name_of(port.id) for port in ends]
    leading_out = sorted(scene.routers.values(), key=lambda some: some not in gateways(scene))
    names += [name for some in leading_out[:MAX_GATEWAYS] if (name := gateway_name(some))]
    names += [physical_name(some) for some in scene.networks.values() if some.physical_network]
    return list(dict.fromkeys(names))


def physical_name(network: Network) -> str:
    """Return the name of a network's way to the operator's."""
    return f"phys-{name_of(network.id)}"


def gateway_name(router: Router) -> str:
    """Return the name of the place of a router's gateway; empty without one."""
    return f"cr-{router_port_name(router.gateway.port_id)}" if router.gateway else ""


def gateways(scene: Scene) -> list[Router]:
    """Return the routers whose gateway the packet passes."""
    found = [] if scene.source is None else _out_of(scene)
    if floating := scene.floating:
        found += [scene.routers[i] for i in (floating.router_id,) if i in scene.routers]
    return list({router.id: router for router in found}.values())


def _out_of(scene: Scene) -> list[Router]:
    subnet, source = own_subnet(scene), scene.source
    if subnet is None or source is None or is_on_link(scene, subnet):
        return []
    holder = holder_of(scene, source.network_id, next_hop(scene, subnet))
    router = router_of(scene, holder) if holder else None
    if router is None or router.gateway is None:
        return []
    inside = {
        known.network_id
        for interface in router.interfaces
        if (known := scene.subnets.get(interface.subnet_id))
    }
    stays = scene.target is not None and scene.target.network_id in inside
    return [] if stays else [router]


def members(scene: Scene) -> list[Member]:
    """Return the members of the listener that the question is about."""
    listener = listener_of(scene)
    return [
        member
        for member in (listener.members if listener else ())
        if member.address and member.port_id in scene.ports
    ]


def well(scene: Scene, sight: Sight) -> list[Member]:
    """Return the members that may be chosen, as OVN sees it."""
    listener = listener_of(scene)
    number = listener.port_number if listener else 0
    return [
        member
        for member in members(scene)
        if sight.monitors.get((member.address, member.port_number or number), "") not in _ILL
    ]


def troubles(scene: Scene, sight: Sight) -> str:
    """Say which hosts of both ends do not learn of changes; empty: all do, as far as is known."""
    names = [name_of(port.id) for port in (scene.source, scene.end) if port]
    ids = dict.fromkeys(sight.bindings[name].host for name in names if name in sight.bindings)
    known = [scene.hosts[ident] for ident in ids if ident in scene.hosts]
    return "; ".join(
        f"host {host.name} may lag behind: {host.network_problem}"
        for host in known
        if host.network_problem
    )


def unseen(scene: Scene, sight: Sight) -> Reachability | None:
    """Return what stands in the way by what OVN sees; None: nothing."""
    for found in _obstacles(scene, sight):
        return found
    return None


def _obstacles(scene: Scene, sight: Sight) -> Iterator[Reachability]:
    yield from _down(scene, sight, [port for port in (scene.source, scene.end) if port])
    for router in gateways(scene):
        if found := gateway_lost(scene, sight, router):
            yield found
    if scene.balancer is not None:
        yield from _balancer(scene, sight)


def gateway_lost(scene: Scene, sight: Sight, router: Router) -> Reachability | None:
    """Return that no host, or a silent one, carries a router's gateway; None: one does."""
    binding = sight.bindings.get(gateway_name(router))
    if binding is None or not binding.host:
        return blocked(
            "NO_GATEWAY_HOST",
            f"no host carries the gateway of router {router.name}",
            "see that a host that reaches the external network is there and answers, with "
            "'unkai host list'",
            at("router", router),
        )
    return _unfit(scene, binding.host, f"carries the gateway of router {router.name}")


def _unfit(scene: Scene, host_id: str, what: str) -> Reachability | None:
    """Return that a host is silent, or its switch forwards nothing; None: neither is known."""
    host = scene.hosts.get(host_id)
    if host is None:
        return None
    where = Place("host", host.id, host.name)
    if host.state is HostState.UNKNOWN:
        return blocked(
            "HOST_SILENT",
            f"host {host.name}, which {what}, is silent: it is down, or cut off (where its agent "
            "alone is away, what runs there goes on and is reached)",
            f"see what is with it: 'unkai host show {host.name}'",
            where,
        )
    if FORWARDS_NOTHING in host.network_problem:
        return blocked(
            "SWITCH_DOWN",
            f"on host {host.name}, which {what}: {host.network_problem}",
            "restart openvswitch-switch there; 'unkai doctor' on that host says more",
            where,
        )
    return None


def _balancer(scene: Scene, sight: Sight) -> Iterator[Reachability]:
    balancer = scene.balancer
    assert balancer is not None
    chosen = well(scene, sight)
    if not chosen:
        yield blocked(
            "NO_HEALTHY_MEMBER",
            f"none of the members of load balancer {balancer.name} is well",
            f"see what they are with 'unkai load-balancer show {balancer.name}'",
            at("load_balancer", balancer),
        )
    for member in chosen:
        port = scene.ports[member.port_id]
        instance = scene.instance_of(port)
        binding = sight.bindings.get(name_of(port.id))
        if binding and (unfit := _unfit(scene, binding.host, f"has {scene.called(port)}")):
            yield unfit
        if instance is None or instance.state not in POWERED or not (binding and binding.up):
            yield blocked(
                "MEMBER_DOWN",
                f"load balancer {balancer.name} sends connections to {scene.called(port)}, which "
                "is down",
                f"start it, or 'unkai load-balancer remove-member {balancer.name}', or add the "
                "listener anew with a health check",
                at("port", port),
            )


def _down(scene: Scene, sight: Sight, ports: Iterable[Port]) -> Iterator[Reachability]:
    for port in ports:
        if port.owner not in {None, PortOwner.INSTANCE}:
            continue
        binding = sight.bindings.get(name_of(port.id))
        called = scene.called(port)
        if binding is None:
            yield blocked(
                "NOT_IN_OVN",
                f"OVN does not have the port of {called} yet",
                f"wait until it is no longer reconciling: 'unkai port show {port.name}'",
                at("port", port),
            )
        elif not binding.host or not binding.up:
            if unfit := _unfit(scene, binding.host, f"has {called}"):
                yield unfit
            where = " on its host" if binding.host else ""
            yield blocked(
                "PORT_DOWN",
                f"the port of {called} is not up{where}: no switch there has it",
                "see that Open vSwitch and ovn-controller run on the instance's host, with "
                "'unkai doctor'",
                at("port", port),
            )
        elif unfit := _unfit(scene, binding.host, f"has {called}"):
            yield unfit
