"""Every setting changes something: one that nobody reads misleads whoever sets it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path

import pytest
from pydantic import BaseModel

import unkai_scheduler
from unkai_scheduler.placement.requests import Weights
from unkai_scheduler.settings import Settings, WeightSettings

SOURCES = Path(unkai_scheduler.__file__).parent


def leaves(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, str]]:
    """Yield the path and the last name of every setting that is no group."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            if kind is not WeightSettings:
                yield from leaves(kind, f"{path}{name}.")
        else:
            yield f"{path}{name}", name


@cache
def names_read() -> frozenset[str]:
    """Return all attributes that the scheduler's code reads, of whatever object."""
    return frozenset(
        node.attr
        for file in SOURCES.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    )


@pytest.mark.parametrize("path", [path for path, _ in leaves(Settings)])
def test_a_setting_is_read(path: str) -> None:
    assert path.rpartition(".")[2] in names_read()


def test_every_weight_is_one_of_the_scores() -> None:
    assert set(WeightSettings.model_fields) == {field.name for field in fields(Weights)}
