"""`make acceptance`: run the full counts and print what each acceptance line showed.

Runs the demo twice, every suite with full counts, and the benchmarks that have a bound. Each part's
output goes to build/acceptance/; the table is printed last. Exit 0 when all held.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.support.acceptance import FILE_VARIABLE, FULL_VARIABLE
from tests.support.traces import traces_of_labs

ROOT = Path(__file__).parents[1]
OUT = ROOT / "build" / "acceptance"
IMAGE = "images/build/tiny.qcow2"
FIRST_RUNNING_LIMIT_S = 60
BOUNDS = {
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
}
"""Line of the acceptance list and bounds of each benchmark that has any."""


class Table:
    """What was shown, line by line, and whether it held."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, bool, str]] = []

    def add(self, line: str, held: bool, text: str) -> None:
        """Add a row and print it at once."""
        self.rows.append((line, held, text))
        print(f"{'ok  ' if held else 'FAIL'}  {line}: {text}", flush=True)

    def show(self) -> int:
        """Print all rows in order; return the exit code."""
        print("\nACCEPTANCE")
        width = max(len(line) for line, _, _ in self.rows)
        for line, held, text in sorted(self.rows, key=lambda row: row[0]):
            print(f"{'ok  ' if held else 'FAIL'}  {line:<{width}}  {text}")
        return 0 if all(held for _, held, _ in self.rows) else 1


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


def suites(table: Table) -> None:
    """Lines 2 to 6: all suites with full counts."""
    shown = OUT / "shown.jsonl"
    OUT.mkdir(parents=True, exist_ok=True)
    shown.write_text("")
    code, text, seconds = run(
        "tests",
        [sys.executable, "-m", "pytest", "-q", "-s", "tests"],
        5400,
        **{FILE_VARIABLE: str(shown), FULL_VARIABLE: "1"},
    )
    summary = text.strip().splitlines()[-1] if text.strip() else ""
    table.add("2 tests", code == 0, f"{summary} in {seconds:.0f} s")
    for entry in shown.read_text().splitlines():
        line, said = json.loads(entry)
        table.add(line, True, said)


def benchmarks(table: Table) -> None:
    """The benchmarks' last lines against their bounds."""
    for name, (line, bounds) in BOUNDS.items():
        row = f"{line} {name}"
        code, text, _ = run(f"bench-{name}", [sys.executable, f"bench/{name}.py"], 1800)
        try:
            results = json.loads(text.strip().splitlines()[-1])["results"]
        except (IndexError, ValueError, KeyError):
            table.add(row, False, f"exit {code}, no result; see {OUT.name}/bench-{name}.txt")
            continue
        for key, bound in bounds.items():
            table.add(row, results[key] <= bound, f"{key} {results[key]}, at most {bound}")


def main() -> int:
    """Run all parts."""
    table = Table()
    demo(table)
    suites(table)
    benchmarks(table)
    return table.show()


if __name__ == "__main__":
    sys.exit(main())
