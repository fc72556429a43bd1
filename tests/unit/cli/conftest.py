"""Fixtures of the command line's tests."""

from tests.support.command_line_cloud import cloud, fake, own_settings, pki, quiet_scheduler

__all__ = ["cloud", "fake", "own_settings", "pki", "quiet_scheduler"]
