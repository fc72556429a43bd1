"""The command line as a user of a test's cloud calls it."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass

from tests.support.daemons import LOCAL, Cloud, Daemon


@dataclass(frozen=True)
class CommandLine:
    """`unkai`, with an administrator's certificate, at one scheduler."""

    cloud: Cloud
    scheduler: Daemon

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command; raise when it fails."""
        shown = self.cloud.admin
        environment = os.environ | {
            "UNKAI_ADDRESS": f"{LOCAL}:{self.scheduler.grpc_port}",
            "UNKAI_CA": str(shown.ca),
            "UNKAI_CERTIFICATE": str(shown.certificate),
            "UNKAI_KEY": str(shown.key),
        }
        return subprocess.run(
            [sys.executable, "-m", "unkai_cli", *words],
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
            env=environment,
        )
