"""Reads the agent's settings from a TOML file and the environment, and checks all of them.

`UNKAI_AGENT_*` wins over the file, `__` nests: `UNKAI_AGENT_ETCD__ENDPOINTS`. An unknown key is
refused with its name and where it stands. pydantic is imported here and nowhere else in the agent:
the daemon itself, which would keep it for nothing, has its settings read by `settings_apart`.
"""

from __future__ import annotations

import os
import tomllib
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, create_model
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from unkai_agent.settings import DEFAULT_FILE, InvalidSettings, Settings
from unkai_wire.setting_values import problem_of

ENV_PREFIX = "UNKAI_AGENT_"


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Whole(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_nested_delimiter="__", extra="forbid"
    )

    @classmethod
    def settings_customise_sources(cls, *_: Any, **sources: Any) -> tuple[Any, ...]:
        """Let the environment win over the file, which arrives as init arguments."""
        return sources["env_settings"], sources["init_settings"]


def _model(part: type[Any], base: type[BaseModel]) -> type[BaseModel]:
    """Return the model that has the fields, bounds and defaults of a part of the settings."""
    hints = get_type_hints(part, include_extras=True)
    wanted: dict[str, Any] = {}
    for field in fields(part):
        hint, default = hints[field.name], field.default
        if field.default_factory is not MISSING:
            default = field.default_factory()
        if isinstance(hint, type) and is_dataclass(hint):
            hint = _model(hint, _Table)
            default = hint()
        wanted[field.name] = (hint, default)
    model: type[BaseModel] = create_model(part.__name__, __base__=base, **wanted)
    return model


def load_settings(path: Path | None = None) -> Settings:
    """Read the settings; raise `InvalidSettings` with every problem found.

    Without `path` the default file is read where it exists; a `path` given must exist.
    """
    file = path or DEFAULT_FILE
    values = _read_file(file, required=path is not None)
    problems = _unknown_variables()
    try:
        checked = _model(Settings, _Whole)(**values)
    except ValidationError as error:
        found = [_sentence(e, file) for e in error.errors()]
        raise InvalidSettings(problems + found) from error
    except SettingsError as error:
        raise InvalidSettings([*problems, f"environment: {error}"]) from error
    if problems:
        raise InvalidSettings(problems)
    return TypeAdapter(Settings).validate_python(checked.model_dump())


def _read_file(file: Path, *, required: bool) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text())
    except FileNotFoundError as error:
        if required:
            raise InvalidSettings([f"{file}: there is no such file"]) from error
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSettings([f"{file}: cannot be read: {error}"]) from error
    except tomllib.TOMLDecodeError as error:
        raise InvalidSettings([f"{file}: is not TOML: {error}"]) from error


def _unknown_variables() -> list[str]:
    """Find variables with our prefix that name no setting; pydantic passes over these."""
    names = {field.name for field in fields(Settings)}
    return [
        f"environment: {variable}: no such setting"
        for variable in sorted(os.environ)
        if variable.upper().startswith(ENV_PREFIX)
        and variable[len(ENV_PREFIX) :].lower().partition("__")[0] not in names
    ]


def _sentence(error: Any, file: Path) -> str:
    location = tuple(str(part) for part in error["loc"])
    variable = ENV_PREFIX + "__".join(location).upper()
    upper = {name.upper() for name in os.environ}
    source = f"environment: {variable}" if variable in upper else f"{file}: {'.'.join(location)}"
    if error["type"] == "extra_forbidden":
        return f"{source}: no such setting"
    return f"{source}: {problem_of(error)}"
