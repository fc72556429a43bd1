"""A stand-in for `ovs-vsctl`: the commands that the agent uses, on a database in a JSON file.

Run as a program: `fake_vsctl.py STATE OPTIONS… [-- COMMAND]…`. Each call is noted in STATE's
`calls`. It refuses what it does not know, so that a wrong command fails a test. What the real
switch adds (devices that exist, OVN's words) tests write into the file by `FakeSwitch`.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

EMPTY: dict[str, Any] = {
    "Open_vSwitch": [{"external_ids": {"system-id": "random"}, "ssl": [], "datapaths": {}}],
    "Bridge": [],
    "Datapath": [],
    "Interface": [],
    "SSL": [],
    "calls": [],
    "hang_s": 0,
    "fail": "",
    "fail_at": None,
}


class FakeSwitch:
    """The file, from a test's side."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "switch.json"
        _write(self.path, EMPTY)

    @property
    def program(self) -> list[str]:
        """The command that stands for `ovs-vsctl`."""
        return [sys.executable, "-S", __file__, str(self.path)]

    @property
    def state(self) -> dict[str, Any]:
        """All there is."""
        return json.loads(self.path.read_text())

    @property
    def calls(self) -> list[list[str]]:
        """Arguments of each call."""
        return self.state["calls"]

    @property
    def writes(self) -> list[list[str]]:
        """Arguments of each call that writes."""
        return [call for call in self.calls if "list" not in call]

    def change(self, **tables: Any) -> None:
        """Replace tables or settings."""
        _write(self.path, self.state | tables)

    def plug(self, device: str, iface_id: str, vm_id: str = "", **row: Any) -> None:
        """Let an interface be there as libvirt adds it, opened, and installed by OVN."""
        said = {"iface-id": iface_id, "ovn-installed": "true", "ovn-installed-ts": "1700000000000"}
        said |= {"vm-id": vm_id} if vm_id else {}
        said |= row.pop("external_ids", {})
        new = {"name": device, "ofport": 1, "error": [], "external_ids": said} | row
        self.change(Interface=[*self.state["Interface"], new])

    def has_datapaths(self) -> None:
        """Let OVN have asked for what each kind of datapath can, and the switch have answered."""
        kinds = {
            "system": "0d9c1e52-0000-4000-8000-000000000000",
            "netdev": "d1b6c9aa-0000-4000-8000-000000000000",
        }
        [row] = self.state["Open_vSwitch"]
        can = {"ct_zero_snat": "true", "ct_timeout": "true"}
        self.change(
            Open_vSwitch=[row | {"datapaths": kinds}],
            Datapath=[{"_uuid": uuid, "capabilities": can} for uuid in kinds.values()],
        )

    def can(self) -> dict[str, dict[str, str]]:
        """What OVN believes that each kind of datapath can."""
        kinds = self.state["Open_vSwitch"][0]["datapaths"]
        rows = {row["_uuid"]: row["capabilities"] for row in self.state["Datapath"]}
        return {kind: rows[uuid] for kind, uuid in kinds.items()}

    def devices(self) -> list[str]:
        """Names of all interfaces."""
        return [row["name"] for row in self.state["Interface"]]


def _write(path: Path, state: dict[str, Any]) -> None:
    """Replace the file whole: who reads meanwhile sees the one or the other."""
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps(state))
    beside.rename(path)


def _json(value: Any) -> Any:
    if isinstance(value, dict):
        return ["map", [list(pair) for pair in value.items()]]
    return ["set", value] if isinstance(value, list) else value


def _row(state: dict[str, Any], table: str, record: str) -> dict[str, Any]:
    if record == ".":
        return state[table][0]
    found = [row for row in state[table] if record in (row.get("name"), row.get("_uuid"))]
    if not found:
        sys.exit(f'ovs-vsctl: no row "{record}" in table {table}')
    return found[0]


def _do(state: dict[str, Any], command: list[str]) -> None:
    if state["fail_at"] in command:
        sys.exit("ovs-vsctl: connection closed")
    match command:
        case ["--may-exist", "add-port", "br-int", device]:
            if device not in [row["name"] for row in state["Interface"]]:
                new = {"name": device, "ofport": 1, "error": [], "external_ids": {}}
                state["Interface"].append(new)
        case ["--if-exists", "del-port", device]:
            state["Interface"] = [row for row in state["Interface"] if row["name"] != device]
        case ["set", table, record, *pairs]:
            row = _row(state, table, record)
            for pair in pairs:
                where, _, value = pair.partition("=")
                column, _, key = where.partition(":")
                row[column][key] = json.loads(value)
        case ["remove", table, record, column, key]:
            _row(state, table, record)[column].pop(key, None)
        case ["set-ssl", key, certificate, ca]:
            state["SSL"] = [{"private_key": key, "certificate": certificate, "ca_cert": ca}]
            state["Open_vSwitch"][0]["ssl"] = "8a5e0e4f-0000-4000-8000-000000000000"
        case _:
            sys.exit(f"ovs-vsctl: unknown command {command}")


def _split(arguments: list[str]) -> list[list[str]]:
    commands: list[list[str]] = [[]]
    for argument in arguments:
        if argument == "--":
            commands.append([])
        else:
            commands[-1].append(argument)
    return commands


def main(path: Path, arguments: list[str]) -> None:
    """Carry out one call."""
    state = json.loads(path.read_text())
    state["calls"].append(arguments)
    _write(path, state)
    time.sleep(state["hang_s"])
    if state["fail"]:
        sys.exit(state["fail"])
    first, *commands = _split(arguments)
    if not first[0].startswith("--timeout="):
        sys.exit("ovs-vsctl: called without a timeout")
    match first[1:]:
        case ["--format=json", columns, "list", table]:
            names = columns.removeprefix("--columns=").split(",")
            rows = [[_json(row[name]) for name in names] for row in state[table]]
            print(json.dumps({"headings": names, "data": rows}))
        case []:
            for command in commands:
                _do(state, command)
            _write(path, state)
        case other:
            sys.exit(f"ovs-vsctl: unknown option {other}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
