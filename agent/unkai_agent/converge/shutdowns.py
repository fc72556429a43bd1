"""How long one guest may take to shut down, and when its power button is pressed. Pure."""

from __future__ import annotations

BUTTON_S = 5.0
"""A guest still booting does not hear the power button: it is pressed again this often."""


class Shutdown:
    """A guest's shutdown under way; moments in monotonic seconds."""

    def __init__(self) -> None:
        self._deadline_s: float | None = None
        self._pressed_s = float("-inf")

    @property
    def is_under_way(self) -> bool:
        """Tell whether one has begun."""
        return self._deadline_s is not None

    def begin(self, now_s: float, grace_s: float) -> None:
        """Give the guest its time from now on, unless it has it already."""
        if self._deadline_s is None:
            self._deadline_s = now_s + grace_s
            self._pressed_s = float("-inf")

    def forget(self) -> None:
        """It is over, or no longer wanted."""
        self._deadline_s = None

    def left_s(self, now_s: float) -> float:
        """Return what is left of the guest's time; 0 once it is over."""
        return 0.0 if self._deadline_s is None else max(0.0, self._deadline_s - now_s)

    def press(self, now_s: float) -> bool:
        """Tell whether the button shall be pressed now; it counts as pressed."""
        if now_s - self._pressed_s < BUTTON_S:
            return False
        self._pressed_s = now_s
        return True
