"""What an uploaded file is, by its own bytes: qcow2 or raw, and how large its disk.

Pure. QEMU never probes what users upload, because a crafted header makes it read other files of
the host (CVE-2024-32498); so this reader alone decides, and it refuses whatever refers to another
file, is encrypted, is not whole, or that it does not know. Each refusal is an `InvalidArgument`
whose reason is stable. Source of the layout: QEMU, docs/interop/qcow2.txt.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from unkai_scheduler.domain.images import ImageFormat
from unkai_scheduler.domain.instances import MAX_DISK_BYTES
from unkai_wire.errors import InvalidArgument

HEAD_BYTES = 64 << 10
"""How much of the file's beginning the reader wants; fewer only if the file is shorter."""
TAIL_BYTES = 512
"""How much of its end: some formats sign there."""
SECTOR_BYTES = 512

_QCOW_MAGIC = b"QFI\xfb"
_V2 = struct.Struct(">4sIQIIQIIQQIIQ")
_V3 = struct.Struct(">QQQII")
_V3_LENGTH = 104
_DIRTY, _CORRUPT, _DATA_FILE, _COMPRESSION, _EXTENDED_L2 = (1 << n for n in range(5))
_KNOWN_INCOMPATIBLE = _DIRTY | _CORRUPT | _DATA_FILE | _COMPRESSION | _EXTENDED_L2
_ZLIB, _ZSTD = 0, 1
_LEAST_EXTENDED_CLUSTER_BITS = 14
_EXTENSION_END = 0
_EXTENSION_CRYPTO = 0x0537BE77
_EXTENSION_DATA_FILE = 0x44415441
_MAX_TABLE_BYTES = {"L1": 32 << 20, "refcount": 8 << 20}
"""QEMU's own limits (block/qcow2.h): what it would not open is not stored."""

