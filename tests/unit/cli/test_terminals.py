"""Control keys as people write and read them."""

from __future__ import annotations

import pytest

from unkai_cli.terminals import control_key, key_text


@pytest.mark.parametrize(
    ("text", "key"),
    [("^]", 0x1D), ("ctrl-]", 0x1D), ("^a", 1), ("Ctrl-A", 1), ("^@", 0), ("^_", 0x1F)],
)
def test_a_control_key_is_the_byte_that_a_terminal_sends(text: str, key: int) -> None:
    assert control_key(text) == key


def test_none_is_no_key() -> None:
    assert control_key("none") is None


@pytest.mark.parametrize("text", ["", "]", "^", "^]]", "ctrl-", "F1", "^1", "ctrl-é"])
def test_what_is_no_control_key_is_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(ValueError, match=r"write \^\] or ctrl-a, or none"):
        control_key(text)


def test_a_key_is_shown_as_it_is_pressed() -> None:
    assert [key_text(key) for key in (0x1D, 1)] == ["Ctrl-]", "Ctrl-A"]
