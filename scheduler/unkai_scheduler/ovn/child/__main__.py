"""The child's life: told by its first frame where to connect, then one request after another.

It ends itself when its parent is gone and when it cannot know what became of a transaction; it does
not end because the database is away.
"""

from __future__ import annotations

import logging
import os
from typing import Any
from uuid import uuid4

from ovs.db.error import Error as BadDatum
from ovsdbapp.backend.ovs_idl import Backend
from ovsdbapp.backend.ovs_idl.connection import Connection
from ovsdbapp.exceptions import TimeoutException

from unkai_scheduler.ovn import frames, plan
from unkai_scheduler.ovn.child import life
from unkai_scheduler.ovn.child.commands import (
    ConnectionLost,
    Fence,
    NotInitialised,
    TermOver,
    Write,
)
from unkai_scheduler.ovn.child.life import EXIT_NO_LISTING, Pipe
from unkai_scheduler.ovn.child.replica import Replica, Rows, registered
from unkai_scheduler.ovn.encoding import Piece, decode_piece

DATABASE = "OVN_Northbound"
EXIT_UNKNOWN = 75
_DATABASE_SAYS = "OVSDB Error"
"""How the library begins the text of a refusal; its other errors say nothing of the outcome."""
_LOG = logging.getLogger(__name__)


class Northbound(Backend):  # type: ignore[misc] # the library has no types
    """The library's way to one database."""

    schema = DATABASE


class Child:
    """One connection to the database, and what is asked of it."""

    def __init__(self, settings: dict[str, Any], pipe: Pipe) -> None:
        self._pipe = pipe
        self._remotes = ",".join(settings["remotes"])
        self._connection, self._replica = self._connect(settings)
        self._api = Northbound(self._connection, start=False, auto_index=False)
        self._rows = Rows(self._replica)
        self._writer = uuid4().hex
        self._claimed = (-1, -1)
        self._start(settings)

    def _connect(self, settings: dict[str, Any]) -> tuple[Any, Replica]:
        helper = life.schema_of(self._remotes, DATABASE, settings, self._pipe)
        for table, columns in registered(helper.schema_json).items():
            helper.register_columns(table, columns)
        probe_ms = int(settings["probe_s"] * 1000)
        replica = Replica(self._remotes, helper, probe_ms, self._pipe.tell)
        return Connection(replica, settings["listing_s"]), replica

    def _start(self, settings: dict[str, Any]) -> None:
        try:
            self._connection.start()
        except TimeoutException:
            _LOG.warning("the database was not read within %s s", settings["listing_s"])
            os._exit(EXIT_NO_LISTING)
        self._connection.timeout = settings["transaction_s"]

    def answer(self, request: frames.Message) -> frames.Message:
        """Do what is asked, and say what became of it."""
        with self._connection.lock:
            if not self._replica.is_live():
                return {"error": "unreachable", "why": "the connection is down"}
            if request["do"] == "inventory":
                return {"rows": self._replica.index.counts()}
            pieces = [decode_piece(record) for record in request["pieces"]]
            if request["do"] == "compare":
                found = [piece.key for piece in pieces if plan.differs(piece, self._rows)]
                return {"differ": found}
        return self._apply(int(request["term"]), pieces)

    def _apply(self, term: int, pieces: list[Piece]) -> frames.Message:
        try:
            if self._claimed != (self._replica.session, term):
                session = self._replica.session
                self._commit(self._fence(term, self._writer))
                self._claimed = (session, term)
            return self._write(term, pieces)
        except TermOver as error:
            return {"error": "term", "current": error.current}
        except NotInitialised:
            return {"error": "unreachable", "why": "ovn-northd has not initialised it yet"}
        except (TimeoutException, ConnectionLost) as error:
            return {"error": "unknown", "why": type(error).__name__}

    def _fence(self, term: int, writer: str = "") -> Fence:
        return Fence(self._api, self._replica, term, writer)

    def _write(self, term: int, pieces: list[Piece], *, again: bool = True) -> frames.Message:
        write = Write(self._api, self._replica, pieces)
        with self._connection.lock:
            self._replica.begin(piece.key for piece in pieces)
        try:
            self._commit(self._fence(term), write)
        except (RuntimeError, BadDatum) as error:
            if isinstance(error, RuntimeError) and not str(error).startswith(_DATABASE_SAYS):
                raise ConnectionLost from error
            with self._connection.lock:
                self._replica.end()
            # What it collided with may be in the replica by now.
            return self._write(term, pieces, again=False) if again else _refused(error)
        return {
            "results": {
                unit: [outcome.value, write.plan.reasons.get(unit, "")]
                for unit, outcome in write.plan.outcomes.items()
            }
        }

    def _commit(self, fence: Fence, *more: Write) -> None:
        """Commit; raise `ConnectionLost` unless the database has said that it is done."""
        transaction = self._api.create_transaction(check_error=True, log_errors=False)
        transaction.extend([fence, *more])
        transaction.commit()
        if not fence.is_done:
            raise ConnectionLost


def _refused(error: Exception) -> frames.Message:
    return {"error": "refused", "why": str(error)}


def main() -> None:
    """Live."""
    begun = life.begin()
    if begun is None:
        return
    settings, pipe, requests = begun
    child = Child(settings, pipe)
    while True:
        request = requests.get()
        answer = child.answer(request)
        pipe.tell({"id": request["id"], **answer})
        if answer.get("error") == "unknown":
            os._exit(EXIT_UNKNOWN)


if __name__ == "__main__":
    life.run(main)
