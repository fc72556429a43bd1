"""Whether the kernel can forward Open vSwitch's frames.

`Open_vSwitch.datapath_types` says what the switch was built with, not what this kernel has. The
switch itself asks for the generic netlink family `ovs_datapath`; asking also loads the module.
Source: linux/genetlink.h; lib/dpif-netlink.c of Open vSwitch.
"""

from __future__ import annotations

import socket
import struct
from pathlib import Path

from unkai_agent.network.driver import Datapath

_NETLINK_GENERIC = 16
_GENL_ID_CTRL = 0x10
_CTRL_CMD_GETFAMILY = 3
_CTRL_ATTR_FAMILY_NAME = 2
_NLM_F_REQUEST = 1
_NLMSG_ERROR = 2
_ANSWER_S = 5.0
_MODULE = Path("/sys/module/openvswitch")


def datapath_here() -> Datapath:
    """Return what this kernel allows. Blocks while it looks for the module."""
    try:
        found = has_family("ovs_datapath")
    except OSError:  # netlink is not for us, or silent: then by whether the module is there
        found = _MODULE.exists()
    return Datapath.SYSTEM if found else Datapath.NETDEV


def has_family(name: str) -> bool:
    """Tell whether the kernel has a generic netlink family of this name."""
    text = name.encode() + b"\0"
    attribute = struct.pack("=HH", 4 + len(text), _CTRL_ATTR_FAMILY_NAME) + text
    attribute += b"\0" * (-len(attribute) % 4)
    body = struct.pack("=BBH", _CTRL_CMD_GETFAMILY, 1, 0) + attribute
    header = struct.pack("=IHHII", 16 + len(body), _GENL_ID_CTRL, _NLM_F_REQUEST, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_GENERIC) as asked:
        asked.settimeout(_ANSWER_S)
        asked.bind((0, 0))
        asked.send(header + body)
        answer = asked.recv(65536)
    _, kind, *_ = struct.unpack_from("=IHHII", answer)
    return bool(kind != _NLMSG_ERROR)
