"""What an image's first bytes say of it. Pure.

The agent builds on an image only after this has looked at it: an image that names another file
(a backing file, a data file) would make QEMU open that file of the host for the guest
(CVE-2024-32498), so such images are refused. The scheduler checks uploads the same way; we check
what reached us. Nothing but this and QEMU ever reads an image, and QEMU is told the format.

Source: QEMU's docs/interop/qcow2.txt, versions 2 and 3.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from unkai_agent.domain.machines import ImageFormat, ImageRef

HEAD_BYTES = 64 * 1024
"""So many of the first bytes are looked at: the smallest default cluster, which holds the header,
its extensions and the backing file's name in every overlay that `qemu-img` makes."""

QCOW2_MAGIC = b"QFI\xfb"
_V2_LENGTH = 72
_V3_MIN_LENGTH = 104
_EXTENSION_BACKING_FORMAT = 0xE2792ACA
_MAX_NAME_BYTES = 1023

_INCOMPATIBLE_CORRUPT = 1 << 1
_INCOMPATIBLE_DATA_FILE = 1 << 2
_INCOMPATIBLE_KNOWN = 0b11111
"""Dirty, corrupt, data file, compression type, extended L2 entries."""


class HeaderError(ValueError):
    """The bytes begin as a qcow2 image and go on as none."""


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What an image says of itself."""

    format: ImageFormat
    virtual_size_bytes: int
    """Size of the disk it holds."""
    backing_file: str = ""
    backing_format: str = ""
    has_data_file: bool = False
    is_encrypted: bool = False
    is_corrupt: bool = False
    """QEMU has marked it so."""
    unknown_features: int = 0
    """Incompatible features that we do not know, as a bit mask."""


def parse(head: bytes, length_bytes: int) -> ImageHeader:
    """Read the header from a file's first `HEAD_BYTES` and its length.

    All that is not qcow2 is raw. Raises `HeaderError`.
    """
    if not head.startswith(QCOW2_MAGIC):
        return ImageHeader(ImageFormat.RAW, length_bytes)
    if len(head) < _V2_LENGTH:
        raise HeaderError("the qcow2 header is cut short")
    version, name_offset, name_length, cluster_bits, size, crypt = struct.unpack_from(
        ">IQIIQI", head, 4
    )
    features, header_length = 0, _V2_LENGTH
    if version == 3:
        if len(head) < _V3_MIN_LENGTH:
            raise HeaderError("the qcow2 header is cut short")
        (features,) = struct.unpack_from(">Q", head, 72)
        (header_length,) = struct.unpack_from(">I", head, 100)
        if header_length < _V3_MIN_LENGTH:
            raise HeaderError(f"the qcow2 header says it is {header_length} bytes long")
    elif version != 2:
        raise HeaderError(f"qcow2 version {version} is not known")
    if not 9 <= cluster_bits <= 21:
        raise HeaderError(f"the qcow2 cluster size is 2^{cluster_bits}")
    return ImageHeader(
        format=ImageFormat.QCOW2,
        virtual_size_bytes=size,
        backing_file=_name(head, name_offset, name_length) if name_offset else "",
        backing_format=_backing_format(head, header_length, name_offset, 1 << cluster_bits),
        has_data_file=bool(features & _INCOMPATIBLE_DATA_FILE),
        is_encrypted=crypt != 0,
        is_corrupt=bool(features & _INCOMPATIBLE_CORRUPT),
        unknown_features=features & ~_INCOMPATIBLE_KNOWN,
    )


def refusal(header: ImageHeader, image: ImageRef) -> str:
    """Say why no disk may stand on an image with this header; empty when it may."""
    if header.format is not image.format:
        return f"it is {header.format.value}, not {image.format.value}"
    if header.format is ImageFormat.RAW:
        return ""
    faults = {
        "it has a backing file": bool(header.backing_file),
        "it keeps its data in another file": header.has_data_file,
        "it is encrypted": header.is_encrypted,
        "it is marked as corrupt": header.is_corrupt,
        "it uses features of qcow2 that are not known": bool(header.unknown_features),
        "its disk has another size than it was announced with": (
            header.virtual_size_bytes != image.virtual_size_bytes
        ),
    }
    return next((fault for fault, is_so in faults.items() if is_so), "")


def _name(head: bytes, offset: int, length: int) -> str:
    """Return the backing file's name. A name out of reach is an error: it must not go unseen."""
    if not 0 < length <= _MAX_NAME_BYTES or offset + length > len(head):
        raise HeaderError("the name of the backing file is out of bounds")
    return head[offset : offset + length].decode("utf-8", "surrogateescape")


def _backing_format(head: bytes, offset: int, name_offset: int, cluster_bytes: int) -> str:
    """Walk the header's extensions for the backing file's format; empty when it is not said."""
    end = min(len(head), name_offset or cluster_bytes)
    while offset + 8 <= end:
        kind, length = struct.unpack_from(">II", head, offset)
        offset += 8
        if kind == 0:
            break
        if offset + length > end:
            raise HeaderError("an extension of the qcow2 header is out of bounds")
        if kind == _EXTENSION_BACKING_FORMAT:
            return head[offset : offset + length].decode("ascii", "replace")
        offset += (length + 7) & ~7
    return ""
