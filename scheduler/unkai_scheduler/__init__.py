"""The scheduler: the public API, and the leader that keeps true what was asked for."""

from unkai_wire import small_process as small_process
