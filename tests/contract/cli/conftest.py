"""Fixtures of the tests that run the command line as a process of its own."""

from tests.support.command_line_cloud import cloud, fake, own_settings, pki, quiet_scheduler

__all__ = ["cloud", "fake", "own_settings", "pki", "quiet_scheduler"]
