"""What this host was asked to hold, on its own disk: it survives anything but the disk.

One JSON file for each machine and each tombstone, and `host.json` with the highest term seen;
`ledger_files.py` replaces them whole or not at all. Memory is changed only after the disk was, so
that an order that is answered is kept, and one that is refused changed nothing.

The trap: a file that cannot be read is moved to `corrupt/` and reported, never dropped. Its
machine is then one that the hypervisor has and the ledger has not: reported, and never touched.
Calls block on fsync: the converger makes them in a thread. All are safe to make from several.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from unkai_agent.domain import records
from unkai_agent.domain.machines import Fence, LedgerEntry, MachineSpec, Tombstone
from unkai_agent.ledger_files import LedgerFiles, LedgerProblem
from unkai_wire.deadlines import TOMBSTONE_KEEP_S
from unkai_wire.errors import Conflict, FailedPrecondition, InvalidArgument
from unkai_wire.ids import check_id


class Ledger:
    """The ledger of one host."""

    def __init__(
        self,
        root: Path,
        *,
        report: Callable[[LedgerProblem], None] = lambda _: None,
        durable: bool = True,
    ) -> None:
        """Read the ledger under `root`, making it if need be.

        `durable=False` leaves out fsync: for simulated hosts only, which have nothing to lose.
        """
        self._root = root
        self._files = LedgerFiles(root, report=report, durable=durable)
        self._lock = threading.RLock()
        self._entries = self._files.load("machines", records.entry_from_record)
        self._tombstones = self._files.load("tombstones", records.tombstone_from_record)
        for ident in set(self._entries) & set(self._tombstones):
            self._settle(ident)
        self._highest_term = self._load_term()
        self._counted_s: dict[Tombstone, float] = {}
        """Since when each acknowledged tombstone is known to be."""

    # -- reading ---------------------------------------------------------------------------

    @property
    def problems(self) -> Sequence[LedgerProblem]:
        """Files that could not be read at the start, and where they were put."""
        return self._files.problems

    @property
    def highest_term(self) -> int:
        """Highest term seen."""
        return self._highest_term

    def entries(self) -> Sequence[LedgerEntry]:
        """Return all entries, by instance id."""
        return [entry for _, entry in sorted(self._entries.copy().items())]

    def entry(self, instance_id: str) -> LedgerEntry | None:
        """Return a machine's entry, or None."""
        return self._entries.get(instance_id)

    def tombstones(self) -> Sequence[Tombstone]:
        """Return all tombstones, by instance id."""
        return [stone for _, stone in sorted(self._tombstones.copy().items())]

    def tombstone(self, instance_id: str) -> Tombstone | None:
        """Return a machine's tombstone, or None."""
        return self._tombstones.get(instance_id)

    # -- orders ----------------------------------------------------------------------------

    def raise_term(self, term: int) -> int:
        """Note a leader's term; refuse an older one with STALE_TERM. Return the highest."""
        with self._lock:
            if term < 1:
                raise InvalidArgument.field("fence.term", "must be 1 or more")
            if term < self._highest_term:
                raise FailedPrecondition(
                    f"term {term} is over: term {self._highest_term} has begun",
                    reason="STALE_TERM",
                    fix="the leader of the higher term gives the orders now",
                    metadata={"term": str(term), "highest_term": str(self._highest_term)},
                )
            if term > self._highest_term:
                body = {"highest_term": term}
                self._files.write(self._root / "host.json", body, may_draw=True)
                self._highest_term = term
            return self._highest_term

    def accept(self, fence: Fence, spec: MachineSpec) -> LedgerEntry:
        """Take a spec in, or refuse it: STALE_TERM, TOMBSTONED, STALE_GENERATION,
        STALE_RUN_EPOCH; MACHINE_REMOVING while an older machine of that id is being removed.

        The same spec again changes nothing. What once had to exist has to for ever.
        """
        check_id("instance", spec.instance_id, "spec.instance.id")
        with self._lock:
            self.raise_term(fence.term)
            self._check_tombstone(fence, spec.instance_id)
            held = self._entries.get(spec.instance_id)
            if held is None:
                entry = LedgerEntry(spec=spec, term=fence.term)
            else:
                _check_fence(fence, held)
                entry = _renewed(held, fence, spec)
            if entry != held:
                self._keep(entry)
            stone = self._tombstones.get(spec.instance_id)
            if stone is not None:
                self._unlink("tombstones", spec.instance_id)
                del self._tombstones[spec.instance_id]
            return entry

    def begin_removal(self, fence: Fence, instance_id: str) -> LedgerEntry | None:
        """Note that a machine shall go. Return its entry, or None when none is held."""
        check_id("instance", instance_id, "instance_id")
        with self._lock:
            self.raise_term(fence.term)
            _check_numbers(fence)
            held = self._entries.get(instance_id)
            if held is None:
                return None
            if held.removal is not None and _covers(held.removal, fence):
                return held
            _check_fence(fence, held)
            entry = replace(held, removal=fence, term=fence.term)
            self._keep(entry, may_draw=True)
            return entry

    def bury(self, fence: Fence, instance_id: str, now: datetime) -> Tombstone:
        """Put a tombstone in the place of a machine of which nothing is left.

        A tombstone that is there already stays when it is as high.
        """
        check_id("instance", instance_id, "instance_id")
        with self._lock:
            stone = self._tombstones.get(instance_id)
            if stone is None or not _covers(_fence_of(stone), fence):
                stone = Tombstone(
                    instance_id=instance_id,
                    generation=max(fence.generation, stone.generation if stone else 0),
                    run_epoch=max(fence.run_epoch, stone.run_epoch if stone else 0),
                    remove_time=now,
                )
                self._keep_stone(stone)
            if instance_id in self._entries:
                self._unlink("machines", instance_id)
                del self._entries[instance_id]
            return stone

    def acknowledge(self, fence: Fence, stones: Sequence[Tombstone], now: datetime) -> None:
        """Note which tombstones the leader has recorded; others than those held are ignored."""
        with self._lock:
            self.raise_term(fence.term)
            for told in stones:
                held = self._tombstones.get(told.instance_id)
                if held is None or held.acknowledge_time is not None:
                    continue
                if not _covers(_fence_of(told), _fence_of(held)):
                    continue
                self._keep_stone(replace(held, acknowledge_time=now))

    def sweep(self, now_s: float) -> Sequence[Tombstone]:
        """Forget tombstones acknowledged so long ago that no late order can be under way.

        Call it again and again, with monotonic seconds: the first call that finds a tombstone
        acknowledged begins to count. A wall clock that was set would end its time too early.
        """
        with self._lock:
            self._files.lay_by()
            self._counted_s = {
                stone: self._counted_s.get(stone, now_s)
                for stone in self._tombstones.values()
                if stone.acknowledge_time is not None
            }
            gone = [
                s for s, since_s in self._counted_s.items() if since_s + TOMBSTONE_KEEP_S <= now_s
            ]
            for stone in gone:
                self._unlink("tombstones", stone.instance_id)
                del self._tombstones[stone.instance_id]
            return gone

    def update(self, instance_id: str, **changes: Any) -> LedgerEntry | None:
        """Write what was observed of a machine; None when it is not held (any more)."""
        with self._lock:
            held = self._entries.get(instance_id)
            if held is None:
                return None
            entry = replace(held, **changes)
            if entry != held:
                self._keep(entry)
            return entry

    # -- files -----------------------------------------------------------------------------

    def _check_tombstone(self, fence: Fence, instance_id: str) -> None:
        _check_numbers(fence)
        stone = self._tombstones.get(instance_id)
        if stone is None:
            return
        if fence.generation <= stone.generation or fence.run_epoch < stone.run_epoch:
            raise FailedPrecondition(
                f"instance {instance_id} was removed here at generation {stone.generation}",
                reason="TOMBSTONED",
                fix="the order is older than the removal; read the instance again",
                metadata={
                    "instance_id": instance_id,
                    "generation": str(stone.generation),
                    "run_epoch": str(stone.run_epoch),
                },
            )

    def _keep(self, entry: LedgerEntry, *, may_draw: bool = False) -> None:
        ident = entry.spec.instance_id
        path = self._root / "machines" / f"{ident}.json"
        self._files.write(path, records.entry_to_record(entry), may_draw=may_draw)
        self._entries[ident] = entry

    def _keep_stone(self, stone: Tombstone) -> None:
        path = self._root / "tombstones" / f"{stone.instance_id}.json"
        self._files.write(path, records.tombstone_to_record(stone), may_draw=True)
        self._tombstones[stone.instance_id] = stone

    def _settle(self, ident: str) -> None:
        """End what a crash left between the two files of one machine: the higher one stays."""
        entry, stone = self._entries[ident], self._tombstones[ident]
        if entry.spec.generation > stone.generation:
            self._unlink("tombstones", ident)
            del self._tombstones[ident]
        else:
            self._unlink("machines", ident)
            del self._entries[ident]

    def _load_term(self) -> int:
        """Return the highest term; entries bear theirs, so that losing one file loses none."""
        path = self._root / "host.json"
        noted = None
        if path.exists():
            noted = self._files.read(path, lambda values: int(values["highest_term"]))
        return max([noted or 0, *(entry.term for entry in self._entries.values())])

    def _unlink(self, folder: str, ident: str) -> None:
        self._files.remove(self._root / folder / f"{ident}.json")


