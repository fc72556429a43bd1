"""The policy lists every method that is served, and nothing else."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from tests.support.api import an_api
from tests.support.contracts import AGENT, methods
from unkai_scheduler.api.policy import TABLE, allow
from unkai_wire.errors import PermissionDenied
from unkai_wire.tls import Principal, Role

DOWNLOAD = "/unkai.storage.v1.ImageService/DownloadImage"


def contract_methods() -> set[str]:
    return {
        f"/{method.containing_service.full_name}/{method.name}"
        for method in methods(but=(AGENT,)).values()
    }


def test_the_table_and_the_contracts_name_the_same_methods() -> None:
    assert {name for name in TABLE if name.startswith("/unkai.")} == contract_methods()


@pytest.mark.parametrize("role", [Role.LOCAL, Role.CLIENT])
def test_users_may_call_all_that_is_public(role: Role) -> None:
    for method in contract_methods():
        if "PeerService" not in method:
            allow(Principal(role, "x"), method)


@pytest.mark.parametrize("role", [Role.HOST, Role.FLEET])
def test_a_stolen_host_key_can_only_download_images(role: Role) -> None:
    thief = Principal(role, "h1", "hst-x")
    allowed = set()
    for method in contract_methods():
        try:
            allow(thief, method)
        except PermissionDenied:
            continue
        allowed.add(method)
    assert allowed == {DOWNLOAD}


def test_a_monitor_may_ask_for_health_and_nothing_else() -> None:
    monitor = Principal(Role.MONITOR, "prometheus")
    allowed = {method for method in TABLE if monitor.role in TABLE[method].roles}
    assert allowed == {"/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"}
    for method in contract_methods():
        with pytest.raises(PermissionDenied, match="reads /metrics and /targets") as caught:
            allow(monitor, method)
        assert caught.value.reason == "METHOD_NOT_ALLOWED"
        assert "client certificate" in caught.value.fix


def test_users_are_no_peers_and_etcd_may_nothing() -> None:
    with pytest.raises(PermissionDenied):
        allow(Principal(Role.CLIENT, "x"), "/unkai.scheduler.v1.PeerService/Proxy")
    for method in contract_methods():
        with pytest.raises(PermissionDenied):
            allow(Principal(Role.ETCD, "e1"), method)


def test_a_method_that_is_not_listed_is_refused() -> None:
    with pytest.raises(PermissionDenied) as caught:
        allow(Principal(Role.LOCAL, "root"), "/unkai.compute.v1.InstanceService/Explode")
    assert caught.value.reason == "METHOD_NOT_ALLOWED"


def test_streams_alone_may_last_for_ever() -> None:
    for method in methods(but=(AGENT,)).values():
        rule = TABLE[f"/{method.containing_service.full_name}/{method.name}"]
        streams = method.client_streaming or method.server_streaming
        assert (rule.deadline_s is None) == streams, method.full_name


async def test_reflection_shows_what_is_served_to_users(tmp_path: Path) -> None:
    async with an_api(tmp_path / "a") as api:
        import asyncio

        def ask() -> list[str]:
            with grpc.insecure_channel(f"unix:{api.folder / 'api.sock'}") as channel:
                database = ProtoReflectionDescriptorDatabase(channel)
                file = database.FindFileContainingSymbol("unkai.compute.v1.InstanceService")
                assert file.name == "unkai/compute/v1/instance_service.proto"
                return list(database.get_services())

        names = await asyncio.to_thread(ask)
    assert "unkai.event.v1.EventService" in names
    assert "unkai.scheduler.v1.PeerService" not in names
