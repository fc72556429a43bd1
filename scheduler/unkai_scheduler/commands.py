"""What prepares a cloud: `init`, `cert` and `etcd`, the commands beside the daemon's own.

They need the CA's key and run where it lies, once for each new party. They talk to no daemon of
ours; `etcd` alone talks to anybody, as etcd's root with a certificate that lives for minutes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click
import grpc

from unkai_scheduler import certificates, ovn_certificates, templates
from unkai_scheduler.cluster import etcd_auth
from unkai_scheduler.settings import InvalidSettings, default_name, load_settings
from unkai_wire.errors import AlreadyExists, NotFound, UnkaiError
from unkai_wire.new_files import hint, write_new
from unkai_wire.tls import common_name

_DEFAULT_DIR = Path("/etc/unkai")
_NO_RIGHTS = "it never had rights in etcd; daemons take its certificate until that ends"


def explained(error: UnkaiError) -> click.ClickException:
    """Return what click prints of one of our errors: what, why, and the fix."""
    fix = f"\nfix: {error.fix}" if error.fix else ""
    return click.ClickException(f"{error.message} ({error.reason}){fix}")


@contextmanager
def explaining() -> Iterator[None]:
    """Say our errors, and what the file system refuses, as click says errors."""
    try:
        yield
    except UnkaiError as error:
        raise explained(error) from error
    except OSError as error:
        raise click.ClickException(
            f"{error.filename or 'a file'}: {error.strerror or error}\n"
            f"fix: {hint(error, 'run as root, or name a folder of yours (--dir, --out)')}"
        ) from error


_dir = click.option(
    "--dir",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=_DEFAULT_DIR,
    show_default=True,
    help="Folder of settings; certificates lie in its pki/.",
)
_out = click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder to write to; ./NAME by default.",
)
_addresses = click.option(
    "--address", "addresses", multiple=True, help="IP address in the certificate; repeatable."
)


@click.command()
@_dir
@_addresses
@click.option("--name", default="", help="Name of this scheduler; the host name by default.")
def init(folder: Path, addresses: tuple[str, ...], name: str) -> None:
    """Make the CA, the first certificates, settings and a systemd unit; keep what exists.

    The first address is where this machine's scheduler and etcd are reached. What is left to do
    is printed at the end.
    """
    folder = folder.resolve()
    pki = folder / "pki"
    name = name or default_name()
    local = (*addresses, "127.0.0.1", "::1")
    with explaining():
        try:
            authority = certificates.init(pki)
            click.echo(f"made {pki / 'ca.crt'} and its key")
        except AlreadyExists:
            authority = certificates.load(pki)
            click.echo(f"kept {pki / 'ca.crt'}: it exists")
        for bundle in (
            authority.issue_scheduler(name, local),
            authority.issue_client("admin"),
            authority.issue_etcd(name, local),
            authority.issue_etcd_client(name),
        ):
            _write_or_keep(bundle, pki)
        address = addresses[0] if addresses else ""
        _write_text(folder / "scheduler.toml", templates.settings(name, pki, address))
        _write_text(folder / templates.ETCD, templates.etcd(address))
        _write_text(folder / templates.UNIT, templates.unit(folder))
        click.echo(_next_steps(folder, address))


def _write_or_keep(bundle: certificates.Bundle, folder: Path) -> None:
    path = folder / f"{bundle.name}.crt"
    try:
        bundle.write(folder)
        click.echo(f"made {path} and its key")
    except AlreadyExists:
        click.echo(f"kept {path}: it exists")


def _write_text(path: Path, text: str) -> None:
    if path.exists():
        click.echo(f"kept {path}: it exists")
        return
    write_new(path, text.encode())
    click.echo(f"made {path}")


def _next_steps(folder: Path, address: str) -> str:
    endpoint = f"--endpoint {address}:2379" if address and ":" not in address else ""
    return f"""
next, as root:
  apt install --no-install-recommends etcd-server etcd-client
  install -d -o etcd -g etcd -m 0700 /etc/etcd/pki
  install -o etcd -g etcd -m 0600 {folder}/pki/{{ca.crt,etcd.crt,etcd.key}} /etc/etcd/pki/
  cp {folder}/{templates.ETCD} /etc/default/etcd && systemctl restart etcd
  unkai-scheduler etcd secure {endpoint}
  cp {folder}/{templates.UNIT} /etc/systemd/system/
  systemctl enable --now unkai-scheduler
then make each host's certificate: unkai-scheduler cert host NAME --address ADDRESS
keep a copy of {folder}/pki/ca.key offline: it makes every other certificate"""


@click.group()
def cert() -> None:
    """Make certificates from the CA that `init` made."""


@cert.command("host")
@click.argument("name")
@click.option("--host-id", help="Id of the host; a new one by default.")
@_addresses
@_out
@_dir
def cert_host(
    name: str, host_id: str | None, addresses: tuple[str, ...], out: Path | None, folder: Path
) -> None:
    """Make the certificate of a host's agent."""
    _issue(folder, out or Path(name), lambda ca: ca.issue_host(name, addresses, host_id))


@cert.command("client")
@click.argument("name")
@_out
@_dir
def cert_client(name: str, out: Path | None, folder: Path) -> None:
    """Make the certificate of a person or program, with all rights."""
    _issue(folder, out or Path(name), lambda ca: ca.issue_client(name))


@cert.command("monitor")
@click.argument("name")
@_out
@_dir
def cert_monitor(name: str, out: Path | None, folder: Path) -> None:
    """Make the certificate of a Prometheus.

    It reads both daemons' figures, and may call nothing.
    """
    _issue(folder, out or Path(name), lambda ca: ca.issue_monitor(name))