def _fence_of(stone: Tombstone) -> Fence:
    return Fence(term=0, generation=stone.generation, run_epoch=stone.run_epoch)


def _covers(one: Fence, other: Fence) -> bool:
    return one.generation >= other.generation and one.run_epoch >= other.run_epoch


def _check_numbers(fence: Fence) -> None:
    if fence.generation < 1:
        raise InvalidArgument.field("fence.generation", "must be 1 or more")
    if fence.run_epoch < 1:
        raise InvalidArgument.field("fence.run_epoch", "must be 1 or more")


def _check_fence(fence: Fence, held: LedgerEntry) -> None:
    """Refuse what is older than what is held."""
    ident = held.spec.instance_id
    for reason, ours, theirs in (
        ("STALE_RUN_EPOCH", held.spec.run_epoch, fence.run_epoch),
        ("STALE_GENERATION", held.spec.generation, fence.generation),
    ):
        if theirs < ours:
            word = reason.removeprefix("STALE_").replace("_", " ").lower()
            raise FailedPrecondition(
                f"{word} {theirs} of instance {ident} is over: this host holds {ours}",
                reason=reason,
                fix="read the instance again: it has changed meanwhile",
                metadata={"instance_id": ident, "given": str(theirs), "held": str(ours)},
            )


def _renewed(held: LedgerEntry, fence: Fence, spec: MachineSpec) -> LedgerEntry:
    ident = spec.instance_id
    if held.removal is not None:
        if _covers(held.removal, fence):
            raise FailedPrecondition(
                f"instance {ident} is being removed at generation {held.removal.generation}",
                reason="TOMBSTONED",
                fix="the order is older than the removal; read the instance again",
                metadata={"instance_id": ident, "generation": str(held.removal.generation)},
            )
        raise Conflict(
            f"instance {ident} is still being removed here; ask again when it is gone",
            reason="MACHINE_REMOVING",
            metadata={"instance_id": ident},
        )
    existing = {disk.name for disk in held.spec.disks if disk.must_exist}
    disks = tuple(replace(d, must_exist=d.must_exist or d.name in existing) for d in spec.disks)
    newer = spec.generation > held.spec.generation
    return replace(
        held,
        spec=replace(spec, disks=disks),
        term=fence.term,
        guest_shutdown=held.guest_shutdown and not newer,
    )
