"""Keeping a child process that speaks OVSDB: greeted, heard, its log relayed, followed by another.

What it says is its owner's to understand. The child dies with the thread that started it, so
`start` is called on the event loop's own, which lives as long as we do.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import structlog

from unkai_scheduler.ovn import frames
from unkai_scheduler.ovn.settings import OvnSettings

_LOG = structlog.get_logger(__name__)
_STDERR_LIMIT_BYTES = 64 * 1024
_SAME_TEXT_S = 60.0
_MAX_TEXTS = 100


class Lost(Exception):
    """The child went before it answered: the outcome is unknown."""


class Child:
    """A running child process and the one question that it is asked."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.is_live = False
        self._answer: asyncio.Future[frames.Message] | None = None
        self._number = 0

    async def ask(self, request: frames.Message, limit_s: float) -> frames.Message:
        """Ask; raise `Lost` when no answer has come in time, or the child has gone."""
        self._number += 1
        self._answer = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(limit_s):
                await self.send({**request, "id": self._number})
                return await self._answer
        except (TimeoutError, ConnectionError) as error:
            raise Lost from error
        finally:
            if not self._answer.done() or self._answer.cancelled():
                self.kill()
            self._answer = None

    async def send(self, message: frames.Message) -> None:
        """Write a frame."""
        assert self.process.stdin is not None
        self.process.stdin.write(frames.encode(message))
        await self.process.stdin.drain()

    def take(self, message: frames.Message) -> None:
        """Take an answer in; one that nobody waits for any more is nothing."""
        if self._answer and not self._answer.done() and message.get("id") == self._number:
            self._answer.set_result(message)

    def kill(self) -> None:
        """End it at once; it has nothing worth saving."""
        self.is_live = False
        if self._answer and not self._answer.done():
            self._answer.set_exception(Lost())
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()


class Keeper(ABC):
    """See the module. `database`: how its log lines call what it speaks to."""

    module = ""
    """What the child runs."""
    database = ""

    def __init__(
        self, settings: OvnSettings, *, jitter: Callable[[], float] = random.random
    ) -> None:
        self._settings = settings
        self._jitter = jitter
        self._child: Child | None = None
        self._why = "it was not asked yet"
        self._said: dict[str, float] = {}
        self._keeper: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Keep a child from now on, until `close`."""
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep(), name=f"ovn child {self.database}")

    async def close(self) -> None:
        """End the child."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
            self._keeper = None
        self._why = "closed"

    @property
    def trouble(self) -> str:
        """Why the database cannot be asked now; empty: it can."""
        return "" if self._child is not None and self._child.is_live else self._why

    @abstractmethod
    def _hear(self, child: Child, message: frames.Message) -> None:
        """Take in what a child says that is not of its connection."""

    @abstractmethod
    def _unknown(self) -> None:
        """Nothing is known any more: another child, or another connection."""

    async def _keep(self) -> None:
        backoff_s = self._settings.first_backoff_s
        while True:
            began = time.monotonic()
            try:
                status = await self._live_once()
                _LOG.warning("ovn_child_ended", status=status, database=self.database)
            except OSError as error:
                _LOG.error("ovn_child_not_started", why=str(error))
            self._unknown()
            if time.monotonic() - began >= self._settings.healthy_s:
                backoff_s = self._settings.first_backoff_s
            await asyncio.sleep(backoff_s * (0.5 + 0.5 * self._jitter()))
            backoff_s = min(2 * backoff_s, self._settings.last_backoff_s)

    async def _live_once(self) -> int:
        """Run one child until it ends; return its exit status."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", self.module),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=_STDERR_LIMIT_BYTES,
        )
        child = self._child = Child(process)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._relay_logs(process))
                await self._follow(child)
                child.kill()
            return await process.wait()
        finally:
            self._child = None
            child.kill()
            self._why = "the process that speaks to it has ended"
            await process.wait()

    async def _follow(self, child: Child) -> None:
        """Greet the child, then take in what it says until it ends, or says what is no frame."""
        assert child.process.stdout is not None
        with contextlib.suppress(frames.BrokenFrame, TimeoutError, ConnectionError):
            await child.send(self._greeting())
            while True:
                # Until it has listed the database it must say now and then that it still tries.
                limit_s = None if child.is_live else 2 * self._settings.listing_s
                async with asyncio.timeout(limit_s):
                    message = await frames.read(child.process.stdout)
                if message is None:
                    return
                self._take(child, message)

    def _take(self, child: Child, message: frames.Message) -> None:
        match message.get("event"):
            case "live":
                child.is_live = True
                self._unknown()
                _LOG.info("ovn_reached", database=self.database)
            case "lost":
                child.is_live = False
                self._why = "the connection is down"
                _LOG.warning("ovn_lost", database=self.database)
            case "waiting":
                self._why = message["why"]
            case _:
                self._hear(child, message)

    def _greeting(self) -> frames.Message:
        told = {
            name: str(value) if isinstance(value, Path) else value
            for name, value in asdict(self._settings).items()
        }
        return {**told, "parent": os.getpid()}

    async def _relay_logs(self, process: asyncio.subprocess.Process) -> None:
        assert process.stderr is not None
        while True:
            try:
                line = await process.stderr.readline()
            except ValueError:
                continue  # longer than any line of ours: the rest of it is read as one
            if not line:
                return
            text = line.decode("utf-8", "replace").strip()
            with contextlib.suppress(ValueError, TypeError, KeyError):
                text = json.loads(text)["text"]
            if self._is_news(text := str(text)[:1000]):
                _LOG.warning("ovn_child_says", text=text, database=self.database)

    def _is_news(self, text: str) -> bool:
        """Tell whether to log something: the same thing once a minute, and not too many."""
        now = time.monotonic()
        self._said = {t: when for t, when in self._said.items() if now - when < _SAME_TEXT_S}
        if text in self._said or len(self._said) >= _MAX_TEXTS:
            return False
        self._said[text] = now
        return True
