"""What the adapter is told: where the database is, who we are to it, and how long to wait."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from unkai_scheduler.network_settings import NetworkSettings


@dataclass(frozen=True, slots=True)
class OvnSettings:
    """Way to one of OVN's databases."""

    remotes: tuple[str, ...]
    """As `ssl:192.0.2.1:6641`; addresses, not names. Of a cluster all: its leader is asked."""
    certificate: Path | None = None
    key: Path | None = None
    authority: Path | None = None
    server_name: str = ""
    """DNS name that the server's certificate must have; empty: the address of its remote."""
    transaction_s: float = 5.0
    """An answer that has not come by then is unknown."""
    grace_s: float = 2.0
    """After which a child that still says nothing is killed."""
    read_s: float = 15.0
    """For looking at the whole database."""
    listing_s: float = 30.0
    """For reading the whole database at first; it takes 0.4 ms a row."""
    probe_s: float = 10.0
    """A server silent for so long is asked whether it is there; twice as long, and it is not.

    The server asks too, after 5 s unless its `inactivity_probe` says otherwise, and hangs up on one
    that is busy reading the whole database: it should be told 60 s.
    """
    first_backoff_s: float = 0.25
    last_backoff_s: float = 30.0
    healthy_s: float = 60.0
    """A child that lived so long was well: the next begins at once again."""

    @classmethod
    def of(cls, remotes: tuple[str, ...], network: NetworkSettings) -> OvnSettings:
        """Make those for one of the databases that the scheduler's settings name."""
        if not any(remote.startswith("ssl:") for remote in remotes):
            return cls(remotes)
        tls = network.tls
        return cls(remotes, certificate=tls.certificate, key=tls.key, authority=tls.ca)
