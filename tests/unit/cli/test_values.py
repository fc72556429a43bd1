"""Sizes and lengths of time as people write them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unkai_cli.commands.options import MAX_BYTES, MAX_SECONDS, Label, Seconds, Size
from unkai_cli.output import age_text, bytes_text

FACTORS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40, "P": 1 << 50}


@given(st.integers(0, MAX_BYTES), st.sampled_from("KMGTP"), st.sampled_from(["", "i", "B", "iB"]))
def test_a_whole_number_with_a_unit_is_exactly_that_many_bytes(
    number: int, unit: str, suffix: str
) -> None:
    size = number * FACTORS[unit]
    text = f"{number}{unit}{suffix}"
    if size > MAX_BYTES:
        with pytest.raises(click.BadParameter):
            Size().convert(text, None, None)
    else:
        assert Size().convert(text, None, None) == size
        assert Size().convert(text.lower(), None, None) == size


@given(st.integers(0, MAX_BYTES))
def test_bytes_need_no_unit(number: int) -> None:
    assert Size().convert(str(number), None, None) == number
    assert Size().convert(f"{number}B", None, None) == number


@given(st.integers(0, 1 << 40))
def test_what_is_printed_exactly_is_read_back(number: int) -> None:
    shown = bytes_text(number)
    if "." not in shown:
        assert Size().convert(shown, None, None) == number


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512M", 512 << 20),
        ("4GiB", 4 << 30),
        ("4Gi", 4 << 30),
        ("1.5G", 3 << 29),
        ("0.5K", 512),
        (" 2 GiB ", 2 << 30),
    ],
)
def test_a_size_in_each_way_of_writing(text: str, size: int) -> None:
    assert Size().convert(text, None, None) == size


@pytest.mark.parametrize("text", ["", "M", "-1M", "1X", "1.3B", "0.1K", "1e3", "12MM", "4iB", "٤G"])
def test_what_is_no_whole_number_of_bytes_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        Size().convert(text, None, None)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("90s", 90),
        ("5m", 300),
        ("2h", 7200),
        ("7d", 604800),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("250ms", 0.25),
        ("1m0.5s", 60.5),
        ("5M", 300),
    ],
)
def test_a_length_of_time_in_each_way_of_writing(text: str, seconds: float) -> None:
    assert Seconds().convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "m", "-5m", "5 minutes", "1h30", "inf", "nan", "366d", "1w"])
def test_what_is_no_length_of_time_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        Seconds().convert(text, None, None)


@given(st.integers(0, 364), st.integers(0, 23), st.integers(0, 59), st.integers(0, 59))
def test_parts_of_a_length_add_up(days: int, hours: int, minutes: int, seconds: int) -> None:
    total = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds).total_seconds()
    text = f"{days}d{hours}h{minutes}m{seconds}s"
    assert Seconds().convert(text, None, None) == total <= MAX_SECONDS


def test_a_label_has_a_key_and_may_have_an_empty_value() -> None:
    assert Label().convert("app=shop=1", None, None) == ("app", "shop=1")
    assert Label().convert("app=", None, None) == ("app", "")
    for text in ("app", "=shop", ""):
        with pytest.raises(click.BadParameter):
            Label().convert(text, None, None)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0s"),
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (7199, "119m"),
        (7200, "2h"),
        (172799, "47h"),
        (172800, "2d"),
    ],
)
def test_ages_are_told_in_the_largest_unit_that_says_enough(seconds: int, text: str) -> None:
    now = datetime(2026, 11, 22, tzinfo=UTC)
    assert age_text((now - timedelta(seconds=seconds)).isoformat(), now) == text
