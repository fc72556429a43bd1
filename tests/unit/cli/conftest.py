"""Fixtures of the command line's tests."""

from tests.support.command_line_cloud import (
    cloud,
    fake,
    networks,
    own_settings,
    pki,
    quiet_scheduler,
)

__all__ = ["cloud", "fake", "networks", "own_settings", "pki", "quiet_scheduler"]
