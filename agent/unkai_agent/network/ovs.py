"""What is done with the switch: this host's membership in OVN, and its machines' ports.

Decides over rows that `ovs_database.py` read, and writes by it. The trap: after a crash of the host
the database still has the ports, marked as installed, and libvirt would take them over. So rows go,
in a transaction of their own, before a machine starts; one in which a port goes and comes again
changes nothing (Open vSwitch's FAQ, "Common Configuration Issues").
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Mapping, Sequence, Set

from unkai_agent.domain.ports import INTEGRATION_BRIDGE, PortSpec, device_of
from unkai_agent.network.driver import Datapath, JoinSettings, NetworkSite, Wiring
from unkai_agent.network.ovs_database import OvsDatabase, Row, set_map
from unkai_wire.errors import FailedPrecondition
from unkai_wire.ids import uuid_of

_DEVICE = re.compile(r"tap[0-9a-z]{12}")
_OWNER = "unkai-host"
"""Key by which the switch says whose host it is."""
_NETWORK = "unkai-network"
"""Key that marks the port of a network's namespace."""
_FIXED = {
    "ovn-encap-type": "geneve",
    # Without it OVN says that a port is installed before the flows of a network that is new on
    # the host are (fixed in no release yet, OVN commit dd46a88d8).
    "ovn-monitor-all": "true",
    "ovn-remote-probe-interval": "60000",
    # A switch in userspace may be busy for longer than the default of 5 s.
    "ovn-openflow-probe-interval": "30",
    # Keep the flows of before while a restarted ovn-controller learns.
    "ovn-ofctrl-wait-before-clear": "2000",
}
"""Keys of `Open_vSwitch.external_ids` that are the same on all hosts (ovn-controller(8))."""
_MAPPINGS = "ovn-bridge-mappings"
_NULL_SNAT = "ct_zero_snat"
"""Key of a datapath's capabilities: OVN then commits every connection with a translation that
changes nothing. In userspace, Open vSwitch before 3.1.3 (Debian 12 has 3.1.0) aborts when such a
connection has ended and a packet of it comes before it is swept, within 20 s: any guest could end
its host's switch. So OVN is told there that the datapath cannot. What remains: each start of the
switch states it anew, and `SwitchKeeper` takes it back a second or two later; a connection that
begins meanwhile may end the switch once more. It may go when no release before 3.1.3 is supported
(fixed by Open vSwitch commit 1116459b3)."""


class Switch:
    """This host's Open vSwitch."""

    def __init__(self, database: OvsDatabase) -> None:
        self._database = database

    # -- membership ------------------------------------------------------------------------

    async def join(self, settings: JoinSettings) -> None:
        """Let the switch belong to OVN; what is so already is not written."""
        [row] = await self._database.rows("Open_vSwitch", "external_ids", "ssl", "datapaths")
        held: Mapping[str, str] = row["external_ids"]
        if held.get(_OWNER, settings.host_id) != settings.host_id:
            raise _joined_otherwise(held[_OWNER])
        await self._check_datapath(settings.datapath)
        wanted = _membership(settings)
        commands = []
        changed = {key: value for key, value in wanted.items() if held.get(key) != value}
        if changed:
            commands.append(set_map("Open_vSwitch", ".", "external_ids", changed))
        if _MAPPINGS in held and _MAPPINGS not in wanted:
            commands.append(["remove", "Open_vSwitch", ".", "external_ids", _MAPPINGS])
        if settings.tls is not None:
            tls = settings.tls
            files = [str(tls.key), str(tls.certificate), str(tls.ca)]
            if not row["ssl"] or await self._tls_files() != files:
                commands.append(["set-ssl", *files])
        if settings.datapath is Datapath.NETDEV:
            commands += await self._without_null_snat(row["datapaths"])
        await self._database.write("join OVN", *commands)

    async def _without_null_snat(self, datapaths: Mapping[str, str]) -> list[list[str]]:
        """Return what takes the capability back, which the switch states anew at each start."""
        rows = await self._database.rows("Datapath", "_uuid", "capabilities")
        return [
            set_map("Datapath", row["_uuid"], "capabilities", {_NULL_SNAT: "false"})
            for row in rows
            if row["_uuid"] == datapaths.get(Datapath.NETDEV.value)
            and row["capabilities"].get(_NULL_SNAT) == "true"
        ]

    async def _tls_files(self) -> list[str]:
        columns = ("private_key", "certificate", "ca_cert")
        rows = await self._database.rows("SSL", *columns)
        return [str(rows[0][name]) for name in columns] if rows else []

    async def _check_datapath(self, wanted: Datapath) -> None:
        """Refuse to rebuild the datapath under running guests."""
        bridges = await self._database.rows("Bridge", "name", "datapath_type")
        kinds = [row["datapath_type"] for row in bridges if row["name"] == INTEGRATION_BRIDGE]
        if not kinds or (kinds[0] or Datapath.SYSTEM.value) == wanted.value:
            return
        interfaces = await self._database.interfaces()
        guests = [row["name"] for row in interfaces if "vm-id" in row["external_ids"]]
        if guests:
            raise FailedPrecondition(
                f"the switch's datapath is {kinds[0] or 'system'} and {len(guests)} ports of "
                f"machines use it: it cannot become {wanted.value}",
                reason="DATAPATH_IN_USE",
                fix="stop the machines of the host, or set its datapath to what it is",
                metadata={"held": kinds[0] or "system", "wanted": wanted.value},
            )

    # -- machines' ports -------------------------------------------------------------------

    async def clear(self, port_ids: Iterable[str]) -> None:
        """Remove rows of these ports, by the device's name and by the interface id."""
        wanted = list(port_ids)
        names = {device_of(port_id) for port_id in wanted}
        idents = {str(uuid_of(port_id)) for port_id in wanted}
        rows = await self._database.interfaces()
        left = [
            str(row["name"])
            for row in rows
            if row["name"] in names or row["external_ids"].get("iface-id") in idents
        ]
        await self._remove("clear ports", left)

    async def wirings(self, ports: Sequence[PortSpec]) -> Mapping[str, Wiring]:
        """Say how ports stand, by port id."""
        rows = await self._database.interfaces()
        return {port.port_id: wiring_of(port, rows) for port in ports}

    async def sweep(self, running: Set[str]) -> Sequence[str]:
        """Remove ports of machines that are not on and whose device is not there."""
        uuids = {str(uuid_of(instance_id)) for instance_id in running}
        left = [
            str(row["name"])
            for row in await self._database.interfaces()
            if _DEVICE.fullmatch(str(row["name"]))
            and row["external_ids"].get("vm-id", "") not in {"", *uuids}
            and not _device_exists(str(row["name"]))
        ]
        await self._remove("sweep ports", left)
        return left

    # -- networks' ports -------------------------------------------------------------------

    async def plug_site(self, site: NetworkSite, device: str) -> None:
        """Plug the outer end of a network's namespace; what is so already is not written."""
        ids = {"iface-id": site.interface_id, _NETWORK: site.network_id}
        for row in await self._database.interfaces():
            if row["name"] == device and ids.items() <= row["external_ids"].items():
                return
        await self._database.write(
            "plug a network",
            ["--may-exist", "add-port", INTEGRATION_BRIDGE, device],
            set_map("Interface", device, "external_ids", ids),
        )

    async def unplug_sites(self, devices: Iterable[str]) -> None:
        """Unplug networks' namespaces, and wait until the switch has let go of the devices."""
        await self._remove("unplug networks", list(devices))

    async def plugged_sites(self) -> Mapping[str, str]:
        """Return the networks that are plugged here, by device."""
        rows = await self._database.interfaces()
        return {
            str(row["name"]): str(row["external_ids"][_NETWORK])
            for row in rows
            if _NETWORK in row["external_ids"]
        }

    async def _remove(self, act: str, names: Sequence[str]) -> None:
        """Remove ports, wherever they are plugged in, in a transaction of their own."""
        await self._database.write(
            act, *(["--if-exists", "del-port", name] for name in sorted(names))
        )


