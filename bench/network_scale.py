"""How long OVN's northbound database takes to be as the store says: 1,000 ports on 100 networks.

The networks, subnets and ports are made through the real API while no leader is there; then the
leader's loop begins, and is timed until nothing is left to do. The database is a real ovsdb-server,
whose own log says how many transactions that took, and which rows one port's change wrote in the
full database, once the comparison that a reign begins with is over. The floor is the same rows in
one transaction of `ovn-nbctl`, in the same run. Prints a table and, last, one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import structlog

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.support.api import Api, an_api  # noqa: E402
from tests.support.network_calls import a_network, a_port, a_subnet, change_port  # noqa: E402
from tests.support.network_loop import leading, until, until_settled  # noqa: E402
from tests.support.ovn import OvsdbServer, program  # noqa: E402
from unkai_scheduler.ovn.process import OvnNorthbound  # noqa: E402
from unkai_scheduler.ovn.settings import OvnSettings  # noqa: E402

AT_ONCE = 8


async def fill(api: Api, networks: int, ports: int) -> list[Any]:
    """Make networks with a subnet each and ports spread over them; return the ports."""
    bound = asyncio.Semaphore(AT_ONCE)

    async def of_network(number: int) -> list[Any]:
        async with bound:
            network = await a_network(api, f"n{number}")
            await a_subnet(api, network.id, f"10.{number // 250}.{number % 250}.0/24")
            return [await a_port(api, network.id) for _ in range(ports // networks)]

    made = await asyncio.gather(*map(of_network, range(networks)))
    return [port for some in made for port in some]


def floor_s(folder: Path, networks: int, ports: int) -> float:
    """Return the seconds that as many switches and ports take by hand, in one transaction."""
    folder.mkdir()
    server = OvsdbServer(folder)
    server.start()
    try:
        words: list[str] = []
        for number in range(networks):
            words += ["--", "ls-add", f"n{number}"]
            for place in range(ports // networks):
                words += ["--", "lsp-add", f"n{number}", f"n{number}-{place}"]
        begun = time.perf_counter()
        subprocess.run(
            [program("ovn-nbctl"), f"--db=unix:{server.socket}", *words], check=True, timeout=60
        )
        return time.perf_counter() - begun
    finally:
        server.stop()


async def measure(folder: Path, networks: int, ports: int) -> dict[str, float]:
    """Fill the store, converge, change one port."""
    server = OvsdbServer(folder)
    await asyncio.to_thread(server.start)
    northbound = OvnNorthbound(OvnSettings((f"unix:{server.socket}",)))
    northbound.start()
    results: dict[str, float] = {}
    try:
        async with an_api(folder / "a") as api:
            begun = time.perf_counter()
            made = await fill(api, networks, ports)
            results["made_s"] = time.perf_counter() - begun
            before, begun = len(server.log()), time.perf_counter()
            cpu_s = _cpu_s()
            async with leading(api, northbound):
                await until_settled(api)
                results["converge_s"] = time.perf_counter() - begun
                results["converge_cpu_s"] = _cpu_s() - cpu_s
                results["nb_transactions"] = len(server.log()) - before
                await _until_quiet(server)
                results |= await _one_port(api, server, made[len(made) // 2])
    finally:
        await northbound.close()
        await asyncio.to_thread(server.stop)
    return results


async def _one_port(api: Api, server: OvsdbServer, port: Any) -> dict[str, float]:
    """Change one port; return when OVN had it, and the rows that were written."""
    before, begun = len(server.log()), time.perf_counter()
    await change_port(api, port, "no_anti_spoofing", no_anti_spoofing=True)
    await until(lambda: len(server.log()) > before)
    took_s = time.perf_counter() - begun
    await until_settled(api)
    await _until_quiet(server)
    written = server.log()[before:]
    rows = [ref for record in written for ref in record if ref.table != "NB_Global"]
    # Its own row, and the groups that it left.
    print("one port wrote", ", ".join(sorted(f"{ref.table} {str(ref.uuid)[:8]}" for ref in rows)))
    return {
        "one_port_s": took_s,
        "one_port_rows": len(rows),
        "one_port_transactions": len(written),
    }


async def _until_quiet(server: OvsdbServer, quiet_s: float = 2.0) -> None:
    """Wait until nothing was written for so long: the comparison is over then."""
    seen, since_s = len(server.log()), time.monotonic()
    while time.monotonic() - since_s < quiet_s:
        await asyncio.sleep(0.1)
        if (now := len(server.log())) != seen:
            seen, since_s = now, time.monotonic()


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", type=int, default=100)
    parser.add_argument("--ports", type=int, default=1000)
    given = parser.parse_args(arguments)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    with tempfile.TemporaryDirectory(prefix="unkai-bench-") as folder:
        results = asyncio.run(measure(Path(folder), given.networks, given.ports))
        results["floor_s"] = floor_s(Path(folder) / "floor", given.networks, given.ports)
    for name, figure in results.items():
        print(f"{name:24} {figure:9.3f}")
    results = {name: round(figure, 3) for name, figure in results.items()}
    params = {"networks": given.networks, "ports": given.ports}
    print(json.dumps({"bench": "network_scale", "params": params, "results": results}))


if __name__ == "__main__":
    main()
