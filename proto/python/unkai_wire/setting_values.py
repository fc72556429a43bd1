"""Values that both roles' settings hold, and what is said of a wrong one. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

FINE = "the settings are fine"
"""What `--check-config` says where it finds nothing wrong."""
_ADDRESS = re.compile(r"([A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+(?:%\w+)?\]):([0-9]{1,5})")
_WORDS = {
    "string_type": "must be a text",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "model_type": "must be a table",
    "dict_type": "must be a table",
    "bool_type": "must be true or false",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a number that is finite",
}
"""What a person who writes TOML calls what the library calls by Python's names."""
_BOUNDS = (
    ("greater_than_equal", "ge", "must be {} or more"),
    ("less_than_equal", "le", "must be {} or less"),
    ("greater_than", "gt", "must be above {}"),
    ("less_than", "lt", "must be below {}"),
    ("too_short", "min_length", "must have at least {} in it"),
)


@dataclass(frozen=True, slots=True)
class Checked:
    """In `Annotated`: the value is what `check` returns; it raises `ValueError` otherwise.

    pydantic asks for the method. Where nothing checks, pydantic is not needed.
    """

    check: Callable[[Any], Any]

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """Let `check` have what the type itself accepts."""
        from pydantic_core import core_schema

        return core_schema.no_info_after_validator_function(self.check, handler(source))


def split_address(text: str) -> tuple[str, int]:
    """Split `HOST:PORT` (`[IPV6]:PORT`); an empty host means all addresses.

    Raises `ValueError`: no port, one that is not 1 to 65535, or more than a host before it.
    """
    match = _ADDRESS.fullmatch(text)
    if match is None or not 1 <= int(match[2]) <= 65535:
        raise ValueError(f"{text!r} is not HOST:PORT")
    return match[1].strip("[]") or "0.0.0.0", int(match[2])


def problem_of(error: Mapping[str, Any]) -> str:
    """Say what is wrong with a value, of one of pydantic's `errors()`."""
    kind, context = str(error["type"]), error.get("ctx", {})
    for name, bound, sentence in _BOUNDS:
        if kind == name and bound in context:
            return sentence.format(context[bound])
    if kind == "literal_error":
        return f"must be {context['expected']}"
    return _WORDS.get(kind, str(error["msg"]).removeprefix("Value error, "))
