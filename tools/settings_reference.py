"""Write docs/reference/settings.md from the code: `python tools/settings_reference.py [FILE]`.

Reads the fields of both daemons' settings with their defaults, bounds and docstrings. A unit test
compares the file with what this writes.
"""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

import unkai_agent.settings
import unkai_scheduler.settings

TARGET = Path(__file__).parents[1] / "docs" / "reference" / "settings.md"
_HEAD = """\
# Reference: settings

Made from the code by `python tools/settings_reference.py`; do not edit it by hand.

Each daemon reads a TOML file (`--config FILE`, else the default one where it exists) and its
environment, which wins: `{prefix}` and the key in capitals, `__` between table and key, as in
`{example}`. An unknown key, or a value out of its bounds, is refused at the start;
`--check-config` says so without starting. A key with a dot stands in a table of that name.
"""
_DAEMONS = (
    ("unkai-scheduler", unkai_scheduler.settings, "/etc/unkai/scheduler.toml"),
    ("unkai-agent", unkai_agent.settings, "/etc/unkai/agent.toml"),
)


def rows(model: type[Any], prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield key, default and meaning of each setting, those of tables after the plain ones."""
    said = _docstrings(model)
    tables = []
    for name, kind, default in _settings(model):
        if _is_table(kind):
            tables.append((name, kind))
            continue
        yield f"{prefix}{name}", _shown(default), said[name]
    for name, kind in tables:
        yield from rows(kind, f"{prefix}{name}.")


def _is_table(kind: Any) -> bool:
    return isinstance(kind, type) and (is_dataclass(kind) or issubclass(kind, BaseModel))


def _settings(model: type[Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yield name, type and default of each: of a model of pydantic's, or a dataclass."""
    if is_dataclass(model):
        kinds = get_type_hints(model)
        for each in fields(model):
            made = each.default if each.default_factory is MISSING else each.default_factory()
            yield each.name, kinds[each.name], made
        return
    for name, field in model.model_fields.items():
        # What a factory gives depends on the machine; its docstring says what it is.
        yield name, field.annotation, field.get_default()


def _docstrings(model: type[Any]) -> dict[str, str]:
    """Return the text below each field, which Python itself does not keep."""
    found: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if not base.__module__.startswith("unkai"):
            continue
        (source,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(source, ast.ClassDef)
        for field, text in zip(source.body, source.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                said = " ".join(str(ast.literal_eval(text.value)).split())
                found[ast.unparse(field.target)] = said
    return found


def _shown(default: Any) -> str:
    if default is None or default is PydanticUndefined or default in ("", ()):
        return ""
    if isinstance(default, tuple):
        return ", ".join(f"`{item}`" for item in default)
    return f"`{getattr(default, 'value', default)}`"


def page() -> str:
    """Return the whole page."""
    text = _HEAD.format(
        prefix="UNKAI_SCHEDULER_` or `UNKAI_AGENT_", example="UNKAI_AGENT_ETCD__ENDPOINTS"
    )
    for daemon, module, file in _DAEMONS:
        text += f"\n## {daemon}\n\nDefault file: `{file}`.\n\n| key | default | meaning |\n"
        text += "| --- | --- | --- |\n"
        for key, default, meaning in rows(module.Settings):
            text += f"| `{key}` | {default} | {meaning.replace('|', '/')} |\n"
    return text


if __name__ == "__main__":
    (Path(sys.argv[1]) if len(sys.argv) > 1 else TARGET).write_text(page())
