"""Images for tests: bytes, what names them, and a source that can fail."""

from __future__ import annotations

import asyncio
import hashlib
import os
import struct
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

from unkai_agent.domain.machines import ImageFormat, ImageRef
from unkai_wire.errors import Unavailable

REPOSITORY = Path(__file__).resolve().parents[2]
MIB = 1 << 20


def raw_bytes(size_bytes: int = 2 * MIB, fill: int = 1) -> bytes:
    """Make a raw image: each fill is another image."""
    return bytes([fill]) * size_bytes


def qcow2_bytes(
    virtual_size_bytes: int = 8 * MIB,
    *,
    version: int = 3,
    backing: bytes = b"",
    backing_format: bytes = b"",
    features: int = 0,
    encryption: int = 0,
    cluster_bits: int = 16,
    backing_offset: int | None = None,
) -> bytes:
    """Make a qcow2 file's first cluster (QEMU's docs/interop/qcow2.txt)."""
    extensions = b""
    if backing_format:
        padded = backing_format + b"\0" * (-len(backing_format) % 8)
        extensions += struct.pack(">II", 0xE2792ACA, len(backing_format)) + padded
    extensions += struct.pack(">II", 0, 0)
    length = 104 if version == 3 else 72
    offset = length + len(extensions) if backing else 0
    head = b"QFI\xfb" + struct.pack(
        ">IQIIQIIQQIIQ",
        version,
        offset if backing_offset is None else backing_offset,
        len(backing),
        cluster_bits,
        virtual_size_bytes,
        encryption,
        1,
        3 << 16,
        1 << 16,
        1,
        0,
        0,
    )
    if version == 3:
        head += struct.pack(">QQQII", features, 0, 0, 4, length)
    return (head + extensions + backing).ljust(1 << 16, b"\0")


def an_image(
    content: bytes,
    *,
    ident: str = "img-00000000000000000000000001",
    image_format: ImageFormat = ImageFormat.RAW,
    virtual_size_bytes: int | None = None,
) -> ImageRef:
    """Name an image by its bytes."""
    return ImageRef(
        image_id=ident,
        sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
        virtual_size_bytes=len(content) if virtual_size_bytes is None else virtual_size_bytes,
        format=image_format,
    )


class ImageSource:
    """Where images are fetched from: `fetch` is a `FetchImage`."""

    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}
        self.fetches: list[str] = []
        """Id of each fetch begun."""
        self.fail_after_bytes: int | None = None
        """The next fetch breaks once so many bytes were given."""
        self.gate: asyncio.Event | None = None
        """Fetches wait here after their first piece."""
        self.begun = asyncio.Event()

    def serve(self, image: ImageRef, content: bytes) -> ImageRef:
        """Give these bytes to whoever asks for the image."""
        self.contents[image.image_id] = content
        return image

    async def fetch(self, image_id: str, offset_bytes: int) -> AsyncIterator[bytes]:
        self.fetches.append(image_id)
        limit, self.fail_after_bytes = self.fail_after_bytes, None
        content = self.contents[image_id]
        for start in range(offset_bytes, len(content), 256 * 1024):
            await asyncio.sleep(0)  # a network would let others run
            if limit is not None and start >= limit:
                raise Unavailable("the scheduler went away", reason="SCHEDULER_UNREACHABLE")
            yield content[start : start + 256 * 1024]
            self.begun.set()
            if self.gate is not None:
                await self.gate.wait()


@contextmanager
def open_folder() -> Iterator[Path]:
    """Give a folder that another user can pass through; pytest's own are for their owner alone."""
    with tempfile.TemporaryDirectory(prefix="unkai-test-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        yield folder


def built_tiny() -> Path:
    """Return the tiny image, building it when its recipe is another than what was built of."""
    return _built("tiny", 300)


def built_debian_12() -> Path:
    """Return the image debian-12, building it likewise: that takes minutes."""
    return _built("debian-12", 1500)


def _built(name: str, timeout_s: float) -> Path:
    done = subprocess.run(
        [REPOSITORY / "images/built.sh", name],
        check=True,
        timeout=timeout_s,
        stdout=subprocess.PIPE,
    )
    return Path(done.stdout.decode().strip())


def build_tiny(out: Path) -> None:
    """Run the recipe of the tiny image."""
    script = REPOSITORY / "images/tiny/build.sh"
    environment = os.environ | {"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    subprocess.run([script, out], check=True, timeout=120, env=environment)
