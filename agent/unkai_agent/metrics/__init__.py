"""Live figures of this host and its machines: read counters, make rates, hand out samples.

`counters.py` parses (pure), `sources.py` reads a real or a lab host, `simulated.py` makes figures
up for simulated hosts, `rates.py` turns two readings into a sample (pure), `sampler.py` does so
every two seconds and streams the result. Nothing here decides anything; the scheduler does.
"""

from __future__ import annotations

from unkai_agent.metrics.counters import HostCounters
from unkai_agent.metrics.sampler import Sampler
from unkai_agent.metrics.simulated import HostLoad, SimulatedHost
from unkai_agent.metrics.sources import GroupLimits, SamplerPaths, counter_source, group_limits

__all__ = [
    "GroupLimits",
    "HostCounters",
    "HostLoad",
    "Sampler",
    "SamplerPaths",
    "SimulatedHost",
    "counter_source",
    "group_limits",
]
