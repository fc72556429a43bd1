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
