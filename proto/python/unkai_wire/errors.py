"""The error taxonomy: one class for each thing a caller handles differently.

    UnkaiError
    ├── InvalidArgument      INVALID_ARGUMENT     wrong whatever the state
    ├── Unauthenticated      UNAUTHENTICATED      who are you?
    ├── PermissionDenied     PERMISSION_DENIED    you may not (checked before existence)
    ├── NotFound             NOT_FOUND            names kind and id
    ├── AlreadyExists        ALREADY_EXISTS       names kind and name
    ├── FailedPrecondition   FAILED_PRECONDITION  right request, wrong state: fix the state first
    ├── Conflict             ABORTED              etag or generation moved: read again, then retry
    ├── QuotaExceeded        RESOURCE_EXHAUSTED   a limit of the project
    ├── NoCapacity           RESOURCE_EXHAUSTED   a limit of the hosts
    ├── DeadlineExceeded     DEADLINE_EXCEEDED    the time given has passed; the outcome is unknown
    ├── Cancelled            CANCELLED            somebody asked for it to be given up
    ├── Unavailable          UNAVAILABLE          safe to retry as is
    ├── Unsupported          UNIMPLEMENTED        this driver cannot
    └── Internal             INTERNAL             our bug; the caller gets an id only

Code raises these and catches these; `rpc_errors` alone turns them into gRPC statuses and back.
An error also has a plain record form (JSON) in which rows and ledgers keep it. This module never
imports grpc, so that `unkai --help` stays quick.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

ERROR_DOMAIN = "unkai"
"""`google.rpc.ErrorInfo.domain` of every error of ours."""

_NOUNS = {
    "aggregate": "aggregate",
    "context": "context",
    "event": "event",
    "flavor": "flavor",
    "floating_ip": "floating-ip",
    "host": "host",
    "image": "image",
    "instance": "instance",
    "key_pair": "key",
    "load_balancer": "load-balancer",
    "network": "network",
    "operation": "operation",
    "port": "port",
    "project": "project",
    "router": "router",
    "security_group": "security-group",
    "subnet": "subnet",
}
"""The command's word for each kind that it can list."""
_REASON = re.compile(r"[A-Z][A-Z0-9_]{0,62}")


class UnkaiError(Exception):
    """Base of all errors that cross a boundary.

    `reason` is stable for ever, upper snake case, at most 63 characters. Each value that the
    message names is in `metadata`. `fix` says what to do next, in one sentence.
    """

    code: ClassVar[int] = 13
    """Number of the gRPC status code (google/rpc/code.proto)."""
    default_reason: ClassVar[str] = "INTERNAL"

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        fix: str = "",
        metadata: Mapping[str, str] | None = None,
        request_id: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.default_reason
        if not _REASON.fullmatch(self.reason):
            raise ValueError(f"reason {self.reason!r} is not upper snake case of at most 63")
        self.fix = fix
        self.metadata: dict[str, str] = dict(metadata or {})
        self.request_id = request_id

    def details(self) -> dict[str, Any]:
        """Return what this class carries beside reason and metadata, as plain JSON values."""
        return {}

    def to_record(self) -> dict[str, Any]:
        """Return the error as plain JSON values; `from_record` is the way back."""
        return {
            "class": type(self).__name__,
            "message": self.message,
            "reason": self.reason,
            "fix": self.fix,
            "metadata": dict(self.metadata),
            "details": self.details(),
        }

    @staticmethod
    def from_record(record: Mapping[str, Any]) -> UnkaiError:
        """Make the error that `to_record` was called on; an unknown class becomes `Internal`."""
        kind = CLASSES.get(str(record.get("class", "")), Internal)
        return kind(
            str(record.get("message", "")),
            reason=str(record.get("reason", "")),
            fix=str(record.get("fix", "")),
            metadata={str(k): str(v) for k, v in dict(record.get("metadata", {})).items()},
            **dict(record.get("details", {})),
        )


class InvalidArgument(UnkaiError):
    """Wrong whatever the state. `violations`: (field path, what is wrong with it) each."""

    code = 3
    default_reason = "INVALID_ARGUMENT"

    def __init__(
        self, message: str, *, violations: Sequence[Sequence[str]] = (), **common: Any
    ) -> None:
        super().__init__(message, **common)
        self.violations = [(str(v[0]), str(v[1])) for v in violations]

    @classmethod
    def field(cls, path: str, problem: str, *, reason: str = "", fix: str = "") -> InvalidArgument:
        """Make the error for one wrong field."""
        return cls(
            f"{path}: {problem}",
            reason=reason,
            fix=fix,
            metadata={"field": path},
            violations=[(path, problem)],
        )

    def details(self) -> dict[str, Any]:
        return {"violations": [list(v) for v in self.violations]}


