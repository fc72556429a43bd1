"""Settings that cannot be used: each role, and the command's contexts, say exactly what is wrong.

The words and the exit code of each stand in `tests/golden/bad_settings/` (UNKAI_RENEW_GOLDEN=1
writes them anew), with FOLDER for where the file is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from tests.support.acceptance import Shows
from tests.support.command_line import unkai
from unkai_agent import main as agent
from unkai_scheduler import main as scheduler

GOLDEN = Path(__file__).parents[2] / "golden" / "bad_settings"
UPDATE_VARIABLE = "UNKAI_RENEW_GOLDEN"

BOTH = {
    "no TOML": "= 1",
    "TOML cut": "[tls",
    "a key twice": 'listen = "a:1"\nlisten = "b:2"',
    "a table twice": "[tls]\n[tls]",
    "not UTF-8": "\udcff",
    "NUL": "listen = \0",
    "unknown key": "listn = 1",
    "unknown table": "[tsl]\nca = 'x'",
    "unknown key in a table": "[tls]\nkeyy = 'x'",
    "a table where a text is": "[listen]\nx = 1",
    "a text where a table is": "tls = 'x'",
    "a number where a text is": "listen = 7443",
    "no port": 'listen = "0.0.0.0"',
    "port 0": 'listen = "0.0.0.0:0"',
    "port 70000": 'listen = "0.0.0.0:70000"',
    "port -1": 'listen = "0.0.0.0:-1"',
    "port in words": 'listen = "0.0.0.0:https"',
    "port in other digits": 'listen = "0.0.0.0:٧٤٤٣"',
    "empty address": 'listen = ""',
    "no etcd": "[etcd]\nendpoints = []",
    "etcd: one text": '[etcd]\nendpoints = "127.0.0.1:2379"',
    "etcd: a URL": '[etcd]\nendpoints = ["https://127.0.0.1:2379"]',
    "log level": 'log_level = "loud"',
    "grace of -1": "shutdown_grace_s = -1",
    "traces to a word": '[tracing]\nendpoint = "collector"',
}
SCHEDULER = {
    "name with a space": 'name = "a b"',
    "name empty": 'name = ""',
    "database: no URL": '[database]\nurl = "unkai.db"',
    "database: unknown kind": '[database]\nurl = "oracle://h/d"',
    "database: password in the URL": '[database]\nurl = "postgresql://u:secret@h/d"',
    "images: no URL": '[images]\nurl = "/var/images"',
    "images: size of 1": "[images]\nmax_size_bytes = 1",
    "images: size of a text": "[images]\nmax_size_bytes = '64 GiB'",
    "images: no upload": "[images]\nmax_uploads = 0",
    "policy": '[placement]\npolicy = "random"',
    "ratio 0": "[placement.ratios]\ncpu = 0",
    "ratio 1000": "[placement.ratios]\ncpu = 1000",
    "weight 256": "[placement.weights]\npolicy = 256",
    "weight of a part": "[placement.weights]\npolicy = 0.5",
    "batch of 0": "[reconcile]\nbatch_size = 0",
    "events kept: 1": "[retention]\nevents = 1",
    "three at once": "listn = 1\nlisten = 'x'\n[images]\nmax_uploads = 0",
}
AGENT = {
    "etcd: infinite": "[etcd]\ntimeout_s = inf",
    "etcd: NaN": "[etcd]\ntimeout_s = nan",
    "etcd: no time": "[etcd]\ntimeout_s = 0",
    "accelerator": 'accelerator = "warp"',
    "no starts": "[converge]\nstarts = 0",
    "starts of a text": "[converge]\nstarts = 'four'",
    "interval of 0": "[sampler]\ninterval_s = 0",
    "cpus -1": "[capacity]\ncpus = -1",
    "memory of -1": "[capacity]\nmemory_bytes = -1",
    "traits: one text": 'traits = "AVX"',
    "hosts -1": "[fleet]\nhosts = -1",
    "load of 2": "[fleet]\nbackground_load_ratio = 2",
    "libvirt without time": "[libvirt]\ntimeout_s = 0",
    "three at once": "listn = 1\nlisten = 'x'\n[converge]\nstarts = 0",
}
CONTEXTS = {
    "no TOML": "= 1",
    "not UTF-8": "\udcff",
    "contexts is a text": 'contexts = "x"',
    "current is not there": 'current = "away"',
    "neither socket nor address": 'current = "a"\n[contexts.a]\nproject = "x"',
    "socket and address": 'current = "a"\n[contexts.a]\nsocket = "/x"\naddress = "1.2.3.4:1"',
    "address without port": 'current = "a"\n[contexts.a]\naddress = "1.2.3.4"',
    "address without certificates": 'current = "a"\n[contexts.a]\naddress = "1.2.3.4:7443"',
    "certificates not there": 'current = "a"\n[contexts.a]\naddress = "127.0.0.1:7443"\n'
    'ca = "/no/ca"\ncertificate = "/no/crt"\nkey = "/no/key"',
    "socket not there": 'current = "a"\n[contexts.a]\nsocket = "/no/socket"',
}


def _run(command: click.Command, arguments: list[str], folder: Path, **env: str) -> dict[str, Any]:
    result = CliRunner().invoke(command, arguments, env=env)
    assert not isinstance(result.exception, Exception) or isinstance(result.exception, SystemExit)
    text = result.output.replace(str(folder), "FOLDER")
    return {"exit": result.exit_code, "says": text.splitlines()}


def _check(name: str, case: str, said: dict[str, Any]) -> None:
    path = GOLDEN / f"{name}.json"
    cases = json.loads(path.read_text()) if path.exists() else {}
    if os.environ.get(UPDATE_VARIABLE):
        cases[case] = said
        path.parent.mkdir(exist_ok=True)
        text = json.dumps(cases, ensure_ascii=False, indent=1, sort_keys=True)
        path.write_text(text + "\n")
    assert said["exit"] != 0, f"{case} was accepted"
    assert said == cases.get(case), case


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(errors="surrogateescape"))
    return path


@pytest.mark.parametrize("case", [*BOTH, *SCHEDULER])
def test_a_scheduler_s_wrong_settings_are_told_exactly(tmp_path: Path, case: str) -> None:
    file = _write(tmp_path / "scheduler.toml", {**BOTH, **SCHEDULER}[case])
    said = _run(scheduler.main, ["--config", str(file), "--check-config"], tmp_path)
    _check("scheduler", case, said)


@pytest.mark.parametrize("case", [*BOTH, *AGENT])
def test_an_agent_s_wrong_settings_are_told_exactly(tmp_path: Path, case: str) -> None:
    file = _write(tmp_path / "agent.toml", {**BOTH, **AGENT}[case])
    said = _run(agent.main, ["--config", str(file), "--check-config"], tmp_path)
    _check("agent", case, said)


def _missing(folder: Path) -> list[str]:
    return ["--config", str(folder / "none.toml"), "--check-config"]


def _a_folder(folder: Path) -> list[str]:
    return ["--config", str(folder), "--check-config"]


def _no_keys(folder: Path) -> list[str]:
    text = "\n".join(
        f'{part}ca = "{folder}/ca.crt"\ncertificate = "{folder}/x.crt"\nkey = "{folder}/x.key"'
        for part in ("[tls]\n", "[etcd.tls]\n")
    )
    return ["--config", str(_write(folder / "keys.toml", text)), "--check-config"]


FILES: dict[str, Callable[[Path], list[str]]] = {
    "file not there": _missing,
    "file is a folder": _a_folder,
    "keys not there": _no_keys,
}


@pytest.mark.parametrize("case", FILES)
def test_files_that_are_not_there_are_named_with_what_makes_them(tmp_path: Path, case: str) -> None:
    for name, command in (("scheduler", scheduler.main), ("agent", agent.main)):
        _check(name, case, _run(command, FILES[case](tmp_path), tmp_path))


@pytest.mark.parametrize(("variable", "value"), [("LISTN", "x"), ("LISTEN", "x"), ("TLS__X", "y")])
def test_wrong_variables_are_named(tmp_path: Path, variable: str, value: str) -> None:
    for name, command in (("scheduler", scheduler.main), ("agent", agent.main)):
        file = _write(tmp_path / f"{name}.toml", "")
        env = {f"UNKAI_{name.upper()}_{variable}": value}
        said = _run(command, ["--config", str(file), "--check-config"], tmp_path, **env)
        _check(name, f"variable {variable}", said)


@pytest.mark.parametrize("case", CONTEXTS)
def test_a_wrong_context_is_told_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    _write(tmp_path / "unkai" / "config.toml", CONTEXTS[case])
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for name in ("CONTEXT", "SOCKET", "ADDRESS"):
        monkeypatch.delenv(f"UNKAI_{name}", raising=False)
    done = unkai("instance", "list")
    text = (done.out + done.err).replace(str(tmp_path), "FOLDER")
    _check("contexts", case, {"exit": done.code, "says": text.splitlines()})


def test_enough_wrong_settings_are_told(shows: Shows) -> None:
    sizes = {
        name: len(json.loads((GOLDEN / f"{name}.json").read_text()))
        for name in ("scheduler", "agent", "contexts")
    }
    shows("solid 7 bad settings", ", ".join(f"{count} of the {n}" for n, count in sizes.items()))
    assert sum(sizes.values()) >= 90
