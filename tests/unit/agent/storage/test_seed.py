"""The seed disk, read back by pycdlib and by a YAML parser."""

from __future__ import annotations

import io
import subprocess
import sys
import time

import pycdlib
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.support.ports import a_port
from unkai_agent.domain.machines import SeedSpec
from unkai_agent.storage.network_config import network_config
from unkai_agent.storage.seed import meta_data, render
from unkai_wire.errors import Unavailable

INSTANCE = "ins-00000000000000000000000001"


def files_of(seed: bytes, names: str, *wanted: str) -> dict[str, bytes]:
    """Read the volume's files by its `joliet` or `rr` names."""
    iso = pycdlib.PyCdlib()
    iso.open_fp(io.BytesIO(seed))
    found = {}
    for name in wanted or ("meta-data", "user-data", "vendor-data"):
        content = io.BytesIO()
        iso.get_file_from_iso_fp(content, **{f"{names}_path": f"/{name}"})
        found[name] = content.getvalue()
    iso.close()
    return found


@pytest.mark.parametrize("names", ["joliet", "rr"])
@pytest.mark.parametrize("user_data", [b"", b"#!/bin/sh\necho hi\n", bytes(range(256)) * 256])
def test_the_files_are_there_by_both_kinds_of_names(names: str, user_data: bytes) -> None:
    spec = SeedSpec("web", ("ssh-ed25519 AAAA ada",), user_data)
    assert files_of(render(INSTANCE, spec), names) == {
        "meta-data": meta_data(INSTANCE, spec).encode(),
        "user-data": user_data,
        "vendor-data": b"",
    }


@pytest.mark.parametrize("names", ["joliet", "rr"])
def test_a_machine_with_ports_has_a_network_config(names: str) -> None:
    seed = render(INSTANCE, SeedSpec("web"), (a_port(),))
    assert files_of(seed, names, "network-config") == {
        "network-config": network_config((a_port(),)).encode()
    }


def test_a_machine_without_ports_leaves_its_network_to_the_guest() -> None:
    assert b"network-config" not in render(INSTANCE, SeedSpec("web"))


def test_the_volume_is_labelled_for_nocloud() -> None:
    seed = render(INSTANCE, SeedSpec("web"))
    assert seed[32768 + 40 : 32768 + 46] == b"CIDATA"


def test_the_same_spec_gives_the_same_bytes_whenever_and_wherever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = SeedSpec("web", ("ssh-ed25519 AAAA ada",), b"#!/bin/sh\n")
    first = render(INSTANCE, spec)
    monkeypatch.setattr(time, "time", lambda: 4102444800.0)
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert render(INSTANCE, spec) == first
    finally:
        monkeypatch.undo()
        time.tzset()


def test_the_librarys_clock_is_stopped_for_itself_alone() -> None:
    render(INSTANCE, SeedSpec("web"))
    assert time.time() > 1_700_000_000


def test_meta_data_without_keys_has_no_list_of_them() -> None:
    text = meta_data(INSTANCE, SeedSpec("web"))
    assert yaml.safe_load(text) == {"instance-id": INSTANCE, "local-hostname": "web"}


@given(
    st.text(st.characters(codec="utf-8"), max_size=30), st.lists(st.text(max_size=80), max_size=4)
)
def test_meta_data_is_yaml_that_says_what_was_meant(hostname: str, keys: list[str]) -> None:
    said = yaml.safe_load(meta_data(INSTANCE, SeedSpec(hostname, tuple(keys))))
    assert said["local-hostname"] == hostname
    assert said.get("public-keys", []) == keys


def test_writing_a_seed_leaves_nothing_in_the_agent() -> None:
    code = (
        "import sys; from unkai_agent.storage import seed;"
        "from unkai_agent.domain.machines import SeedSpec;"
        "spec = SeedSpec(hostname='web', public_keys=(), user_data=b'');"
        "assert len(seed.render('ins-1', spec)) > 2048;"
        "print('pycdlib' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "False"


def test_a_seed_that_cannot_be_written_is_a_failure_of_storage(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(Unavailable) as caught:
        render(INSTANCE, SeedSpec("web"))
    assert caught.value.reason == "STORAGE_FAILED"
