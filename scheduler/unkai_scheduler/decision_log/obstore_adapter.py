"""Segments of the decision log in a directory or an S3 bucket, by `obstore`.

An engine's write shows an object whole or not at all, which is all that is asked here. A directory
is not flushed to the disk: what a machine that loses its power leaves half is found by its check
sum, and a decision explained no more is no harm.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, S3Store

from unkai_wire.errors import FailedPrecondition, NotFound, Unavailable, UnkaiError

if TYPE_CHECKING:
    from obstore.store import ObjectStore


class ObstoreSegments:
    """Implements `SegmentStore` over one obstore store."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    async def put(self, name: str, content: bytes) -> None:
        """Store the bytes under the name."""
        with _translated(name):
            await obstore.put_async(self._store, name, content)

    async def get(self, name: str) -> bytes:
        """Return the bytes."""
        with _translated(name):
            found = await obstore.get_async(self._store, name)
            return bytes(await found.bytes_async())

    async def delete(self, name: str) -> None:
        """Remove the name; removing what is not there is fine."""
        with suppress(NotFound), _translated(name):
            await obstore.delete_async(self._store, name)

    async def list(self) -> Mapping[str, int]:
        """Return all names with their numbers of bytes."""
        with _translated(""):
            pages = obstore.list(self._store)
            return {str(m["path"]): int(m["size"]) async for page in pages for m in page}


def open_segment_store(url: str) -> ObstoreSegments:
    """Open `file:///directory` (made when missing) or `s3://bucket/prefix`."""
    parts = urlsplit(url)
    if parts.scheme == "file" and parts.path:
        directory = Path(unquote(parts.path))
        with suppress(OSError):
            directory.mkdir(parents=True, exist_ok=True, mode=0o750)
            return ObstoreSegments(LocalStore(prefix=directory))
    if parts.scheme == "s3" and parts.netloc:
        with suppress(BaseError, ValueError):
            return ObstoreSegments(S3Store.from_url(url))
    raise FailedPrecondition(
        f"the decision log cannot be kept at {url!r}",
        reason="DECISION_LOG_URL",
        fix="set decision_log.url to a file:///DIRECTORY that can be made, or s3://BUCKET/PREFIX",
        metadata={"url": url},
    )


@contextmanager
def _translated(name: str) -> Iterator[None]:
    """Turn the engine's errors into ours."""
    try:
        yield
    except FileNotFoundError as error:
        raise NotFound.of("segment", name) from error
    except (BaseError, OSError) as error:
        raise _trouble(error) from error


def _trouble(error: Exception) -> UnkaiError:
    if "No space left" in str(error) or "StorageFull" in str(error):
        return FailedPrecondition(
            "the place of the decision log is full",
            reason="DECISION_LOG_FULL",
            fix="give it more room, or keep less: decision_log.kept_bytes",
        )
    return Unavailable(
        f"the place of the decision log does not answer: {str(error).partition(chr(10))[0][:200]}",
        reason="DECISION_LOG_UNAVAILABLE",
        fix="look at decision_log.url, and at the store or disk it names",
    )
