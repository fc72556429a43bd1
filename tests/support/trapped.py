"""A scheduler with a trap: at a named point of its work it signals itself, once told to.

As a program it runs `unkai-scheduler` unchanged but for the trap around its store and its agents:

    python -m tests.support.trapped POINT SIGNAL FILE unkai-scheduler run --config ...

The trap is armed while FILE is there, and goes off once: whoever arms it sees it gone. A point is
`before` or `after` an effect of `tripwire.EFFECTS` (`before lead`, `after ensure_machine`), or
`in lead` and `in write`: inside the transaction, its statements done and not yet committed.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.tripwire import EFFECTS

_ROOT = Path(__file__).parents[2]
_TRANSACTIONS = {"lead": 1, "write": 0, "write_grouped": 0}
"""Effects that are transactions, and where among their arguments the work stands."""


@dataclass(frozen=True, slots=True)
class Trap:
    """Where it is, what it does, and the file that arms it."""

    point: str
    signal_number: int
    file: Path

    @property
    def wrapper(self) -> list[str]:
        """The beginning of a command line whose scheduler has this trap."""
        name = signal.Signals(self.signal_number).name
        module = [sys.executable, "-m", "tests.support.trapped"]
        return ["env", f"PYTHONPATH={_ROOT}", *module, self.point, name, str(self.file)]

    def arm(self) -> None:
        """Let it go off the next time."""
        self.file.touch()

    @property
    def has_gone_off(self) -> bool:
        """Tell whether it went off since it was armed."""
        return not self.file.exists()

    def pass_by(self, point: str) -> None:
        """Come by a point: go on, or be stopped there, or killed."""
        if point == self.point and self.file.exists():
            self.file.unlink(missing_ok=True)
            # To this thread: a signal to the process may first be met by another one, while this
            # one goes on, through its commit and further (signal(7), pthread_kill(3)).
            signal.pthread_kill(threading.get_ident(), self.signal_number)

    def around(self, target: Any) -> Any:
        """Return a store, or agents, with the trap around its effects."""
        return _Trapped(target, self)


class _Trapped:
    def __init__(self, target: Any, trap: Trap) -> None:
        self._target = target
        self._trap = trap

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        if name not in EFFECTS and name not in _TRANSACTIONS:
            return found
        return self._guarded(name, found)

    def _guarded(
        self, name: str, effect: Callable[..., Awaitable[Any]]
    ) -> Callable[..., Awaitable[Any]]:
        async def guarded(*args: Any, **kwargs: Any) -> Any:
            self._trap.pass_by(f"before {name}")
            if name in _TRANSACTIONS:
                args = self._inside(name, args)
            answer = await effect(*args, **kwargs)
            self._trap.pass_by(f"after {name}")
            return answer

        return guarded

    def _inside(self, name: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
        place = _TRANSACTIONS[name]
        work = args[place]

        def watched(conn: Any) -> Any:
            answer = work(conn)
            self._trap.pass_by(f"in {name}")
            return answer

        return (*args[:place], watched, *args[place + 1 :])


def main() -> None:
    """Run the scheduler's command with the trap set."""
    from unkai_scheduler import daemon
    from unkai_scheduler.main import main as scheduler

    point, signal_name, file, _, *arguments = sys.argv[1:]
    trap = Trap(point, signal.Signals[signal_name], Path(file))
    open_store, make_agents = daemon.open_unit_of_work, daemon.GrpcAgents

    async def open_trapped(*args: Any, **kwargs: Any) -> Any:
        return trap.around(await open_store(*args, **kwargs))

    daemon.open_unit_of_work = open_trapped
    daemon.GrpcAgents = lambda *args: trap.around(make_agents(*args))  # type: ignore[misc,assignment]
    scheduler(arguments, prog_name="unkai-scheduler")


if __name__ == "__main__":
    main()
