"""The page of errors says what the code raises."""

from __future__ import annotations

import ast

from tools import error_reference


def test_the_page_is_current() -> None:
    assert error_reference.TARGET.read_text() == error_reference.page(), (
        "run 'python tools/error_reference.py' and commit what it changes"
    )


def test_reasons_are_found_however_they_are_raised() -> None:
    code = """
raise NotFound(f"no {what}", reason="WHAT_NOT_FOUND")
raise errors.Conflict("moved", reason="MOVED" if moved else "GONE", fix="look")
raise InvalidArgument.field("name", "is bad", reason="BAD_NAME")
log.info("x", reason="NOT_AN_ERROR")
"""
    found = {(r.reason, r.code, r.text) for r in error_reference.raised(ast.parse(code))}
    assert found == {
        ("WHAT_NOT_FOUND", "NOT_FOUND", "no …"),
        ("MOVED", "ABORTED", "moved"),
        ("GONE", "ABORTED", "moved"),
        ("BAD_NAME", "INVALID_ARGUMENT", "name is bad"),
    }


def test_reasons_handed_to_a_function_or_kept_in_a_table_are_found() -> None:
    code = """
def _refused(reason, problem, fix):
    return InvalidArgument.field("chunk", problem, reason=reason, fix=fix)

class Violations:
    def require(self, ok, field, problem, reason):
        self.errors.append(InvalidArgument.field(field, problem, reason=reason))

_CAUSES = (Cause("no room", "DISK_FULL", "is full"), Cause("kvm", "NO_KVM", "has no KVM"))

def translate(text):
    for cause in _CAUSES:
        if cause.text in text:
            return FailedPrecondition(f"cannot start: {cause.message}", reason=cause.reason)

def check(held):
    raise _refused("IMAGE_EMPTY", "has no bytes", "upload them")
    wrong.require(1 <= count <= 2, "count", f"is {count}", "INVALID_COUNT")
    for reason, number in (("STALE_TERM", 1), ("STALE_EPOCH", 2)):
        raise Conflict("it is over", reason=reason)
"""
    tree = ast.parse(code)
    found = error_reference.raised(tree, list(error_reference.senders(tree)))
    assert {(r.reason, r.code, r.text) for r in found} == {
        ("IMAGE_EMPTY", "INVALID_ARGUMENT", "has no bytes"),
        ("INVALID_COUNT", "INVALID_ARGUMENT", "count is …"),
        ("DISK_FULL", "FAILED_PRECONDITION", "cannot start: …"),
        ("NO_KVM", "FAILED_PRECONDITION", "cannot start: …"),
        ("STALE_TERM", "ABORTED", "it is over"),
        ("STALE_EPOCH", "ABORTED", "it is over"),
    }
