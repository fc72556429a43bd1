"""Replays of real requests: the trace, ways to place them, and what came of it."""
