"""Fixtures of the tests that run the command line as a process of its own."""

from tests.support.command_line_cloud import cloud, fake, own_settings, pki, quiet_scheduler
from tests.support.console_agent import agent

__all__ = ["agent", "cloud", "fake", "own_settings", "pki", "quiet_scheduler"]
