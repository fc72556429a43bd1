"""Who may even speak to us: certificates of our CA on TCP, root on the unix socket."""

from __future__ import annotations

import asyncio
import ssl
import urllib.error
import urllib.request
from pathlib import Path

import grpc
import pytest
from prometheus_client import CollectorRegistry

from tests.support.api import Api, an_api, make_certificates, tls_files
from tests.support.builders import a_host, an_instance
from unkai.compute.v1 import flavor_service_pb2, flavor_service_pb2_grpc
from unkai_scheduler import certificates
from unkai_scheduler.api.exporter import CloudCollector
from unkai_scheduler.store import hosts, instances
from unkai_wire.errors import FailedPrecondition, PermissionDenied, UnkaiError
from unkai_wire.local_socket import claim_socket
from unkai_wire.metrics_server import MetricsServer
from unkai_wire.rpc_errors import from_rpc_error
from unkai_wire.tls import SCHEDULER_TLS_NAME, channel_options


async def list_flavors(
    api: Api, credentials: grpc.ChannelCredentials | None
) -> flavor_service_pb2.ListFlavorsResponse | grpc.StatusCode | UnkaiError:
    """Call as somebody with these credentials; None: in plain text."""
    target, options = f"127.0.0.1:{api.port}", channel_options(SCHEDULER_TLS_NAME)
    channel = (
        grpc.aio.insecure_channel(target)
        if credentials is None
        else grpc.aio.secure_channel(target, credentials, options)
    )
    async with channel:
        stub = flavor_service_pb2_grpc.FlavorServiceStub(channel)
        try:
            return await stub.ListFlavors(flavor_service_pb2.ListFlavorsRequest(), timeout=5)
        except grpc.aio.AioRpcError as error:
            known = from_rpc_error(error)
            return known if known.reason.startswith("METHOD") else error.code()


async def test_a_client_certificate_of_our_ca_opens_the_door(tmp_path: Path) -> None:
    async with an_api(tmp_path / "a") as api:
        credentials = tls_files(api.pki, "client-admin").channel_credentials()
        answer = await list_flavors(api, credentials)
    assert isinstance(answer, flavor_service_pb2.ListFlavorsResponse)


async def test_plain_text_no_certificate_and_another_ca_are_refused(tmp_path: Path) -> None:
    make_certificates(tmp_path / "theirs")
    async with an_api(tmp_path / "a") as api:
        pki = api.pki
        ours, theirs = (
            tls_files(pki, "client-admin"),
            tls_files(tmp_path / "theirs", "client-admin"),
        )
        nothing_shown = grpc.ssl_channel_credentials(ours.ca.read_bytes())
        foreign = grpc.ssl_channel_credentials(
            ours.ca.read_bytes(), theirs.key.read_bytes(), theirs.certificate.read_bytes()
        )
        for credentials in (None, nothing_shown, foreign):
            assert await list_flavors(api, credentials) is grpc.StatusCode.UNAVAILABLE


async def test_a_host_s_certificate_opens_the_door_but_not_this_method(tmp_path: Path) -> None:
    async with an_api(tmp_path / "a") as api:
        pki = api.pki
        certificates.load(pki).issue_host("h1").write(pki)
        answer = await list_flavors(api, tls_files(pki, "host").channel_credentials())
    assert isinstance(answer, PermissionDenied)
    assert answer.reason == "METHOD_NOT_ALLOWED"


async def test_the_unix_socket_is_for_its_owner_alone(tmp_path: Path) -> None:
    async with an_api(tmp_path / "a") as api:
        mode = await asyncio.to_thread((api.folder / "api.sock").stat)
    assert mode.st_mode & 0o777 == 0o600


async def test_a_socket_that_somebody_serves_is_not_taken(tmp_path: Path) -> None:
    async with an_api(tmp_path / "a") as api:
        with pytest.raises(FailedPrecondition) as caught:
            claim_socket(api.folder / "api.sock")
    assert caught.value.reason == "SOCKET_IN_USE"


def test_a_socket_that_nobody_serves_is_removed_and_a_file_is_not(tmp_path: Path) -> None:
    import socket

    stale, file = tmp_path / "stale.sock", tmp_path / "file"
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(stale))
    file.write_text("precious")

    claim_socket(stale)

    assert not stale.exists()
    with pytest.raises(FailedPrecondition):
        claim_socket(file)
    assert file.read_text() == "precious"


async def test_two_servers_cannot_listen_at_one_address(tmp_path: Path) -> None:
    async with an_api(tmp_path / "a") as api:
        with pytest.raises(FailedPrecondition) as caught:
            api.server.listen(f"127.0.0.1:{api.port}", tls_files(api.pki, "scheduler"))
    assert caught.value.reason == "ADDRESS_NOT_FREE"


def scrape(port: int, pki: Path, name: str | None) -> str:
    context = ssl.create_default_context(cafile=str(pki / "ca.crt"))
    if name:
        context.load_cert_chain(pki / f"{name}.crt", pki / f"{name}.key")
    with urllib.request.urlopen(f"https://localhost:{port}/metrics", context=context) as answer:
        return str(answer.read().decode())


async def test_figures_are_shown_to_those_with_a_certificate_alone(tmp_path: Path) -> None:
    async with an_api(tmp_path / "a") as api:
        host, instance = a_host(name="h1"), an_instance(name="web")
        await api.lead(lambda conn: (hosts.insert(conn, host), instances.insert(conn, instance)))
        registry, pki = CollectorRegistry(), api.pki
        loop = asyncio.get_running_loop()
        registry.register(CloudCollector(api.uow, api.live, api.leading, loop))
        endpoint = MetricsServer("127.0.0.1", 0, tls_files(pki, "scheduler"), registry)
        try:
            text = await asyncio.to_thread(scrape, endpoint.port, pki, "client-admin")
            with pytest.raises((urllib.error.URLError, ssl.SSLError, ConnectionError)):
                await asyncio.to_thread(scrape, endpoint.port, pki, None)
        finally:
            await asyncio.to_thread(endpoint.close)
    assert "unkai_leader 1.0" in text
    assert 'unkai_hosts{state="UP"} 1.0' in text
    assert f'unkai_host_cpus{{host="h1"}} {float(host.cpus)}' in text
    assert f'unkai_instances{{project_id="{instance.project_id}",state="PROVISIONING"}} 1.0' in text
    assert instance.id not in text  # series of single instances come from their agents
