"""A served API or agent in a process of its own: `python -m tests.support.served_alone api FOLDER`.

For tests that break the server's library itself: in one process with a synchronous client and a
second loop, a server that ends so has once taken the whole process with it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.served_agent import ServedAgent
from tests.support.served_api import ServedApi
from unkai_wire.tls import TlsFiles

_ROOT = Path(__file__).parents[2]
_END_S = 20.0


@contextmanager
def served_alone(kind: str, folder: Path) -> Iterator[dict[str, Any]]:
    """Serve `api` or `agent`; yield what it said of its doors. It must live until the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", __spec__.name, kind, str(folder)],
        cwd=_ROOT,
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        said = process.stdout.readline()
        assert said, f"{kind} did not start"
        # Its log may be long, and nobody else reads it.
        threading.Thread(target=process.stdout.read, daemon=True).start()
        yield json.loads(said)
        assert process.poll() is None, f"{kind} ended by itself: {process.returncode}"
    finally:
        process.stdin.close()
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def tls_said(said: dict[str, Any]) -> TlsFiles:
    """Return the certificate that a served agent said its callers shall use."""
    return TlsFiles(*(Path(path) for path in said["tls"]))


def _serve(kind: str, folder: Path) -> None:
    """Serve until standard input ends."""
    if kind == "api":
        with ServedApi(folder) as api:
            said = {"port": api.api.port, "socket": str(api.socket), "pki": str(api.api.pki)}
            print(json.dumps(said), flush=True)
            sys.stdin.read()
    else:
        with ServedAgent(folder) as agent:
            tls = agent.scheduler_tls()
            files = [str(path) for path in (tls.ca, tls.certificate, tls.key)]
            print(json.dumps({"port": agent.port, "tls": files}), flush=True)
            sys.stdin.read()


if __name__ == "__main__":
    _serve(sys.argv[1], Path(sys.argv[2]))