class Unauthenticated(UnkaiError):
    """The caller did not say who it is in a way we accept."""

    code = 16
    default_reason = "UNAUTHENTICATED"


class PermissionDenied(UnkaiError):
    """The caller may not do this; says nothing about whether the thing exists."""

    code = 7
    default_reason = "PERMISSION_DENIED"


class _ResourceError(UnkaiError):
    """Names the resource: its kind (`instance`) and its id or name."""

    def __init__(
        self, message: str, *, resource_kind: str = "", resource: str = "", **common: Any
    ) -> None:
        super().__init__(message, **common)
        self.resource_kind = resource_kind
        self.resource = resource

    def details(self) -> dict[str, Any]:
        return {"resource_kind": self.resource_kind, "resource": self.resource}


class NotFound(_ResourceError):
    """There is no such resource."""

    code = 5
    default_reason = "NOT_FOUND"

    @classmethod
    def of(cls, kind: str, ident: str) -> NotFound:
        """Make the error for a missing resource, such as `NotFound.of("instance", id)`."""
        words = kind.replace("_", " ")
        return cls(
            f"{words} {ident} does not exist",
            reason=f"{kind.upper()}_NOT_FOUND",
            fix=f"list what there is with 'unkai {_NOUNS[kind]} list'" if kind in _NOUNS else "",
            metadata={"resource_kind": kind, "resource": ident},
            resource_kind=kind,
            resource=ident,
        )


class AlreadyExists(_ResourceError):
    """The name or id is taken."""

    code = 6
    default_reason = "ALREADY_EXISTS"

    @classmethod
    def of(cls, kind: str, name: str) -> AlreadyExists:
        """Make the error for a taken name."""
        return cls(
            f"{kind.replace('_', ' ')} {name} already exists",
            reason=f"{kind.upper()}_EXISTS",
            fix="choose another name, or use the one that exists",
            metadata={"resource_kind": kind, "resource": name},
            resource_kind=kind,
            resource=name,
        )


class FailedPrecondition(UnkaiError):
    """Right request, wrong state: the caller must fix the state first."""

    code = 9
    default_reason = "FAILED_PRECONDITION"


class Conflict(UnkaiError):
    """Etag or generation moved, or another operation is under way: read again, then retry."""

    code = 10
    default_reason = "CONFLICT"


class QuotaExceeded(UnkaiError):
    """A limit of the project."""

    code = 8
    default_reason = "QUOTA_EXCEEDED"


class NoCapacity(UnkaiError):
    """No host can take it. `reasons`: how many hosts each reason kept out."""

    code = 8
    default_reason = "NO_CAPACITY"

    def __init__(
        self, message: str, *, reasons: Mapping[str, int] | None = None, **common: Any
    ) -> None:
        super().__init__(message, **common)
        self.reasons = {str(k): int(v) for k, v in (reasons or {}).items()}

    def details(self) -> dict[str, Any]:
        return {"reasons": dict(self.reasons)}


class DeadlineExceeded(UnkaiError):
    """The time given has passed; what happened is unknown."""

    code = 4
    default_reason = "DEADLINE_EXCEEDED"


class Cancelled(UnkaiError):
    """Somebody asked for it to be given up."""

    code = 1
    default_reason = "CANCELLED"


class Unavailable(UnkaiError):
    """Safe to retry as is, after `retry_after_s` seconds."""

    code = 14
    default_reason = "UNAVAILABLE"

    def __init__(self, message: str, *, retry_after_s: float = 0.5, **common: Any) -> None:
        super().__init__(message, **common)
        self.retry_after_s = float(retry_after_s)

    def details(self) -> dict[str, Any]:
        return {"retry_after_s": self.retry_after_s}


class Unsupported(UnkaiError):
    """This driver, or this version, cannot."""

    code = 12
    default_reason = "UNSUPPORTED"


class Internal(UnkaiError):
    """Our bug. The message carries an id that the log has too, and nothing else."""

    code = 13
    default_reason = "INTERNAL"


CLASSES: dict[str, type[UnkaiError]] = {
    c.__name__: c
    for c in (
        InvalidArgument,
        Unauthenticated,
        PermissionDenied,
        NotFound,
        AlreadyExists,
        FailedPrecondition,
        Conflict,
        QuotaExceeded,
        NoCapacity,
        DeadlineExceeded,
        Cancelled,
        Unavailable,
        Unsupported,
        Internal,
    )
}
