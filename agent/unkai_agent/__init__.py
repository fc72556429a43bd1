"""The agent: one on each host, or many simulated hosts in one process."""

from unkai_wire import small_process as small_process
