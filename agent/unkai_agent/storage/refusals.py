"""What storage refuses, in words: each reason is made in one place, for disks and for the fake."""

from __future__ import annotations

import re

from unkai_agent.domain.machines import DiskSpec, ImageRef
from unkai_wire.errors import FailedPrecondition, InvalidArgument, Unavailable

_DISK_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def check_disk_name(name: str) -> str:
    """Return the name, which becomes a file's; raise `InvalidArgument` when no disk may bear it."""
    if not _DISK_NAME.fullmatch(name):
        raise InvalidArgument.field(
            "disk.name", f"{name[:64]!r} is not 1 to 32 of a-z, 0-9 and -, first a letter"
        )
    return name


def check_sha256(sha256: str) -> str:
    """Return the hash, which becomes a file's name; raise `InvalidArgument` when it is none."""
    if not is_sha256(sha256):
        raise InvalidArgument.field("sha256", "it is not 64 lower-case hexadecimal digits")
    return sha256


def is_sha256(text: str) -> bool:
    """Tell whether a text is a SHA-256 as we write it."""
    return _SHA256.fullmatch(text) is not None


def disk_full(what: str) -> FailedPrecondition:
    """There is no room on the host for `what`."""
    return FailedPrecondition(
        f"no room on the host's disk for {what}",
        reason="DISK_FULL",
        fix="free space on the host or evict unused images, or choose a smaller disk",
        metadata={"what": what},
    )


def storage_failed(what: str, cause: str) -> Unavailable:
    """The host's disk, or a program that works on it, failed."""
    return Unavailable(
        f"the host's storage failed for {what}: {cause}",
        reason="STORAGE_FAILED",
        fix="look at the host's disk, its kernel log and the agent's log",
        metadata={"what": what, "cause": cause},
        retry_after_s=5.0,
    )


def storage_hangs(deadline_s: float) -> Unavailable:
    """The host's disk neither did what was asked nor said that it could not."""
    return Unavailable(
        f"the host's disk has not answered for {deadline_s:g} s",
        reason="STORAGE_HANGS",
        fix="look at the host's disk and its kernel log; the work goes on once it answers",
        retry_after_s=5.0,
    )


def fetch_stalled(image: ImageRef) -> Unavailable:
    """The image's bytes stopped coming."""
    return Unavailable(
        f"fetching image {image.image_id} stalled",
        reason="IMAGE_FETCH_STALLED",
        metadata={"image": image.image_id},
    )


def image_corrupt(image: ImageRef, problem: str) -> FailedPrecondition:
    """The bytes are not those of the image named."""
    return FailedPrecondition(
        f"the bytes of image {image.image_id} are not its own: {problem}",
        reason="IMAGE_CORRUPT",
        fix="delete the image and upload it again",
        metadata={"image": image.image_id, "sha256": image.sha256, "problem": problem},
    )


def image_refused(image: ImageRef, problem: str) -> FailedPrecondition:
    """No disk may stand on an image such as this."""
    return FailedPrecondition(
        f"image {image.image_id} is refused: {problem}",
        reason="IMAGE_REFUSED",
        fix="upload an image that stands alone: 'qemu-img convert' makes one",
        metadata={"image": image.image_id, "problem": problem},
    )


def image_not_cached(image: ImageRef) -> FailedPrecondition:
    """The image must be fetched before a disk is made from it."""
    return FailedPrecondition(
        f"image {image.image_id} is not in the host's cache",
        reason="IMAGE_NOT_CACHED",
        fix="fetch it first",
        metadata={"image": image.image_id},
    )


def image_in_use(sha256: str, disks: int) -> FailedPrecondition:
    """Disks stand on the image, or are about to."""
    return FailedPrecondition(
        f"{disks} disk(s) of this host stand on the image {sha256}",
        reason="IMAGE_IN_USE",
        fix="delete the instances that were made from it first",
        metadata={"sha256": sha256, "disks": str(disks)},
    )


def disk_missing(instance_id: str, name: str) -> FailedPrecondition:
    """A disk that must be there is not; an empty one must never take its place."""
    return FailedPrecondition(
        f"disk {name} of {instance_id} is gone",
        reason="DISK_MISSING",
        fix="restore the disk on its host, or delete the instance",
        metadata={"instance": instance_id, "disk": name},
    )


def disk_corrupt(instance_id: str, name: str, problem: str) -> FailedPrecondition:
    """What lies where the disk should is no disk of ours."""
    return FailedPrecondition(
        f"disk {name} of {instance_id} is not usable: {problem}",
        reason="DISK_CORRUPT",
        fix="restore the disk on its host, or delete the instance",
        metadata={"instance": instance_id, "disk": name, "problem": problem},
    )


def check_disk_size(spec: DiskSpec, least_bytes: int) -> int:
    """Return the size for a new disk; 0 asks for the image's own, less than that is refused."""
    if 0 < spec.size_bytes < least_bytes:
        raise FailedPrecondition(
            f"disk {spec.name} of {spec.size_bytes} bytes is smaller than the {least_bytes} bytes "
            f"of image {spec.image.image_id}",
            reason="DISK_TOO_SMALL",
            fix=f"ask for at least {least_bytes} bytes",
            metadata={
                "disk": spec.name,
                "size_bytes": str(spec.size_bytes),
                "least_bytes": str(least_bytes),
                "image": spec.image.image_id,
            },
        )
    return spec.size_bytes or least_bytes
