"""The settings of credentials: where our PEM files lie, and what others' must come from.

A part of `settings.py`. Nothing here opens a file.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from unkai_wire.tls import TlsFiles

PKI = Path("/etc/unkai/pki")
"""Where `unkai-scheduler init` puts them."""


class TlsSettings(BaseModel):
    """Where the PEM files lie that we show and check."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ca: Path = PKI / "ca.crt"
    """Certificate of the CA that every party's certificate must come from."""
    certificate: Path = PKI / "scheduler.crt"
    """Our certificate."""
    key: Path = PKI / "scheduler.key"
    """Our private key; readable by us alone."""

    def files(self) -> TlsFiles:
        """Return the three paths as the wire package wants them."""
        return TlsFiles(ca=self.ca, certificate=self.certificate, key=self.key)
