"""The settings of virtual networks: OVN, what hosts are attached to, what guests are told.

A part of `settings.py`. Nothing here connects.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field

from unkai_scheduler.domain.addresses import OVERLAY_HEADER_BYTES, overlay_mtu
from unkai_scheduler.domain.names import is_domain
from unkai_scheduler.tls_settings import PKI, TlsSettings
from unkai_wire.setting_values import split_address


def _ovsdb_remote(text: str) -> str:
    scheme, _, place = text.partition(":")
    if scheme == "unix" and place.startswith("/"):
        return text
    if scheme not in ("ssl", "tcp"):
        raise ValueError(f"{text[:64]!r} is neither ssl:ADDRESS:PORT, tcp:… nor unix:/PATH")
    address, _ = split_address(place)
    if place.startswith(":"):
        raise ValueError(f"{text[:64]!r} names no address")
    try:
        ip_address(address)
    except ValueError as error:
        # A name would be looked up by a blocking call whenever the connection is lost.
        raise ValueError(f"{text[:64]!r} has a name where an IP address must be") from error
    return text


def _ip_version(version: int) -> int:
    if version not in OVERLAY_HEADER_BYTES:
        raise ValueError(f"{version} is neither 4 nor 6")
    return version


def _domain(text: str) -> str:
    if not is_domain(text):
        raise ValueError(f"{text[:64]!r} is not a domain of a-z, 0-9, - and .")
    return text


def _ip_address(text: str) -> str:
    return str(ip_address(text))


OvsdbRemote = Annotated[str, AfterValidator(_ovsdb_remote)]


class NetworkTlsSettings(TlsSettings):
    """Where the PEM files lie that we show to OVN's databases, and what theirs must come from."""

    ca: Path = PKI / "ovn-ca.crt"
    """Certificates of the CAs, one after the other, that those of the databases must come from."""
    certificate: Path = PKI / "ovn-client.crt"
    key: Path = PKI / "ovn-client.key"


class NetworkSettings(BaseModel, extra="forbid", frozen=True):
    """Virtual networks, which OVN carries."""

    northbound: tuple[OvsdbRemote, ...] = ()
    """OVN's northbound database: `ssl:ADDRESS:PORT` (of a cluster all), `tcp:ADDRESS:PORT` or
    `unix:/PATH`; none: there are no networks, and to make one is refused."""
    southbound: tuple[OvsdbRemote, ...] = ()
    """OVN's southbound database, as `northbound`; only read: which hosts reach the outside, where
    ports are, which members are well. None: routers have no way out."""
    tls: NetworkTlsSettings = NetworkTlsSettings()
    """Our credentials towards OVN, where a database is reached by `ssl:`."""
    compare_s: float = Field(default=600.0, ge=10, le=86_400)
    """Seconds between comparisons of everything with OVN; what others change is seen at once, so
    this is for what nobody told us of."""
    underlay_mtu: int = Field(default=1500, ge=1358, le=65_535)
    """Bytes of the largest packet that the network between hosts carries: tunnels take their part
    of it, and what is left is told to guests. Least: what leaves them the 1280 of IPv6."""
    underlay_ip_version: Annotated[int, AfterValidator(_ip_version)] = 4
    """4 or 6: what tunnels between hosts run over; the header of 6 is 20 bytes longer."""
    physical_networks: Mapping[
        Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,62}$")],
        Annotated[int, Field(ge=576, le=65_535)],
    ] = Field(default={})
    """The operator's networks that hosts are attached to: name to MTU in bytes."""
    dns_domain: Annotated[str, AfterValidator(_domain)] = "internal"
    """Domain of instances' names, on networks that name none; `internal` is reserved for this."""
    dns_servers: tuple[Annotated[str, AfterValidator(_ip_address)], ...] = Field(
        default=(), max_length=8
    )
    """Name servers that guests are told, on subnets that name none."""

    @property
    def enabled(self) -> bool:
        """Whether there are networks."""
        return bool(self.northbound)

    @property
    def uses_tls(self) -> bool:
        """Whether a database is reached by TLS."""
        return any(remote.startswith("ssl:") for remote in (*self.northbound, *self.southbound))

    def most_mtu(self, physical_network: str = "") -> int:
        """Return the largest MTU of a network; empty: of an overlay."""
        if physical_network:
            return self.physical_networks[physical_network]
        return overlay_mtu(self.underlay_mtu, self.underlay_ip_version)
