"""Reports as the contract carries them, `unkai.host.v1.Diagnosis`, and back."""

from __future__ import annotations

from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from unkai.host.v1 import diagnosis_pb2 as pb
from unkai_wire.doctor.findings import Finding, Report, Severity
from unkai_wire.errors import InvalidArgument

MAX_CHECKS = 64
"""Names of checks that one call may ask for."""
_MAX_NAME = 64
_MOST_FINDINGS = 1000
_SEVERITIES = {
    Severity.WARN: pb.DiagnosisFinding.SEVERITY_WARN,
    Severity.FAIL: pb.DiagnosisFinding.SEVERITY_FAIL,
}


def to_message(report: Report, end_time: datetime) -> pb.Diagnosis:
    """Write a report that ended then."""
    stamp = Timestamp()
    stamp.FromDatetime(end_time)
    findings = [
        pb.DiagnosisFinding(
            check=found.check,
            severity=_SEVERITIES[found.severity],
            what=found.what,
            why=found.why,
            fix=found.fix,
            where=found.where,
        )
        for found in report.findings
    ]
    return pb.Diagnosis(
        where=report.where,
        version=report.version,
        check_count=report.checks,
        findings=findings,
        end_time=stamp,
    )


def from_message(message: pb.Diagnosis) -> tuple[Report, datetime]:
    """Read a report and when it ended. What is no severity of ours counts as a failure."""
    warn = pb.DiagnosisFinding.SEVERITY_WARN
    findings = tuple(
        Finding(
            check=found.check,
            severity=Severity.WARN if found.severity == warn else Severity.FAIL,
            what=found.what,
            why=found.why,
            fix=found.fix,
            where=found.where,
        )
        for found in message.findings[:_MOST_FINDINGS]
    )
    report = Report(message.where, message.version, message.check_count, findings)
    return report, message.end_time.ToDatetime(UTC)


def check_names(names: list[str]) -> list[str]:
    """Return the names asked for; raise `InvalidArgument` when they cannot be checks."""
    if len(names) > MAX_CHECKS or any(not 0 < len(name) <= _MAX_NAME for name in names):
        raise InvalidArgument.field(
            "checks", f"must be at most {MAX_CHECKS} names", reason="INVALID_CHECKS"
        )
    if any(name.startswith("-") or not name.replace("-", "").isalnum() for name in names):
        raise InvalidArgument.field(
            "checks",
            "a check's name has letters and hyphens",
            reason="INVALID_CHECKS",
            fix="see 'unkai doctor --list'",
        )
    return names
