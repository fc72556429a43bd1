"""What the command costs before it does anything, what reaches its user's pipes, and its end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command_line import unkai
from tests.support.served_api import ServedApi
from unkai_cli import __version__, plugins

HEAVY = ("grpc", "google.protobuf", "rich", "yaml", "asyncio", "importlib.metadata", "unkai_lab")
ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("words", ["--help", "--version", "-h"])
def test_help_imports_nothing_heavy(words: str) -> None:
    program = (
        "import sys\n"
        "from unkai_cli.main import run\n"
        f"code = run({words.split()!r})\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)\n"
        "sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr.strip()) == (0, "[]")
    assert done.stdout


@pytest.mark.parametrize("words", ["instance list", "network why", "security-group rule add"])
def test_help_of_a_command_imports_neither_grpc_nor_protobuf(words: str) -> None:
    program = (
        "import sys\n"
        "from unkai_cli.main import run\n"
        f"run({[*words.split(), '--help']!r})\n"
        "print([m for m in ('grpc', 'google.protobuf') if m in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stderr.strip() == "[]"


def test_help_lists_the_commands_that_other_packages_add() -> None:
    from importlib.metadata import entry_points

    known = {point.name: point.value for point in entry_points(group=plugins.GROUP)}
    assert plugins.added() == known
    assert "lab" in known
    assert "Added by unkai_lab." in unkai("--help").out


def test_entry_points_are_read_from_any_folder_of_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "other-1.0.dist-info"
    info.mkdir()
    (info / "entry_points.txt").write_text(
        "[console_scripts]\nother = other:main\n\n"
        f"[{plugins.GROUP}]\n# theirs\nextra = string:capwords [more]\n\n[x]\nno = no:no\n"
    )
    monkeypatch.setattr(sys, "path", [str(tmp_path), str(tmp_path / "missing")])
    plugins.added.cache_clear()
    try:
        assert plugins.added() == {"extra": "string:capwords"}
        assert plugins.load("extra")("a b") == "A B"
    finally:
        plugins.added.cache_clear()


def test_the_version_is_the_distributions() -> None:
    from importlib.metadata import version

    assert __version__ == version("unkai")
    assert unkai("version").out == f"unkai {__version__}\n"
    assert unkai("--version").out == f"unkai, version {__version__}\n"


def test_a_reader_that_goes_away_is_no_error(cloud: ServedApi) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "unkai_cli", "flavor", "list", "-o", "json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 0


def test_notes_that_nobody_reads_cost_no_result(cloud: ServedApi) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "unkai_cli", "--trace", "flavor", "list", "-o", "json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stderr.close()
        assert isinstance(json.loads(process.stdout.read()), list)
        assert process.wait(timeout=60) == 0


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_no_trouble(closed: str, tmp_path: Path) -> None:
    told = tmp_path / "told"
    script = f'"$0" -m unkai_cli context list {closed}; echo $? > "$1"'
    done = subprocess.run(
        ["/bin/sh", "-c", script, sys.executable, str(told)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert told.read_text() == "0\n"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "code"), [(("context", "use", "nothing"), 3), (("nothing",), 2), (("ls", "-x"), 2)]
)
def test_an_error_that_nobody_can_read_keeps_its_code(words: tuple[str, ...], code: int) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "unkai_cli", *words], stderr=full, check=False, timeout=60
        )
    assert done.returncode == code


def test_what_the_terminal_cannot_show_is_written_in_ascii() -> None:
    assert unkai("context", "add", "雲海", "--socket", "/run/unkai.sock").code == 0
    done = subprocess.run(
        [sys.executable, "-m", "unkai_cli", "context", "list", "-o", "name"],
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, b"\\u96f2\\u6d77\n"), done.stderr


def test_no_colours_when_standard_error_is_no_terminal() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "unkai_cli", "context", "use", "nothing"],
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 3
    assert b"\x1b" not in done.stderr


def _with_a_thread_that_died_holding_a_lock(call: str) -> subprocess.CompletedProcess[str]:
    program = (
        "import threading\n"
        "from unkai_cli import main\n"
        "lock = threading.Lock()\n"
        "lock.acquire()\n"
        "class Call:\n"
        "    def __del__(self):\n"
        "        lock.acquire()\n"
        "kept = Call()\n"
        f"{call}\n"
    )
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60
    )


def test_a_lock_that_a_dead_thread_of_a_library_holds_keeps_no_command_from_its_end() -> None:
    done = _with_a_thread_that_died_holding_a_lock("main.main(['--version'])")
    assert (done.returncode, done.stdout) == (0, f"unkai, version {__version__}\n"), done.stderr


@pytest.mark.parametrize(("end", "code"), [(7, 7), (None, 0), ("words", 1)])
def test_an_exit_from_inside_keeps_its_code(end: int | str | None, code: int) -> None:
    leaves = f"def leaves(args): raise SystemExit({end!r})\nmain.run = leaves\nmain.main([])"
    done = _with_a_thread_that_died_holding_a_lock(leaves)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
