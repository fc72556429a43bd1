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
    state_reason: Mapping[str, Any] | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
