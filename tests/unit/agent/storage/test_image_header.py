"""The reader of image headers against headers made here, and against qemu-img's."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.images import MIB, an_image, qcow2_bytes
from unkai_agent.domain.machines import ImageFormat
from unkai_agent.storage.image_header import (
    HEAD_BYTES,
    HeaderError,
    ImageHeader,
    parse,
    refusal,
)

QCOW2 = ImageFormat.QCOW2


@pytest.mark.parametrize("version", [2, 3])
def test_a_plain_qcow2_header_tells_its_size(version: int) -> None:
    content = qcow2_bytes(5 * MIB, version=version)
    assert parse(content, len(content)) == ImageHeader(QCOW2, 5 * MIB)


def test_all_that_is_not_qcow2_is_raw_of_the_files_length() -> None:
    for head in (b"", b"QFI", b"KDMV" * 100, b"\0" * HEAD_BYTES):
        assert parse(head, 123) == ImageHeader(ImageFormat.RAW, 123)


@pytest.mark.parametrize("version", [2, 3])
def test_a_backing_file_and_its_format_are_seen(version: int) -> None:
    content = qcow2_bytes(version=version, backing=b"/etc/shadow", backing_format=b"raw")
    header = parse(content, len(content))
    assert (header.backing_file, header.backing_format) == ("/etc/shadow", "raw")


@pytest.mark.parametrize(
    "content",
    [
        qcow2_bytes()[:50],
        qcow2_bytes()[:90],
        qcow2_bytes(version=4),
        qcow2_bytes(version=1),
        qcow2_bytes(cluster_bits=40),
        qcow2_bytes(cluster_bits=0),
        qcow2_bytes(backing=b"x" * 2000),
        qcow2_bytes(backing=b"x", backing_offset=1 << 60),
        qcow2_bytes(backing=b"", backing_offset=4096),
        qcow2_bytes()[:100] + b"\0\0\0\x01" + qcow2_bytes()[104:],
        qcow2_bytes()[:104] + b"\xe2\x79\x2a\xca\xff\xff\xff\xff" + qcow2_bytes()[112:],
    ],
    ids=[
        "cut in v2",
        "cut in v3",
        "version 4",
        "version 1",
        "huge clusters",
        "no clusters",
        "long name",
        "name far away",
        "name without length",
        "short header",
        "long extension",
    ],
)
def test_a_header_that_makes_no_sense_is_an_error(content: bytes) -> None:
    with pytest.raises(HeaderError):
        parse(content, len(content))


@given(st.binary(max_size=400), st.sampled_from([2, 3]), st.integers(0, 200))
def test_no_bytes_whatever_do_more_than_raise_a_header_error(
    noise: bytes, version: int, place: int
) -> None:
    whole = qcow2_bytes(version=version, backing=b"/x", backing_format=b"qcow2")
    head = whole[:place] + noise + whole[place + len(noise) :]
    try:
        header = parse(head, len(head))
    except HeaderError:
        return
    assert header.virtual_size_bytes >= 0


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1), st.binary(max_size=20))
def test_only_what_stands_alone_passes(features: int, encryption: int, backing: bytes) -> None:
    content = qcow2_bytes(features=features, encryption=encryption, backing=backing)
    image = an_image(content, image_format=QCOW2, virtual_size_bytes=8 * MIB)
    harmless = features & ~0b11001 == 0 and encryption == 0 and not backing
    assert (refusal(parse(content, len(content)), image) == "") == harmless


def test_a_size_other_than_announced_is_refused() -> None:
    content = qcow2_bytes(9 * MIB)
    image = an_image(content, image_format=QCOW2, virtual_size_bytes=8 * MIB)
    assert "size" in refusal(parse(content, len(content)), image)


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="needs qemu-img")
@pytest.mark.parametrize(
    "options",
    ["compat=0.10", "compat=1.1", "cluster_size=512", "cluster_size=2M", "extended_l2=on"],
)
def test_what_qemu_img_makes_is_read_rightly(tmp_path: Path, options: str) -> None:
    base, disk = tmp_path / "base", tmp_path / "disk"
    base.write_bytes(b"\0" * MIB)
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", base, "-o", options]
    subprocess.run([*command, disk, str(3 * MIB)], check=True)
    content = disk.read_bytes()[:HEAD_BYTES]
    header = parse(content, len(content))
    assert (header.virtual_size_bytes, header.backing_format) == (3 * MIB, "raw")
    assert header.backing_file == str(base)
    assert (header.has_data_file, header.is_encrypted, header.unknown_features) == (False, False, 0)


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="needs qemu-img")
def test_a_data_file_made_by_qemu_img_is_seen(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    option = f"data_file={tmp_path / 'data'}"
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-o", option, disk, "1M"], check=True
    )
    content = disk.read_bytes()
    assert parse(content, len(content)).has_data_file