_FOREIGN_HEADS: tuple[tuple[bytes, str], ...] = (
    (b"KDMV", "vmdk"),
    (b"COWD", "vmdk"),
    (b"# Disk DescriptorFile", "vmdk"),
    (b"QED\0", "qed"),
    (b"vhdxfile", "vhdx"),
    (b"conectix", "vhd"),
    (b"cxsparse", "vhd"),
    (b"LUKS\xba\xbe", "luks"),
    (b"WithoutFreeSpace", "parallels"),
    (b"WithouFreSpacExt", "parallels"),
    (b"Bochs Virtual HD Image", "bochs"),
    (b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop", "cloop"),
)
_VDI_SIGNATURE = b"\x7f\x10\xda\xbe"
_VDI_OFFSET = 64
_FOREIGN_TAILS: tuple[tuple[int, bytes, str], ...] = (
    (512, b"conectix", "vhd"),
    (512, b"koly", "dmg"),
)
_COMPRESSED: tuple[tuple[bytes, str], ...] = (
    (b"\x1f\x8b\x08", "gzip"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"BZh", "bzip2"),
)


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What the bytes are."""

    format: ImageFormat
    virtual_size_bytes: int


@dataclass(frozen=True, slots=True)
class _Qcow2:
    """The fields of a qcow2 header that matter here."""

    version: int
    backing_offset: int
    backing_length: int
    cluster_bits: int
    size: int
    crypt_method: int
    l1_entries: int
    l1_offset: int
    refcount_offset: int
    refcount_clusters: int
    snapshots: int
    incompatible: int = 0
    refcount_order: int = 4
    length: int = 72
    compression: int = _ZLIB

    @property
    def cluster_bytes(self) -> int:
        return 1 << self.cluster_bits


def check_head(head: bytes, stated: ImageFormat | None) -> None:
    """Refuse what the first bytes alone betray, before the rest of a large file is sent."""
    if head.startswith(_QCOW_MAGIC):
        _check_stated(ImageFormat.QCOW2, stated)
        _check_qcow2(_parse_qcow2(head), head)
    else:
        _refuse_foreign(head)
        _check_stated(ImageFormat.RAW, stated)


def read_header(
    head: bytes, tail: bytes, size_bytes: int, stated: ImageFormat | None = None
) -> ImageHeader:
    """Say what a whole file is; raise `InvalidArgument` when it is refused.

    `head`, `tail`: its first `HEAD_BYTES` and last `TAIL_BYTES`, or all of a shorter file.
    """
    if not size_bytes:
        raise _refused("IMAGE_EMPTY", "the file is empty", "upload the image's bytes")
    check_head(head, stated)
    if head.startswith(_QCOW_MAGIC):
        header = _parse_qcow2(head)
        _check_bounds(header, size_bytes)
        return ImageHeader(ImageFormat.QCOW2, header.size)
    for distance, magic, name in _FOREIGN_TAILS:
        if len(tail) >= distance and tail[-distance:].startswith(magic):
            raise _foreign(name)
    if size_bytes < SECTOR_BYTES:
        raise _truncated("the first sector of a disk")
    size = -(-size_bytes // SECTOR_BYTES) * SECTOR_BYTES
    _check_virtual_size(size)
    return ImageHeader(ImageFormat.RAW, size)


def _refuse_foreign(head: bytes) -> None:
    for magic, name in _FOREIGN_HEADS:
        if head.startswith(magic):
            raise _foreign(name)
    if head[_VDI_OFFSET : _VDI_OFFSET + 4] == _VDI_SIGNATURE:
        raise _foreign("vdi")
    for magic, name in _COMPRESSED:
        if head.startswith(magic):
            raise _refused(
                "IMAGE_COMPRESSED",
                f"the file is compressed with {name}",
                "decompress it, then upload it; qcow2 can hold compressed clusters itself",
            )


def _check_stated(found: ImageFormat, stated: ImageFormat | None) -> None:
    if stated is not None and stated is not found:
        raise _refused(
            "IMAGE_FORMAT_MISMATCH",
            f"the file is {found.value}, but {stated.value} was stated",
            f"state {found.value}, or leave the format out",
        )


def _parse_qcow2(head: bytes) -> _Qcow2:
    if len(head) < _V2.size:
        raise _truncated("its header")
    (_, version, backing_offset, backing_length, cluster_bits, size, crypt, l1_entries, l1_offset,
     refcount_offset, refcount_clusters, snapshots, _) = _V2.unpack_from(head)  # fmt: skip
    if version not in (2, 3):
        raise _foreign(f"qcow version {version}")
    incompatible, refcount_order, length, compression = 0, 4, _V2.size, _ZLIB
    if version == 3:
        if len(head) < _V3_LENGTH:
            raise _truncated("its header")
        incompatible, _, _, refcount_order, length = _V3.unpack_from(head, _V2.size)
        if length > _V3_LENGTH:
            if len(head) <= _V3_LENGTH:
                raise _truncated("its header")
            compression = head[_V3_LENGTH]
    return _Qcow2(
        version=version,
        backing_offset=backing_offset,
        backing_length=backing_length,
        cluster_bits=cluster_bits,
        size=size,
        crypt_method=crypt,
        l1_entries=l1_entries,
        l1_offset=l1_offset,
        refcount_offset=refcount_offset,
        refcount_clusters=refcount_clusters,
        snapshots=snapshots,
        incompatible=incompatible,
        refcount_order=refcount_order,
        length=length,
        compression=compression,
    )


def _check_qcow2(header: _Qcow2, head: bytes) -> None:
    """Check all that the header says of itself."""
    if not 9 <= header.cluster_bits <= 21:
        raise _invalid(f"its clusters have 2^{header.cluster_bits} bytes; 2^9 to 2^21 are possible")
    if header.backing_offset or header.backing_length:
        raise _refused(
            "IMAGE_HAS_BACKING_FILE",
            "the file needs a backing file",
            "make it whole with 'qemu-img convert -O qcow2 IN OUT'",
        )
    _check_features(header)
    if header.version == 3:
        if not _V3_LENGTH <= header.length <= header.cluster_bytes or header.length % 8:
            raise _invalid(f"its header claims {header.length} bytes")
        if header.refcount_order > 6:
            raise _invalid(f"its reference counts have 2^{header.refcount_order} bits")
    if header.snapshots:
        raise _refused(
            "IMAGE_HAS_SNAPSHOTS",
            f"the file holds {header.snapshots} internal snapshots",
            "drop them with 'qemu-img convert -O qcow2 IN OUT'",
        )
    _check_virtual_size(header.size)
    _check_extensions(header, head)


def _check_features(header: _Qcow2) -> None:
    if header.incompatible & ~_KNOWN_INCOMPATIBLE:
        unknown = header.incompatible & ~_KNOWN_INCOMPATIBLE
        raise _refused(
            "IMAGE_FEATURE_UNKNOWN",
            f"the file uses qcow2 features that are not known (bits {unknown:#x})",
            "convert it with 'qemu-img convert -O qcow2 IN OUT'",
        )
    if header.incompatible & _DATA_FILE:
        raise _data_file()
    if header.incompatible & (_DIRTY | _CORRUPT):
        raise _refused(
            "IMAGE_NOT_CLEAN",
            "the file is marked as not cleanly closed or corrupt",
            "repair it with 'qemu-img check -r all'",
        )
    if header.crypt_method:
        raise _encrypted()
    _check_compression(header)
    extended = bool(header.incompatible & _EXTENDED_L2)
    if extended and header.cluster_bits < _LEAST_EXTENDED_CLUSTER_BITS:
        raise _invalid(f"clusters of 2^{header.cluster_bits} bytes are too small to be divided")


def _check_compression(header: _Qcow2) -> None:
    """Check the type, and that its feature bit is set exactly when it is not zlib."""
    if header.compression not in {_ZLIB, _ZSTD}:
        raise _refused(
            "IMAGE_FEATURE_UNKNOWN",
            f"the file uses a compression that is not known (type {header.compression})",
            "convert it with 'qemu-img convert -O qcow2 IN OUT'",
        )
    if bool(header.incompatible & _COMPRESSION) != (header.compression != _ZLIB):
        raise _invalid(f"its feature bits deny its compression (type {header.compression})")


def _check_extensions(header: _Qcow2, head: bytes) -> None:
    """Walk the header extensions up to their end mark; each is 8 bytes, data, padding to 8."""
    position, end = header.length, min(header.cluster_bytes, HEAD_BYTES)
    while position + 8 <= end:
        if position + 8 > len(head):
            raise _truncated("its header extensions")
        kind, length = struct.unpack_from(">II", head, position)
        if kind == _EXTENSION_END:
            return
        if kind == _EXTENSION_DATA_FILE:
            raise _data_file()
        if kind == _EXTENSION_CRYPTO:
            raise _encrypted()
        if length > end - position - 8:
            raise _invalid("a header extension reaches beyond the header's cluster")
        position += 8 + -(-length // 8) * 8
    raise _invalid("its header extensions have no end")


def _check_bounds(header: _Qcow2, size_bytes: int) -> None:
    """Check that the tables lie inside the file and cover the disk."""
    cluster = header.cluster_bytes
    entry = 16 if header.incompatible & _EXTENDED_L2 else 8
    needed = -(-header.size // (cluster * (cluster // entry)))
    if header.l1_entries < needed:
        raise _refused(
            "IMAGE_SIZE_LIES",
            f"the file claims a disk of {header.size} bytes, but its table covers less",
            "convert it with 'qemu-img convert -O qcow2 IN OUT'",
        )
    _check_table(header, "L1", header.l1_offset, header.l1_entries * 8, size_bytes)
    if not header.refcount_clusters:
        raise _invalid("it has no reference counts")
    length = header.refcount_clusters * cluster
    _check_table(header, "refcount", header.refcount_offset, length, size_bytes)


def _check_table(header: _Qcow2, name: str, offset: int, length: int, size_bytes: int) -> None:
    cluster = header.cluster_bytes
    if not offset or offset % cluster:
        raise _invalid(f"its {name} table begins at {offset}, which is no cluster of its own")
    if length > max(_MAX_TABLE_BYTES[name], cluster):
        raise _invalid(f"its {name} table claims {length} bytes")
    if offset + length > size_bytes:
        raise _truncated(f"its {name} table")


def _check_virtual_size(size: int) -> None:
    if not 0 < size <= MAX_DISK_BYTES:
        raise _refused(
            "IMAGE_VIRTUAL_SIZE",
            f"the disk in the file has {size} bytes; 1 to {MAX_DISK_BYTES} are possible",
            "make an image of a disk within these limits",
        )


def _refused(reason: str, problem: str, fix: str) -> InvalidArgument:
    return InvalidArgument.field("chunk", problem, reason=reason, fix=fix)


def _foreign(name: str) -> InvalidArgument:
    return _refused(
        "IMAGE_FORMAT_UNSUPPORTED",
        f"the file is {name}; only qcow2 (version 2 or 3) and raw are taken",
        "convert it with 'qemu-img convert -O qcow2 IN OUT'",
    )


def _invalid(problem: str) -> InvalidArgument:
    return _refused(
        "IMAGE_HEADER_INVALID",
        f"the file's qcow2 header is wrong: {problem}",
        "make the image anew with 'qemu-img convert -O qcow2 IN OUT'",
    )


def _truncated(what: str) -> InvalidArgument:
    return _refused("IMAGE_TRUNCATED", f"the file ends before {what} does", "upload the whole file")


def _data_file() -> InvalidArgument:
    return _refused(
        "IMAGE_HAS_DATA_FILE",
        "the file keeps its data in another file",
        "make it whole with 'qemu-img convert -O qcow2 IN OUT'",
    )


def _encrypted() -> InvalidArgument:
    return _refused(
        "IMAGE_ENCRYPTED",
        "the file is encrypted",
        "upload it decrypted; encryption belongs to the disk, not to the image",
    )
