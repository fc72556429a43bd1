"""Images: what root disks begin as."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any


class ImageFormat(Enum):
    """Format of an image's bytes, as our own reader found it."""

    QCOW2 = "qcow2"
    RAW = "raw"


class ImageState(Enum):
    """Where an image stands."""

    UPLOADING = "UPLOADING"
    READY = "READY"
    FAILED = "FAILED"
    DELETING = "DELETING"


class Visibility(Enum):
    """Who may use an image."""

    PRIVATE = "PRIVATE"
    PUBLIC = "PUBLIC"


@dataclass(frozen=True, slots=True)
class Image:
    """An image's row."""

    id: str
    project_id: str
    name: str
    visibility: Visibility
    state: ImageState
    etag: str
    create_time: datetime
    update_time: datetime
    format: ImageFormat | None = None
    """None until known; a user may have stated it."""
    size_bytes: int = 0
    virtual_size_bytes: int = 0
    sha256: str = ""
    bytes_key: str = ""
    """Where its bytes are, once they count; empty for those kept under its id."""
    state_reason: Mapping[str, Any] | None = None
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The key of its bytes in the image store."""
        return self.bytes_key or self.id

    @property
    def lacks_bytes(self) -> bool:
        """Whether no bytes count as its own yet, or any more."""
        return self.state in {ImageState.UPLOADING, ImageState.FAILED}


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload under way: bytes under a key that no image names yet."""

    key: str
    image_id: str
    beat: int
    """Rises while somebody uploads."""
    given_up: bool = False


def upload_key(image_id: str, token: str) -> str:
    """Return the key for the bytes of one upload of an image."""
    return f"{image_id}.{token}"


def is_key_of(image_id: str, key: str) -> bool:
    """Tell whether bytes under this key were uploaded for the image."""
    return key == image_id or key.startswith(upload_key(image_id, ""))
