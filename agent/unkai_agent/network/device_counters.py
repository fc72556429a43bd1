"""Counters of the host's devices, from /proc/net/dev, turned round to the guest's view. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from unkai_agent.network.driver import PortCounters


def counters(text: str, prefix: str = "tap") -> Mapping[str, PortCounters]:
    """Read the file; the devices whose names begin so.

    What the host receives from a tap its guest has sent. Columns: proc(5), /proc/net/dev.
    """
    found: dict[str, PortCounters] = {}
    for line in text.splitlines()[2:]:
        name, _, rest = line.strip().partition(":")
        numbers = [int(each) for each in rest.split()]
        if name.startswith(prefix) and len(numbers) >= 12:
            found[name] = PortCounters(
                received_bytes=numbers[8],
                received_packets=numbers[9],
                received_dropped=numbers[11],
                sent_bytes=numbers[0],
                sent_packets=numbers[1],
                sent_dropped=numbers[3],
            )
    return found
