"""Fail when a file or function is longer than style.md allows (pyproject: tool.unkai.sizes).

Generated code, migrations, tables and tests are exempt; a longer file may stand with a line of
reason in `tool.unkai.sizes.allowed`.
"""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

EXEMPT = ("proto/python/unkai/", "tests/", "/migrations/versions/", "/store/tables.py")


def main() -> int:
    """Print what is too long; return 1 when anything is."""
    settings = tomllib.loads(Path("pyproject.toml").read_text())["tool"]["unkai"]["sizes"]
    allowed: dict[str, str] = settings.get("allowed", {})
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    findings = []
    for name in listed:
        path = Path(name)
        if any(part in name for part in EXEMPT) or not path.exists():
            continue
        text = path.read_text()
        lines = text.count("\n")
        if lines > settings["max_file_lines"] and name not in allowed:
            findings.append(f"{name}: {lines} lines; split it by noun")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                size = (node.end_lineno or node.lineno) - node.lineno + 1
                key = f"{name}::{node.name}"
                if size > settings["max_function_lines"] and key not in allowed:
                    findings.append(f"{name}:{node.lineno}: {node.name} has {size} lines")
    findings += [
        f"{key}: allowed, but not there" for key in allowed if not Path(key.split("::")[0]).exists()
    ]
    print("\n".join(findings) or f"sizes: {len(listed)} files are within the limits")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
