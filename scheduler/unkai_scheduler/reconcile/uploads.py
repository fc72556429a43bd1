"""Uploads whose scheduler is gone: the leader gives them up and removes what they left.

An upload is dead when its beat has not risen for long by the leader's own count of time: no clock
of another machine is believed, and time in which the database could not be read does not count.
The mark comes first, so that an upload that wakes up later cannot end; each step may be done twice.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial

import structlog

from unkai_scheduler.domain.images import Upload
from unkai_scheduler.reconcile.office import Office
from unkai_scheduler.store import uploads
from unkai_wire.errors import UnkaiError

SILENT_S = 60.0
"""Silence after which an upload is given up; it shows itself every 5 s."""
MOST_AT_ONCE_S = 10.0
"""Longest silence that two looks can tell of."""

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Watched:
    """An upload as it was last seen, and for how long it was so."""

    upload: Upload
    silent_s: float = 0.0


class UploadWatch:
    """Looks at the uploads of all schedulers."""

    def __init__(self, office: Office) -> None:
        self._office = office
        self._watched: dict[str, _Watched] = {}
        self._looked_s = asyncio.get_running_loop().time()

    async def give_up_dead(self) -> None:
        """Look at all uploads; end what is dead and remove its bytes.

        Each is tried, and the first failure of the store raised in the end.
        """
        found = await self._office.uow.read(uploads.list_all)
        failures: list[UnkaiError] = []
        for upload in self._dead(found):
            give_up = partial(uploads.give_up, upload=upload)
            if upload.given_up or await self._office.lead(give_up, tells=False):
                try:
                    await self._office.images.delete(upload.key)
                except UnkaiError as error:
                    failures.append(error)
                else:
                    await self._forget(upload)
        if failures:
            raise failures[0]

    def _dead(self, found: list[Upload]) -> list[Upload]:
        now_s = asyncio.get_running_loop().time()
        passed_s, self._looked_s = min(now_s - self._looked_s, MOST_AT_ONCE_S), now_s
        before, self._watched = self._watched, {}
        for upload in found:
            seen = before.get(upload.key)
            is_silent = seen is not None and seen.upload == upload
            silent_s = seen.silent_s + passed_s if seen and is_silent else 0.0
            self._watched[upload.key] = _Watched(upload, silent_s)
        return [
            watched.upload
            for watched in self._watched.values()
            if watched.upload.given_up or watched.silent_s >= SILENT_S
        ]

    async def _forget(self, upload: Upload) -> None:
        await self._office.lead(lambda conn: uploads.forget(conn, upload.key), tells=False)
        log.info("upload_given_up", key=upload.key, image=upload.image_id)
