"""Recipes: the settings of a build as a TOML file, `engines/<name>.toml`."""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from edge.build.pipeline import Recipe
from edge.errors import EngineError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["load"]

_PATHS = ("calibration", "heldout", "engines")
_REQUIRED = ("checkpoint", "calibration")


def load(path: Path | None, given: dict[str, Any]) -> Recipe:
    """A recipe file's settings, overridden by those that are not None in `given`.

    Paths in it are relative to the current folder. Raises `EngineError` for a file that cannot be
    read, an unknown setting, or a required one that is nowhere.
    """
    settings = _read(path) if path else {}
    settings.update({key: value for key, value in given.items() if value is not None})
    for key in _REQUIRED:
        if not settings.get(key):
            raise EngineError(
                f"no {key} was given",
                "type edge build CHECKPOINT --calibration DIR, or name a --recipe that has both",
            )
    for key in _PATHS:
        if settings.get(key) == "":
            raise EngineError(f"{path}: {key} is empty", "name a folder, or remove the line")
        if key in settings:
            settings[key] = Path(settings[key])
    return Recipe(**settings)


def _read(path: Path) -> dict[str, Any]:
    known = {field.name: field.type for field in fields(Recipe)}
    try:
        settings: dict[str, Any] = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise EngineError(f"there is no recipe {path}", "ls engines/*.toml shows them") from None
    except (OSError, ValueError) as error:
        raise EngineError(f"{path} is not valid TOML ({error})", "correct that line") from error
    for key, value in settings.items():
        if key not in known:
            raise EngineError(f"{path} has an unknown setting {key}", f"known: {', '.join(known)}")
        if not _fits(value, known[key]):
            raise EngineError(f"{path}: {key} = {value!r} is not a {known[key]}", "correct it")
    return settings


def _fits(value: Any, wanted: Any) -> bool:
    """Whether a TOML value can be a Recipe field of the type named `wanted`."""
    if wanted == "bool":
        return isinstance(value, bool)
    if wanted == "int":
        return isinstance(value, int) and not isinstance(value, bool)
    if wanted == "float":
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, str)
