"""Public keys are taken in OpenSSH's form alone, and private ones are refused loudly."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from tests.support.api import an_ssh_key
from unkai_scheduler.services.public_keys import parse_public_key
from unkai_wire.errors import InvalidArgument

KEYS = (
    ed25519.Ed25519PrivateKey.generate(),
    rsa.generate_private_key(65537, 2048),
    ec.generate_private_key(ec.SECP256R1()),
    ec.generate_private_key(ec.SECP521R1()),
)


@pytest.mark.parametrize("key", KEYS, ids=lambda key: type(key).__name__)
def test_a_real_key_is_taken_and_fingerprinted_as_ssh_keygen_does(
    key: ed25519.Ed25519PrivateKey, tmp_path: Path
) -> None:
    line = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    taken, fingerprint = parse_public_key(f"  {line.decode()}   me@home \n")
    assert taken == f"{line.decode()} me@home"
    path = tmp_path / "key.pub"
    path.write_text(taken)
    printed = subprocess.run(
        ["ssh-keygen", "-l", "-f", str(path)], capture_output=True, text=True, check=True
    ).stdout
    assert printed.split()[1] == fingerprint


def test_a_private_key_is_refused_and_called_exposed() -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_public_key("-----BEGIN OPENSSH PRIVATE KEY-----\nabc")
    assert caught.value.reason == "PRIVATE_KEY_GIVEN"
    assert "exposed" in caught.value.fix


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ssh-ed25519",
        "ssh-dss AAAA",
        "ssh-ed25519 not-base64!",
        "ssh-rsa " + an_ssh_key().split()[1],
        an_ssh_key()[:40],
        an_ssh_key() + "\nssh-rsa AAAA",
        'command="rm -rf /" ' + an_ssh_key(),
        an_ssh_key() + " " + "x" * (16 << 10),
        "ssh-ed25519 " + base64.b64encode(b"\0\0\0\x0bssh-ed25519").decode(),
    ],
)
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_public_key(text)
    assert caught.value.reason == "INVALID_PUBLIC_KEY"


@given(st.text(max_size=200), st.binary(max_size=80))
def test_nothing_else_is_ever_raised(comment: str, blob: bytes) -> None:
    try:
        line, _ = parse_public_key(f"ssh-ed25519 {base64.b64encode(blob).decode()} {comment}")
    except InvalidArgument:
        return
    assert "\n" not in line
