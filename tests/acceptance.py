"""`make acceptance`: run the full counts and print what each acceptance line showed.

Runs the demo twice, every suite with full counts, and the benchmarks that have a bound: some hours
on two cores. It goes by parts: `python tests/acceptance.py cluster e2e/torture` runs those alone
(`e2e` all that begin so), and the table has what every part showed last, of this commit only.
Output goes to build/acceptance/. Exit 0 when every part ran and held.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial, reduce
from operator import getitem
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.support import databases
from tests.support.acceptance import FILE_VARIABLE, FULL_VARIABLE
from tests.support.traces import traces_of_labs

ROOT = Path(__file__).parents[1]
OUT = ROOT / "build" / "acceptance"
IMAGE = "images/build/tiny.qcow2"
FIRST_RUNNING_LIMIT_S = 60
SUITE_LIMIT_S = 7200


class AtLeast(float):
    """A bound that a figure may not fall below."""


BOUNDS: dict[str, tuple[str, dict[str, float]]] = {
    "launch": ("7", {"ratio_p50": 1.5}),
    "cli": ("7", {"help_ms_p50": 150, "list_1000_ms_p50": 500}),
    "footprint": (
        "solid 10",
        {
            "agent_rss_mib": 80,
            "agent_cpu_ratio": 0.01,
            "scheduler_rss_mib": 250,
            "etcd_writes_per_s": 5,
        },
    ),
    "takeover": ("solid 5", {"worst_s": 5}),
    "network": (
        "networks 8",
        {"tcp_ratio_hi": AtLeast(0.98), "udp_ratio_hi": AtLeast(0.98), "launch_ratio_p50": 3},
    ),
    "network_scale": ("networks 8", {"one_port_rows": 3}),
    "placement": (
        "placement 1",
        {
            "10000.decisions_per_s": AtLeast(10_000),
            "100000.decisions_per_s": AtLeast(1000),
            "1000.bytes_per_host": 2048,
            "10000.bytes_per_host": 2048,
            "100000.bytes_per_host": 2048,
        },
    ),
    "density": ("placement 3", {"fleet": 466, "density": 1.101, "mixed_fleet": 586}),
    "contention": ("placement 4", {"worst_ratio_2s": 0.5, "void_count": 0}),
}
"""Line of the acceptance list and bounds of each benchmark that has any; at most, as a rule. A dot
leads into a result that is an object itself."""


class Table:
    """What one part showed, line by line, and whether it held."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, bool, str]] = []

    def add(self, line: str, held: bool, text: str) -> None:
        """Add a row and print it at once."""
        self.rows.append((line, held, text))
        print(f"{'ok  ' if held else 'FAIL'}  {line}: {text}", flush=True)


Part = Callable[[Table], None]


