"""`read_table`: reads and checks the values of a TOML table against descriptions of its keys."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import msgspec

from edge.errors import EdgeError, OptionError
from edge.files import toml

__all__ = ["Fault", "Key", "nearest", "read_table", "read_value"]

_SHOWN = 200  # characters of an invalid value in a message


@dataclass(frozen=True)
class Key:
    """One key of a TOML file.

    kind     the type to which msgspec converts the value
    wanted   a description of the value for the hint of an error
    example  a valid value in the syntax of TOML
    check    raises an EdgeError or a ValueError for an invalid text, or one of a list
    """

    kind: Any
    wanted: str
    example: str
    check: Callable[[str], object] = str


class Fault(OptionError):
    """An invalid value. element: its index, if it is an element of a list."""

    def __init__(self, problem: str, hint: str, element: int | None = None) -> None:
        super().__init__(problem, hint)
        self.element = element


def nearest(name: str, known: Collection[str]) -> str:
    """The hint for an unknown name."""
    if near := difflib.get_close_matches(name, known, n=1):
        return f"did you mean {near[0]}?"
    return f"use one of: {', '.join(known)}"


def read_table(
    document: toml.Document,
    place: toml.KeyPath,
    table: Mapping[str, Any],
    keys: Mapping[str, Key],
    advice: Callable[[str], str],
    shown: Callable[[str], str] = str,
) -> dict[str, Any]:
    """The values of a table, converted and checked.

    advice: the hint for an unknown key. shown: how a message shows a value, to redact secrets.
    Raises ConfigError with the line of the first error.
    """
    found = {}
    for name, value in table.items():
        here = (*place, name)
        if name not in keys:
            raise document.error(here, f"unknown key {name!r}", advice(name))
        try:
            found[name] = read_value(name, value, keys[name], shown)
        except Fault as fault:
            where = here if fault.element is None else (*here, fault.element)
            raise document.error(where, fault.problem, fault.hint) from fault
    return found


def read_value(name: str, value: Any, key: Key, shown: Callable[[str], str] = str) -> Any:
    """A value, converted and checked. Raises `Fault`."""
    try:
        found = msgspec.convert(value, key.kind, dec_hook=_path)
    except msgspec.ValidationError as error:
        element = re.search(r"\$\[(\d+)\]`$", str(error))
        raise Fault(
            f"{name} cannot be {_text(value, shown)}",
            f"{_suggestion(value, key)}write {key.wanted}, as in: {name} = {key.example}",
            int(element[1]) if element else None,
        ) from error
    several = isinstance(found, tuple)
    for number, text in enumerate(found if several else (found,)):
        try:
            key.check(text)
        except (EdgeError, ValueError) as error:
            problem = error.problem if isinstance(error, EdgeError) else str(error)
            hint = error.hint if isinstance(error, EdgeError) else f"write {key.example}"
            raise Fault(f"{name}: {problem}", hint, number if several else None) from error
    return found


def _text(value: Any, shown: Callable[[str], str]) -> str:
    """An invalid value for a message, shortened."""
    try:
        text = shown(json.dumps(value, default=str, ensure_ascii=False))
    except ValueError:  # Python converts no more than 4300 digits
        return "such a number"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _suggestion(value: Any, key: Key) -> str:
    """The choice that is nearest to a misspelt one, as a question; else ""."""
    if not isinstance(value, str) or get_origin(key.kind) is not Literal:
        return ""
    near = difflib.get_close_matches(value, get_args(key.kind), n=1)
    return f"did you mean {near[0]}? " if near else ""


def _path(kind: type, value: Any) -> Path:
    if not isinstance(value, str | Path) or not value:
        raise ValueError("no path")
    return Path(value)
