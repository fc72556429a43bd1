"""One TCP connection to an instance by `InstanceService.Forward`, between any two ends here.

gRPC's own thread takes what is to be sent, piece by piece, once the last is on its way: what is
not taken is not read here. An end is passed on in either direction by itself. Nothing is sent
before the first answer, so that a refusal is not hidden by it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unkai_cli.client import Client

PIECE_BYTES = 64 << 10


class Tunnel:
    """One connection; `open`, then `carry` on some thread until both sides have ended."""

    def __init__(self, client: Client, instance_id: str, port_number: int) -> None:
        self._client = client
        self._instance_id = instance_id
        self._port_number = port_number
        self._is_open = threading.Event()
        self._is_over = threading.Event()
        self._take: Callable[[], bytes] = bytes
        self._call: Any = None

    @property
    def is_over(self) -> bool:
        """Tell whether nothing more is sent."""
        return self._is_over.is_set()

    def open(self) -> None:
        """Connect; raises as the scheduler says when it cannot be."""
        with _errors():
            self._call = self._client.both("InstanceService", "Forward", self._requests())
            next(self._call, None)

    def carry(
        self, take: Callable[[], bytes], give: Callable[[bytes], None], end: Callable[[], None]
    ) -> None:
        """Carry bytes until the instance has ended and all is sent, or the call has.

        `take` waits for bytes, empty at their end; `give` writes; `end`: no more will be given.
        """
        self._take = take
        self._is_open.set()
        try:
            with _errors():
                for answer in self._call:
                    if answer.end:
                        end()
                    else:
                        give(answer.data)
        finally:
            self.close()

    def close(self) -> None:
        """End the call."""
        self._is_over.set()
        self._is_open.set()
        if self._call is not None:
            self._call.cancel()

    def _requests(self) -> Iterator[Any]:
        from unkai.compute.v1 import instance_service_pb2 as pb

        kind = pb.ForwardRequest
        yield kind(open=kind.Open(instance_id=self._instance_id, port_number=self._port_number))
        self._is_open.wait()
        while not self._is_over.is_set() and (piece := self._take()):
            yield kind(data=piece)


def _errors() -> Any:
    from contextlib import contextmanager

    import grpc

    from unkai_wire.rpc_errors import from_rpc_error

    @contextmanager
    def translated() -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error

    return translated()
