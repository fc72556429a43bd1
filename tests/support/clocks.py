"""A clock that is wrong in one process alone, by libfaketime; its monotonic clock stays right.

A step of the wall clock moves no monotonic clock on a real machine either. Traps of the library:
in such a process `time.sleep` fails (EINVAL: it sleeps until a monotonic moment), and looking at
the clock is slow while the file is read each time.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_LIBRARY = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"


NOTICED_S = 1
"""A step is noticed after so long: reading the file at each look at the clock takes all the CPU."""


@dataclass(frozen=True, slots=True)
class SteppedClock:
    """A clock that a test steps while the program runs."""

    file: Path

    @classmethod
    def make(cls, folder: Path) -> SteppedClock:
        """Make one that is right until it is stepped."""
        clock = cls(folder / "faketime")
        clock.step(0)
        return clock

    def step(self, seconds: float) -> None:
        """Set the clock ahead, or back, of the right time from now on, but for `NOTICED_S`."""
        part = self.file.with_suffix(".part")
        part.write_text(f"{seconds:+.3f}\n")
        part.replace(self.file)

    @property
    def wrapper(self) -> list[str]:
        """The beginning of a command line whose program goes by this clock."""
        return [
            "env",
            f"LD_PRELOAD={_LIBRARY}",
            f"FAKETIME_TIMESTAMP_FILE={self.file}",
            f"FAKETIME_CACHE_DURATION={NOTICED_S}",
            "FAKETIME_DONT_FAKE_MONOTONIC=1",
            "DONT_FAKE_MONOTONIC=1",
        ]