def run(name: str, command: list[str], timeout_s: float, **env: str) -> tuple[int, str, float]:
    """Run a command with its output in a file; return exit code, output and seconds."""
    OUT.mkdir(parents=True, exist_ok=True)
    path, begun = OUT / f"{name}.txt", time.monotonic()
    with path.open("w") as file:
        try:
            code = subprocess.run(
                command,
                cwd=ROOT,
                env={**os.environ, **env},
                stdout=file,
                stderr=subprocess.STDOUT,
                timeout=timeout_s,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            code = 124
    return code, path.read_text(), time.monotonic() - begun


def demo(table: Table) -> None:
    """Line 1: twice, the second in time; nothing is left."""
    before = traces_of_labs()
    for number in (1, 2):
        code, text, _ = run(
            f"demo-{number}", [sys.executable, "-m", "unkai_lab.demo", "--image", IMAGE], 900
        )
        match = re.search(r"first RUNNING after ([0-9.]+) s", text)
        first = float(match[1]) if match else float("inf")
        table.add(f"1.{number} demo", code == 0, f"exit {code}, first RUNNING after {first} s")
    table.add("1.3 second run", first <= FIRST_RUNNING_LIMIT_S, f"{first} s, at most 60 s")
    left = sorted(traces_of_labs() - before)
    table.add("1.4 nothing left", not left, ", ".join(left) or "nothing")


def suite(name: str, table: Table) -> None:
    """Run one folder or file of tests with full counts; each says what it showed."""
    run_tests(name, table, f"tests/{name}" if (ROOT / "tests" / name).is_dir() else file_of(name))


def on_database(kind: str, name: str, table: Table) -> None:
    """Run the stories of a whole cloud on one kind of database."""
    run_tests(name, table, "tests/cluster", **{databases.KIND_VARIABLE: kind})


def run_tests(name: str, table: Table, path: str, **env: str) -> None:
    """Run tests with full counts as a part; add what each showed."""
    shown = OUT / f"{name.replace('/', '-')}.jsonl"
    OUT.mkdir(parents=True, exist_ok=True)
    shown.write_text("")
    code, text, seconds = run(
        f"tests-{name.replace('/', '-')}",
        [sys.executable, "-m", "pytest", "-q", "-s", path],
        SUITE_LIMIT_S,
        **{FILE_VARIABLE: str(shown), FULL_VARIABLE: "1"},
        **env,
    )
    summary = text.strip().splitlines()[-1] if text.strip() else ""
    table.add(f"2 tests {name}", code == 0, f"{summary} in {seconds:.0f} s")
    for entry in shown.read_text().splitlines():
        line, said = json.loads(entry)
        table.add(line, True, said)


def file_of(name: str) -> str:
    """Return the file of tests that a part such as `e2e/torture` stands for."""
    folder, _, stem = name.partition("/")
    return f"tests/{folder}/test_{stem}.py"


def benchmark(name: str, table: Table) -> None:
    """Run one benchmark; its last line is held against its bounds."""
    line, bounds = BOUNDS[name]
    row = f"{line} {name}"
    code, text, _ = run(f"bench-{name}", [sys.executable, f"bench/{name}.py"], 1800)
    try:
        results = json.loads(text.strip().splitlines()[-1])["results"]
    except (IndexError, ValueError, KeyError):
        table.add(row, False, f"exit {code}, no result; see {OUT.name}/bench-{name}.txt")
        return
    for key, bound in bounds.items():
        least = isinstance(bound, AtLeast)
        found = reduce(getitem, key.split("."), results)
        held = found >= bound if least else found <= bound
        table.add(row, held, f"{key} {found}, at {'least' if least else 'most'} {bound:g}")


def parts() -> dict[str, Part]:
    """Return all parts by name, in the order they run."""
    stories = sorted(
        f"e2e/{path.stem.removeprefix('test_')}" for path in (ROOT / "tests/e2e").glob("test_*.py")
    )
    clusters = {databases.SQLITE: "cluster"} | {
        kind: f"cluster/{kind}" for kind in databases.SERVERS
    }
    return {
        "demo": demo,
        **{name: partial(suite, name) for name in ("unit", "contract")},
        **{name: partial(on_database, kind, name) for kind, name in clusters.items()},
        **{name: partial(suite, name) for name in stories},
        **{f"bench/{name}": partial(benchmark, name) for name in BOUNDS},
    }


def commit() -> str:
    """Return the commit that is checked out, with a mark when files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()


def show(names: list[str], of: str) -> int:
    """Print what every part showed of this commit; return the exit code."""
    rows: list[tuple[str, bool, str]] = []
    for name in names:
        path = OUT / f"part-{name.replace('/', '-')}.json"
        kept = json.loads(path.read_text()) if path.exists() else None
        if kept and kept["commit"] == of:
            rows += [(line, held, text) for line, held, text in kept["rows"]]
        else:
            rows.append((f"part {name}", False, "has not run on this commit"))
    print(f"\nACCEPTANCE of {of}")
    width = max(len(line) for line, _, _ in rows)
    for line, held, text in sorted(rows, key=lambda row: row[0]):
        print(f"{'ok  ' if held else 'FAIL'}  {line:<{width}}  {text}")
    return 0 if all(held for _, held, _ in rows) else 1


def main() -> int:
    """Run the parts that are named, or all; print the table."""
    every, of, wanted = parts(), commit(), sys.argv[1:]
    unknown = [word for word in wanted if not any(name.startswith(word) for name in every)]
    if unknown:
        print(f"no such part: {', '.join(unknown)}; there are: {', '.join(every)}", file=sys.stderr)
        return 2
    for name, part in every.items():
        if wanted and not name.startswith(tuple(wanted)):
            continue
        table = Table()
        part(table)
        OUT.mkdir(parents=True, exist_ok=True)
        path = OUT / f"part-{name.replace('/', '-')}.json"
        path.write_text(json.dumps({"commit": of, "rows": table.rows}, ensure_ascii=False))
    return show(list(every), of)


if __name__ == "__main__":
    sys.exit(main())
