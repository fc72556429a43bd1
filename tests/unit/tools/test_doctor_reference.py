"""The page of checks is what the checks say of themselves."""

from __future__ import annotations

from tools import doctor_reference


def test_the_page_is_current() -> None:
    assert doctor_reference.PAGE.read_text() == doctor_reference.text(), "run tools/references.sh"
