"""TOML files into typed, strict configuration: an unknown key is refused with a suggestion."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from duality.errors import ConfigError, suggestion


class Config(BaseModel):
    """Base of every configuration section: frozen, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


C = TypeVar("C", bound=Config)


def read_toml(path: Path) -> dict[str, Any]:
    """Parse a TOML file.

    Raises:
        ConfigError: missing, or not TOML (the line is named).
    """
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None


def with_overrides(values: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Apply `section.key=value` settings; values are read as TOML, else taken as strings.

    Raises:
        ConfigError: a setting without `=` or one that goes through a value.
    """
    result: dict[str, Any] = {key: dict(v) if isinstance(v, dict) else v for key, v in values.items()}
    for override in overrides:
        name, separator, text = override.partition("=")
        if not separator or not name.strip():
            raise ConfigError(f"--set {override}: write section.key=value")
        *sections, key = name.strip().split(".")
        target = result
        for section in sections:
            target = target.setdefault(section, {})
            if not isinstance(target, dict):
                raise ConfigError(f"--set {override}: {section} is a value, not a section")
        target[key] = _toml_value(text.strip())
    return result


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def validate(model: type[C], values: dict[str, Any], *, source: str) -> C:
    """Build a typed configuration.

    Args:
        model: the section's class.
        values: as read from TOML.
        source: where they come from, for the message.

    Raises:
        ConfigError: one line with the first problem: key, what is wrong, nearest known key.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        section, path = _walk(model, [str(part) for part in first["loc"]])
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            message = f"unknown key{suggestion(path[-1], list(section.model_fields) if section else [])}"
        elif first["type"] == "union_tag_invalid":
            known = [tag.strip("' ") for tag in first["ctx"]["expected_tags"].split(",")]
            message = f"name '{first['ctx']['tag']}'{suggestion(first['ctx']['tag'], known)}: choose {', '.join(known)}"
        raise ConfigError(f"{source}: {'.'.join(path)}: {message}") from None


def _walk(model: type[BaseModel], loc: list[str]) -> tuple[type[BaseModel] | None, list[str]]:
    """The section that holds the last key of a location, and the location as a recipe writes it: the kind
    of a section that can be several is not part of it."""
    section: type[BaseModel] | None = model
    path = loc[:1]
    places = iter(loc[1:])
    for place in places:
        field = section.model_fields.get(path[-1]) if section else None
        kinds = _sections(field.annotation) if field else []
        section = kinds[0] if len(kinds) == 1 else None
        if len(kinds) > 1:
            section = next((kind for kind in kinds if kind.model_fields["name"].default == place), None)
            place = next(places, "")
        path += [place] if place else []
    return section, path


def _sections(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [one for part in get_args(annotation) for one in _sections(part)]