def wiring_of(port: PortSpec, rows: Sequence[Row]) -> Wiring:
    """Say how a port stands by the switch's interfaces. Pure."""
    found = [row for row in rows if row["external_ids"].get("iface-id") == port.interface_id]
    by_name = [row for row in found if row["name"] == port.device]
    if not by_name:
        return Wiring(False, 0, "PORT_NOT_PLUGGED", "its device is not plugged into the switch")
    row = by_name[0]
    if len(found) > 1:
        # OVN ignores the second and may so keep the real one from being installed.
        others = ", ".join(sorted(str(each["name"]) for each in found if each is not row))
        return Wiring(False, 0, "PORT_DUPLICATE", f"{others} in the switch claims to be it, too")
    if row["error"] or row["ofport"] in ((), -1):
        problem = str(row["error"] or "the switch has not opened its device")
        return Wiring(False, 0, "PORT_NO_DEVICE", problem)
    said: Mapping[str, str] = row["external_ids"]
    if said.get("ovn-installed") != "true":
        problem = "OVN has not installed it: its databases cannot be reached, or are behind"
        return Wiring(False, 0, "PORT_NOT_INSTALLED", problem)
    moment = said.get("ovn-installed-ts", "")
    return Wiring(True, int(moment) if moment.isdecimal() else 0)


def _membership(settings: JoinSettings) -> dict[str, str]:
    wanted = _FIXED | {
        _OWNER: settings.host_id,
        "system-id": settings.host_id,
        "hostname": settings.host_name,
        "ovn-remote": ",".join(settings.remotes),
        "ovn-encap-ip": settings.encap_address,
        "ovn-bridge-datapath-type": settings.datapath.value,
    }
    if settings.bridge_mappings:
        wanted[_MAPPINGS] = mappings_text(settings.bridge_mappings)
    return wanted


def mappings_text(bridge_mappings: Mapping[str, str]) -> str:
    """Write the bridges of the operator's networks as the switch's key has them."""
    return ",".join(f"{network}:{bridge}" for network, bridge in sorted(bridge_mappings.items()))


def _joined_otherwise(host_id: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"the host's switch belongs to OVN as host {host_id}",
        reason="SWITCH_JOINED_OTHERWISE",
        fix="stop ovn-controller by 'ovn-appctl exit', then remove the key unkai-host from "
        "external_ids of Open_vSwitch",
        metadata={"host_id": host_id},
    )


def _device_exists(name: str) -> bool:
    try:
        socket.if_nametoindex(name)
    except OSError:
        return False
    return True
