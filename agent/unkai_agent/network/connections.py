"""Guests' connections to a host's services: how many there may be, and their beginnings and ends.

A guest is not trusted. So places are bounded by guest, by network and service, and for the host as
a whole, whose memory and open files they are. When the host is full, the network that has most
gives up its oldest place to one that has fewer: none can keep others out. What is said on a
connection is its site's; here it is accepted, held, and ended.

The trap: a socket that is closed while its peer takes nothing stays open for as long as that peer
likes. So an end has a deadline, too, and a place is given back when the socket is gone.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections import Counter
from collections.abc import Awaitable, Callable

import prometheus_client
import structlog

from unkai_agent.network.allowance import Allowance

_LOG = structlog.get_logger("unkai.agent.network")
REFUSED = prometheus_client.Counter(
    "unkai_agent_guest_connections_refused_total",
    "Connections of guests that were refused since there were too many, by service.",
    ["service"],
)
CUT = prometheus_client.Counter(
    "unkai_agent_guest_places_cut_total",
    "Connections and questions of guests that were cut to make room for other networks'.",
)
PLACES = 1024
"""Connections at once, of a host: some 50 MB at worst, and few of the files it may open."""
_END_S = 5.0
"""Until a guest has taken what it was sent before an end."""
_ACCEPTED_PER_S = 200.0
"""Of a listener's site, on average; five seconds' worth at once. Others wait in the kernel."""
_REST_S = 0.05
_PASSING = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ECONNABORTED}
"""What accept(2) may say of a listener that is well."""


class Room:
    """The places of all networks together."""

    def __init__(self, most: int = PLACES) -> None:
        self.most = most
        self._shares: list[Share] = []

    def share(self, most: int, most_each: int) -> Share:
        """Return a share of it for one network and service; give it back by `Share.close`."""
        made = Share(self, most, most_each)
        self._shares.append(made)
        return made

    def forget(self, share: Share) -> None:
        """Reckon no more with a share; no-op for one that is forgotten."""
        if share in self._shares:
            self._shares.remove(share)

    @property
    def taken(self) -> int:
        """How many places are taken."""
        return sum(share.taken for share in self._shares)

    def has_one_for(self, share: Share) -> bool:
        """Tell whether there is a place for a share, or make one."""
        if self.taken < self.most:
            return True
        fullest = max(self._shares, key=lambda each: each.taken)
        if fullest.taken <= share.taken + 1:
            return False
        fullest.cut_oldest()
        return True


class Share:
    """The places of one network and service."""

    def __init__(self, room: Room, most: int, most_each: int) -> None:
        """`most_each`: of an address."""
        self._room, self._most, self._most_each = room, most, most_each
        self._held: dict[object, tuple[str, Callable[[], object]]] = {}
        """Who has a place and how it is cut, oldest first."""
        self._each: Counter[str] = Counter()

    @property
    def taken(self) -> int:
        """How many places are taken."""
        return len(self._held)

    def take(self, peer: str, cut: Callable[[], object]) -> object | None:
        """Take a place for an address; None: there is none. `cut`: ends what has it."""
        if len(self._held) >= self._most or self._each[peer] >= self._most_each:
            self._each += Counter()  # forgets who has none
            return None
        if not self._room.has_one_for(self):
            return None
        place = object()
        self._held[place] = (peer, cut)
        self._each[peer] += 1
        return place

    def give_back(self, place: object) -> None:
        """Give a place back; no-op for one that was cut."""
        held = self._held.pop(place, None)
        if held is not None:
            self._each[held[0]] -= 1
            self._each += Counter()

    def cut_oldest(self) -> None:
        """End what has had its place for longest."""
        place, (_, cut) = next(iter(self._held.items()))
        self.give_back(place)
        CUT.inc()
        cut()

    def close(self) -> None:
        """Give all of it back to the room."""
        self._room.forget(self)


Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter, str], Awaitable[None]]
"""`talk(reader, writer, peer)`: hold a conversation, and return; who calls it ends the connection.
OSError, TimeoutError and EOFError are a guest's own ways to end one."""


class Connections:
    """The listening sockets of one site, and the connections that guests make to them."""

    def __init__(
        self,
        service: str,
        share: Share,
        talk: Talk,
        *,
        buffer_bytes: int,
        end_s: float = _END_S,
        accepted_per_s: float = _ACCEPTED_PER_S,
    ) -> None:
        """`buffer_bytes`: of what a guest has sent, twice as much is held at most."""
        self._service, self._share, self._talk = service, share, talk
        self._buffer_bytes, self._end_s = buffer_bytes, end_s
        self._allowance = Allowance(accepted_per_s)
        self._listening: dict[asyncio.Task[None], socket.socket] = {}
        self._talking: set[asyncio.Task[None]] = set()
        self._logged = ""

    def listen(self, listener: socket.socket) -> None:
        """Serve a listening socket; it is ours from now on."""
        listener.setblocking(False)
        self._listening[asyncio.ensure_future(self._accept(listener))] = listener

    @property
    def are_served(self) -> bool:
        """Whether all that listens still accepts."""
        return not any(task.done() for task in self._listening)

    async def close(self) -> None:
        """Stop listening and cut all connections. Afterwards no socket is left."""
        tasks = [*self._listening, *self._talking]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for listener in self._listening.values():
            listener.close()
        self._listening.clear()
        await asyncio.sleep(0)  # transports close their sockets in the loop's next round

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            while not self._allowance.take():  # noqa: ASYNC110 - time alone fills it
                await asyncio.sleep(_REST_S)
            try:
                made, address = await loop.sock_accept(listener)
            except OSError as error:
                if error.errno not in _PASSING:
                    self._log("guests_not_accepted", error)
                    return
                await asyncio.sleep(_REST_S)
                continue
            self._begin(made, str(address[0]))
            await asyncio.sleep(0)  # others' turn: an accept that need not wait gives none

    def _begin(self, made: socket.socket, peer: str) -> None:
        task = asyncio.ensure_future(self._hold(made, peer))
        place = self._share.take(peer, task.cancel)
        if place is None:
            REFUSED.labels(self._service).inc()
            task.cancel()
        self._talking.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self._talking.discard(task)
            made.close()  # also where the task never began
            self._share.give_back(place)

        task.add_done_callback(ended)

    async def _hold(self, made: socket.socket, peer: str) -> None:
        writer = None
        try:
            reader, writer = await asyncio.open_connection(sock=made, limit=self._buffer_bytes)
            await self._talk(reader, writer, peer)
            async with asyncio.timeout(self._end_s):
                writer.close()
                await writer.wait_closed()
        except (OSError, TimeoutError, EOFError):
            pass  # a guest that went away, or takes nothing
        except Exception as error:  # noqa: BLE001 - one conversation's bug ends that one alone
            self._log("guest_conversation_failed", error)
        finally:
            if writer is not None:
                writer.transport.abort()

    def _log(self, event: str, error: Exception) -> None:
        said = f"{event}: {error!r}"
        if said != self._logged:
            self._logged = said
            _LOG.error(event, service=self._service, error=repr(error), exc_info=error)
