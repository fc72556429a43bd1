"""What every child process of ours has: a way to its parent, a log, and an end when that is gone.

Frames come on standard input and go out on what was standard output; logs are JSON lines on
standard error.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, BinaryIO, TextIO

from ovsdbapp.backend.ovs_idl import idlutils, vlog

from unkai_scheduler.ovn import frames
from unkai_scheduler.ovn.child import tls

EXIT_BUG = 70
EXIT_NO_LISTING = 69
_LIBRARYS_LOOP = "ovsdbapp.backend.ovs_idl.connection"
_UPDATE_LOST = "error parsing update"
_RETRY_S = 1.0
_PR_SET_PDEATHSIG = 1


class Pipe:
    """Frames to the parent, from both threads that have something to say."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def tell(self, message: frames.Message) -> None:
        """Write a frame."""
        with self._lock:
            try:
                self._stream.write(frames.encode(message))
                self._stream.flush()
            except OSError:
                os._exit(0)  # nobody reads any more


def schema_of(remotes: str, database: str, settings: dict[str, Any], pipe: Pipe) -> Any:
    """Return what the library needs to know of a database, once it can be reached."""
    if settings["certificate"]:
        tls.use(
            settings["key"],
            settings["certificate"],
            settings["authority"],
            settings["server_name"],
        )
    while True:
        try:
            return idlutils.get_schema_helper(remotes, database)
        except Exception as error:  # noqa: BLE001 -- that is what the library raises
            pipe.tell({"event": "waiting", "why": f"{type(error).__name__}: {error}"})
            time.sleep(_RETRY_S)


def read_requests(stream: BinaryIO, requests: queue.Queue[frames.Message]) -> None:
    """Read requests until the parent is gone; then end at once, whatever is under way."""
    while (request := frames.read_blocking(stream)) is not None:
        requests.put(request)
    os._exit(0)


class Lines(logging.StreamHandler[TextIO]):
    """JSON lines; and the end, where the library would go on with a replica that is wrong."""

    def emit(self, record: logging.LogRecord) -> None:
        super().emit(record)
        is_broken = record.name == _LIBRARYS_LOOP and record.levelno >= logging.ERROR
        if is_broken or _UPDATE_LOST in record.getMessage():
            os._exit(EXIT_BUG)

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return json.dumps({"level": record.levelname, "from": record.name, "text": text})


def log_to_stderr() -> None:
    """Write warnings, the library's own too, which it would else keep to itself."""
    lines = Lines(sys.stderr)
    lines.setFormatter(logging.Formatter())
    logging.basicConfig(level=logging.WARNING, handlers=[lines])
    vlog.use_python_logger(max_level=vlog.WARN)


def begin() -> tuple[dict[str, Any], Pipe, queue.Queue[frames.Message]] | None:
    """Begin to live; return what the parent says first, the way to it, and its requests.

    None: it is gone already.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's ^C is for the parent
    pipe = Pipe(os.fdopen(os.dup(1), "wb"))
    os.dup2(2, 1)  # nothing that prints may break a frame
    log_to_stderr()
    settings = frames.read_blocking(sys.stdin.buffer)
    if settings is None or os.getppid() != settings["parent"]:
        return None
    requests: queue.Queue[frames.Message] = queue.Queue(1)
    threading.Thread(
        target=read_requests, args=(sys.stdin.buffer, requests), name="requests", daemon=True
    ).start()
    return settings, pipe, requests


def run(main: Callable[[], None]) -> None:
    """Run a child's main function; end whatever it ends with."""
    try:
        main()
    except Exception:
        logging.getLogger(__name__).exception("the child cannot go on")
        os._exit(EXIT_BUG)
