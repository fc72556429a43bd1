"""Tables line up on a terminal, whatever the writing."""

from __future__ import annotations

import io
import unicodedata

import pytest

from unkai_cli.output import Column, Printer

COLUMNS = (Column("NAME", lambda r: r["name"]), Column("AGE", lambda r: r["age"], right=True))


def _columns_of(text: str) -> int:
    """Count a terminal's columns (Unicode Standard Annex 11; combining marks take none)."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


@pytest.mark.parametrize(
    "name", ["web", "größe", "雲海", "雲の海 web", "ｗｅｂ", "e\u0301te\u0301"]
)
def test_columns_stand_below_each_other(name: str) -> None:
    out = io.StringIO()
    printer = Printer(out=out)
    printer.rows([{"name": name, "age": "5m"}, {"name": "plain", "age": "12h"}], COLUMNS)
    printer.change({"name": name, "age": "6m"}, COLUMNS)
    assert len({_columns_of(line) for line in out.getvalue().splitlines()}) == 1, out.getvalue()