@cert.command("scheduler")
@click.argument("name")
@_addresses
@_out
@_dir
def cert_scheduler(name: str, addresses: tuple[str, ...], out: Path | None, folder: Path) -> None:
    """Make the certificate of one more scheduler."""
    _issue(folder, out or Path(name), lambda ca: ca.issue_scheduler(name, addresses))


@cert.command("etcd")
@click.argument("name")
@_addresses
@_out
@_dir
def cert_etcd(name: str, addresses: tuple[str, ...], out: Path | None, folder: Path) -> None:
    """Make the certificate of an etcd member."""
    _issue(folder, out or Path(name), lambda ca: ca.issue_etcd(name, addresses))


@cert.command("database")
@click.argument("name")
@_addresses
@_out
@_dir
def cert_database(name: str, addresses: tuple[str, ...], out: Path | None, folder: Path) -> None:
    """Make the certificate of a database server.

    PostgreSQL's or MariaDB's, good for NAME and its addresses.
    """
    _issue(folder, out or Path(name), lambda ca: ca.issue_database(name, addresses))


@cert.command("ovn")
@click.argument("name")
@_addresses
@_out
@_dir
def cert_ovn(name: str, addresses: tuple[str, ...], out: Path | None, folder: Path) -> None:
    """Make the certificates of OVN's databases on machine NAME.

    Of both: ovn-nb.crt, ovn-sb.crt, the keys, and whom each lets in: ovn-nb-ca.crt (schedulers
    alone), ovn-sb-ca.crt (hosts too). OVN's own CA is made in DIR/ovn/pki at the first use.
    """
    with explaining():
        bundles = _ovn_authority(folder).issue_databases(name, addresses)
        for path in certificates.write(bundles, out or Path(name)):
            click.echo(str(path))


@cert.command("ovn-client")
@click.argument("name")
@_out
@_dir
def cert_ovn_client(name: str, out: Path | None, folder: Path) -> None:
    """Make the certificate that scheduler NAME shows to OVN's databases.

    Hosts need none: they show their own, which `cert host` made.
    """
    with explaining():
        for path in _ovn_authority(folder).issue_client(name).write(out or Path(name)):
            click.echo(str(path))


def _ovn_authority(folder: Path) -> ovn_certificates.OvnAuthority:
    return ovn_certificates.authority(
        certificates.load(folder / "pki"), folder / ovn_certificates.FOLDER
    )


@cert.command("fleet")
@click.argument("name")
@_addresses
@_out
@_dir
def cert_fleet(name: str, addresses: tuple[str, ...], out: Path | None, folder: Path) -> None:
    """Make the certificate of the lab's simulated hosts."""
    _issue(folder, out or Path(name), lambda ca: ca.issue_fleet(name, addresses))


def _issue(folder: Path, out: Path, make: certificates.Issue) -> None:
    with explaining():
        for path in make(certificates.load(folder / "pki")).write(out):
            click.echo(str(path))


@click.group()
def etcd() -> None:
    """Say in etcd who may read and write what."""


_endpoints = click.option(
    "--endpoint",
    "endpoints",
    multiple=True,
    help="HOST:PORT of a member; repeatable. By default those of DIR/scheduler.toml.",
)


@etcd.command("secure")
@_endpoints
@_dir
def etcd_secure(endpoints: tuple[str, ...], folder: Path) -> None:
    """Let each certificate write what is its own alone; run it after every new certificate.

    Nobody is locked out by running it again, and after etcd was wiped it must be.
    """
    with _etcd_root(folder, endpoints) as (authority, members, credentials):
        etcd_auth.secure(members, credentials, authority.issued(), click.echo)


@etcd.command("revoke")
@click.argument("name")
@_endpoints
@_dir
def etcd_revoke(name: str, endpoints: tuple[str, ...], folder: Path) -> None:
    """Shut out the holder of a lost key: a host's id, fleet-NAME or scheduler-NAME."""
    with _etcd_root(folder, endpoints) as (authority, members, credentials):
        holders = {common_name(principal): principal for principal in authority.issued()}
        if name not in holders:
            raise NotFound(
                f"this CA has made no certificate for {name}",
                reason="CERTIFICATE_NOT_FOUND",
                fix=f"choose one of those in {folder / 'pki/issued'}",
                metadata={"certificate": name},
                resource_kind="certificate",
                resource=name,
            )
        etcd_auth.revoke(members, credentials, holders[name])
        authority.forget(holders[name])
        had_rights = etcd_auth.grant_of(holders[name]) is not None
        click.echo(f"revoked {name}" if had_rights else f"forgot {name}: {_NO_RIGHTS}")


@contextmanager
def _etcd_root(
    folder: Path, endpoints: tuple[str, ...]
) -> Iterator[tuple[certificates.Authority, Sequence[str], grpc.ChannelCredentials]]:
    """Give the CA, the members, and credentials of etcd's root, which no file ever holds."""
    with explaining():
        authority = certificates.load(folder / "pki")
        root = authority.etcd_root()
        credentials = grpc.ssl_channel_credentials(root.ca, root.key, root.certificate)
        yield authority, endpoints or _members(folder), credentials


def _members(folder: Path) -> Sequence[str]:
    try:
        return load_settings(folder / "scheduler.toml").etcd.endpoints
    except InvalidSettings as error:
        raise click.ClickException(f"{error}; or name a member with --endpoint") from error
