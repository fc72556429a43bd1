"""The cell `external`: what instances see as the internet.

It is on the link with the hosts that reach it (192.0.2.0/24, 2001:db8:0:1::/64), is the router
there, and has addresses behind it that only a route leads to. On all of them it answers pings; it
serves HTTP on port 80, which says who asked, and echoes TCP and UDP on port 7.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from unkai_lab.readiness import wait_until
from unkai_lab.site import Site
from unkai_lab.spec import (
    EXTERNAL,
    EXTERNAL_RANGE,
    EXTERNAL_RANGE_V6,
    FAR_ADDRESS,
    FAR_ADDRESS_V6,
)
from unkai_lab.switches import INTERNET_BRIDGE

INTERNET = "internet"
"""Name of its one program."""
HTTP_PORT, ECHO_PORT = 80, 7
_START_S = 60.0


def addressing() -> list[list[str]]:
    """Return the commands that give the cell its bridge and addresses, in order."""
    near = f"{EXTERNAL_RANGE[1]}/{EXTERNAL_RANGE.prefixlen}"
    near_v6 = f"{EXTERNAL_RANGE_V6[1]}/{EXTERNAL_RANGE_V6.prefixlen}"
    return [
        ["ip", "link", "add", INTERNET_BRIDGE, "type", "bridge"],
        ["ethtool", "-K", INTERNET_BRIDGE, "tx", "off"],
        ["ip", "address", "add", near, "dev", INTERNET_BRIDGE],
        ["ip", "address", "add", near_v6, "dev", INTERNET_BRIDGE, "nodad"],
        ["ip", "address", "add", f"{FAR_ADDRESS}/32", "dev", "lo"],
        ["ip", "address", "add", f"{FAR_ADDRESS_V6}/128", "dev", "lo", "nodad"],
        ["ip", "link", "set", INTERNET_BRIDGE, "up"],
    ]


def start_internet(site: Site, tell: Callable[[str], None]) -> None:
    """Start the program that answers, and wait until it does."""
    argv = [sys.executable, "-m", "unkai_lab.internet"]
    process = site.start(EXTERNAL, INTERNET, argv)
    probe = ["bash", "-c", f"exec 3<>/dev/tcp/{FAR_ADDRESS}/{HTTP_PORT}"]
    wait_until(
        lambda: site.run(EXTERNAL, probe, check=False).returncode == 0,
        "the internet answers",
        deadline_s=_START_S,
        process=process,
        log=site.paths.log(EXTERNAL, INTERNET),
    )
    tell("external: the internet answers")
