"""The header reader takes whole qcow2 and raw files and refuses all that could reach elsewhere."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unkai_scheduler.domain.images import ImageFormat
from unkai_scheduler.images.image_header import (
    HEAD_BYTES,
    TAIL_BYTES,
    ImageHeader,
    check_head,
    read_header,
)
from unkai_wire.errors import InvalidArgument

MIB = 1 << 20
CLUSTER = 1 << 16
NO_EXTENSIONS = struct.pack(">II", 0, 0)


def qcow2(
    *,
    extensions: bytes = NO_EXTENSIONS,
    length: int = 4 * CLUSTER,
    **changes: Any,
) -> bytes:
    """Make a qcow2 file of one empty 10 MiB disk; `changes` name header fields."""
    fields = {
        "magic": b"QFI\xfb",
        "version": 3,
        "backing_offset": 0,
        "backing_length": 0,
        "cluster_bits": 16,
        "size": 10 * MIB,
        "crypt": 0,
        "l1_entries": 1,
        "l1_offset": 3 * CLUSTER,
        "refcount_offset": CLUSTER,
        "refcount_clusters": 1,
        "snapshots": 0,
        "snapshots_offset": 0,
        "incompatible": 0,
        "compatible": 0,
        "autoclear": 0,
        "refcount_order": 4,
        "header_length": 104,
    } | changes
    head = struct.pack(">4sIQIIQIIQQIIQQQQII", *fields.values())
    if fields["version"] == 2:
        head = head[:72]
    return (head + extensions).ljust(length, b"\0")


def read(content: bytes, stated: ImageFormat | None = None) -> ImageHeader:
    return read_header(content[:HEAD_BYTES], content[-TAIL_BYTES:], len(content), stated)


def refusal(content: bytes, stated: ImageFormat | None = None) -> str:
    with pytest.raises(InvalidArgument) as caught:
        read(content, stated)
    assert caught.value.violations
    return caught.value.reason


@pytest.mark.parametrize("version", [2, 3])
def test_a_whole_qcow2_file_is_taken_with_its_disk_s_size(version: int) -> None:
    assert read(qcow2(version=version)) == ImageHeader(ImageFormat.QCOW2, 10 * MIB)


def test_any_other_bytes_are_a_raw_disk_rounded_up_to_a_sector() -> None:
    assert read(b"\x01" * 1000) == ImageHeader(ImageFormat.RAW, 1024)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"backing_offset": 512, "backing_length": 11}, "IMAGE_HAS_BACKING_FILE"),
        ({"backing_offset": 512}, "IMAGE_HAS_BACKING_FILE"),
        ({"backing_length": 1}, "IMAGE_HAS_BACKING_FILE"),
        ({"incompatible": 1 << 2}, "IMAGE_HAS_DATA_FILE"),
        ({"incompatible": 1 << 5}, "IMAGE_FEATURE_UNKNOWN"),
        ({"incompatible": 1 << 63}, "IMAGE_FEATURE_UNKNOWN"),
        ({"incompatible": 1}, "IMAGE_NOT_CLEAN"),
        ({"incompatible": 2}, "IMAGE_NOT_CLEAN"),
        ({"crypt": 1}, "IMAGE_ENCRYPTED"),
        ({"crypt": 2}, "IMAGE_ENCRYPTED"),
        ({"cluster_bits": 8}, "IMAGE_HEADER_INVALID"),
        ({"cluster_bits": 22}, "IMAGE_HEADER_INVALID"),
        ({"cluster_bits": 0xFFFFFFFF}, "IMAGE_HEADER_INVALID"),
        ({"header_length": 72}, "IMAGE_HEADER_INVALID"),
        ({"header_length": 1 << 31}, "IMAGE_HEADER_INVALID"),
        ({"header_length": 107}, "IMAGE_HEADER_INVALID"),
        ({"refcount_order": 7}, "IMAGE_HEADER_INVALID"),
        ({"refcount_clusters": 0}, "IMAGE_HEADER_INVALID"),
        ({"refcount_clusters": 0xFFFFFFFF}, "IMAGE_HEADER_INVALID"),
        ({"l1_offset": 0}, "IMAGE_HEADER_INVALID"),
        ({"l1_offset": 513}, "IMAGE_HEADER_INVALID"),
        ({"l1_entries": 0xFFFFFFFF}, "IMAGE_HEADER_INVALID"),
        ({"l1_offset": 1 << 40}, "IMAGE_TRUNCATED"),
        ({"refcount_offset": 4 * CLUSTER}, "IMAGE_TRUNCATED"),
        ({"l1_entries": 0}, "IMAGE_SIZE_LIES"),
        ({"size": 1 << 40}, "IMAGE_SIZE_LIES"),
        ({"size": 0}, "IMAGE_VIRTUAL_SIZE"),
        ({"size": (64 << 40) + 1}, "IMAGE_VIRTUAL_SIZE"),
        ({"snapshots": 1, "snapshots_offset": 1 << 50}, "IMAGE_HAS_SNAPSHOTS"),
        ({"version": 1}, "IMAGE_FORMAT_UNSUPPORTED"),
        ({"version": 4}, "IMAGE_FORMAT_UNSUPPORTED"),
    ],
)
def test_a_qcow2_header_that_lies_or_points_elsewhere_is_refused(
    changes: dict[str, int], reason: str
) -> None:
    assert refusal(qcow2(**changes)) == reason


@pytest.mark.parametrize(
    ("extensions", "reason"),
    [
        (struct.pack(">II", 0x44415441, 8) + b"/etc/pwd", "IMAGE_HAS_DATA_FILE"),
        (struct.pack(">II", 0x0537BE77, 16) + bytes(16), "IMAGE_ENCRYPTED"),
        (struct.pack(">II", 0x6803F857, 1 << 31), "IMAGE_HEADER_INVALID"),
        (
            struct.pack(">II", 0x6803F857, 8) + bytes(8) + struct.pack(">II", 0x44415441, 0),
            "IMAGE_HAS_DATA_FILE",
        ),
        (struct.pack(">II", 0x6803F857, 0) * (CLUSTER // 8), "IMAGE_HEADER_INVALID"),
    ],
)
def test_header_extensions_are_walked_to_their_end(extensions: bytes, reason: str) -> None:
    assert refusal(qcow2(extensions=extensions)) == reason


@pytest.mark.parametrize(
    ("changes", "compression", "reason"),
    [
        ({"incompatible": 8, "header_length": 112}, 2, "IMAGE_FEATURE_UNKNOWN"),
        ({"header_length": 112}, 1, "IMAGE_HEADER_INVALID"),
        ({"incompatible": 8, "header_length": 112}, 0, "IMAGE_HEADER_INVALID"),
        ({"incompatible": 8}, 0, "IMAGE_HEADER_INVALID"),
        ({"incompatible": 16, "cluster_bits": 13, "l1_entries": 9}, 0, "IMAGE_HEADER_INVALID"),
    ],
)
def test_what_qemu_would_not_open_is_not_kept(
    changes: dict[str, int], compression: int, reason: str
) -> None:
    rest = bytes([compression]) + bytes(7) + NO_EXTENSIONS
    assert refusal(qcow2(extensions=rest, **changes)) == reason


@pytest.mark.parametrize(("incompatible", "compression"), [(0, 0), (8, 1), (16, 0)])
def test_either_compression_and_small_clusters_are_taken(
    incompatible: int, compression: int
) -> None:
    rest = bytes([compression]) + bytes(7) + NO_EXTENSIONS
    header = read(qcow2(extensions=rest, incompatible=incompatible, header_length=112))
    assert header.format is ImageFormat.QCOW2


def test_an_unknown_harmless_extension_is_passed_over() -> None:
    extensions = struct.pack(">II", 0x6803F857, 3) + b"abc" + bytes(5) + NO_EXTENSIONS
    assert read(qcow2(extensions=extensions)).format is ImageFormat.QCOW2


@pytest.mark.parametrize(
    "head",
    [
        b"KDMV",
        b"COWD",
        b"# Disk DescriptorFile\nversion=1",
        b"QED\0",
        b"vhdxfile",
        b"conectix",
        b"LUKS\xba\xbe\0\1",
        b"WithoutFreeSpace",
        b"WithouFreSpacExt",
        b"\0" * 64 + b"\x7f\x10\xda\xbe",
    ],
)
def test_another_disk_format_is_not_taken_for_raw(head: bytes) -> None:
    content = head.ljust(4096, b"\0")
    assert refusal(content) == "IMAGE_FORMAT_UNSUPPORTED"
    assert refusal(content, ImageFormat.RAW) == "IMAGE_FORMAT_UNSUPPORTED"


def test_a_fixed_vhd_is_known_by_its_end() -> None:
    assert refusal(b"\1" * 4096 + b"conectix".ljust(512, b"\0")) == "IMAGE_FORMAT_UNSUPPORTED"


@pytest.mark.parametrize("magic", [b"\x1f\x8b\x08", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"BZh9"])
def test_a_compressed_file_is_refused_before_anybody_boots_it(magic: bytes) -> None:
    assert refusal(magic.ljust(1024, b"\0")) == "IMAGE_COMPRESSED"


def test_a_file_of_another_format_than_stated_is_refused() -> None:
    assert refusal(qcow2(), ImageFormat.RAW) == "IMAGE_FORMAT_MISMATCH"
    assert refusal(b"\1" * 1024, ImageFormat.QCOW2) == "IMAGE_FORMAT_MISMATCH"


def test_an_empty_file_and_a_cut_header_are_refused() -> None:
    assert refusal(b"") == "IMAGE_EMPTY"
    assert refusal(qcow2()[:40]) == "IMAGE_TRUNCATED"
    assert refusal(qcow2()[:80]) == "IMAGE_TRUNCATED"


def test_a_wrong_beginning_is_known_before_the_rest_has_come() -> None:
    with pytest.raises(InvalidArgument) as caught:
        check_head(qcow2(backing_offset=512)[:HEAD_BYTES], None)
    assert caught.value.reason == "IMAGE_HAS_BACKING_FILE"


@given(
    st.binary(max_size=300),
    st.sampled_from([b"", b"QFI\xfb\0\0\0\2", b"QFI\xfb\0\0\0\3", qcow2()[:104]]),
    st.integers(0, 1 << 64),
    st.sampled_from([None, *ImageFormat]),
)
def test_no_bytes_make_the_reader_raise_anything_else(
    noise: bytes, start: bytes, size: int, stated: ImageFormat | None
) -> None:
    content = start + noise
    try:
        header = read_header(content[:HEAD_BYTES], content[-TAIL_BYTES:], size, stated)
    except InvalidArgument:
        return
    assert header.virtual_size_bytes > 0


@given(st.data())
def test_a_whole_header_with_any_field_changed_is_read_or_refused(data: st.DataObject) -> None:
    content = bytearray(qcow2())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(4, 119))] = data.draw(st.integers(0, 255))
    try:
        header = read(bytes(content))
    except InvalidArgument:
        return
    assert header.format is ImageFormat.QCOW2
    assert 0 < header.virtual_size_bytes <= 64 << 40
