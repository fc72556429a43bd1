"""TLS to the database that also asks who answers.

The library checks that the server's certificate is of our authority, not whose it is: each host's
certificate would do. So the name is compared here, after each handshake.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Mapping
from typing import Any

from ovs import stream

_LOG = logging.getLogger(__name__)


class NamedStream(stream.SSLStream):  # type: ignore[misc] # the library has no types
    """A stream whose server has the name that it was called by."""

    server_name = ""
    """DNS name to ask for; empty: the address of the remote."""
    _is_named = False

    def connect(self) -> int:
        """Go on with the handshake; an error number when it is somebody else."""
        if error := super().connect():
            return int(error)
        if not self._is_named:
            names = _names(self.socket.getpeercert())
            wanted = self.server_name or address_of(self.name)
            if wanted not in names:
                _LOG.error("the server's certificate is for %s, not %s", sorted(names), wanted)
                return errno.EACCES
            self._is_named = True
        return 0


def address_of(remote: str) -> str:
    """Return the address in a remote, as `192.0.2.1` of `ssl:192.0.2.1:6641`."""
    return remote.split(":", 1)[1].rsplit(":", 1)[0].strip("[]")


def _names(certificate: Mapping[str, Any] | None) -> set[str]:
    return {
        value
        for kind, value in (certificate or {}).get("subjectAltName", ())
        if kind in {"DNS", "IP Address"}
    }


def use(key: str, certificate: str, authority: str, server_name: str) -> None:
    """Speak TLS with these files from now on."""
    stream.Stream.ssl_set_private_key_file(key)
    stream.Stream.ssl_set_certificate_file(certificate)
    stream.Stream.ssl_set_ca_cert_file(authority)
    NamedStream.server_name = server_name
    stream.Stream.register_method("ssl", NamedStream)
