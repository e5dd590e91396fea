"""The settings of a TOML file, key by key: what each value must be, and how a person writes it."""

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

_SHOWN = 200  # letters of a value that is wrong


@dataclass(frozen=True)
class Key:
    """One key of the file: what msgspec makes of its value, what a person writes, an example.

    check  raises an EdgeError or a ValueError for a text, or one of a list, that means nothing
    """

    kind: Any
    wanted: str
    example: str
    check: Callable[[str], object] = str


class Fault(OptionError):
    """A value that its key cannot have; element: of a list, the number of the one at fault."""

    def __init__(self, what: str, hint: str, element: int | None = None) -> None:
        super().__init__(what, hint)
        self.element = element


def nearest(name: str, known: Collection[str]) -> str:
    """What to write in place of a name that is not known."""
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
    """The values of a table, each as its key wants it.

    advice: what to write in place of a key that is not there. shown: what an error shows of a
    value. Raises ConfigError, with its line, for the first fault.
    """
    found = {}
    for name, value in table.items():
        here = (*place, name)
        if name not in keys:
            raise document.error(here, f"there is no key {name!r} here", advice(name))
        try:
            found[name] = read_value(name, value, keys[name], shown)
        except Fault as fault:
            where = here if fault.element is None else (*here, fault.element)
            raise document.error(where, fault.problem, fault.hint) from fault
    return found


def read_value(name: str, value: Any, key: Key, shown: Callable[[str], str] = str) -> Any:
    """A value as its key wants it. Raises `Fault`."""
    try:
        found = msgspec.convert(value, key.kind, dec_hook=_path)
    except msgspec.ValidationError as error:
        element = re.search(r"\$\[(\d+)\]`$", str(error))
        raise Fault(
            f"{name} cannot be {_text(value, shown)}",
            f"{_meant(value, key)}write {key.wanted}, as in: {name} = {key.example}",
            int(element[1]) if element else None,
        ) from error
    several = isinstance(found, tuple)
    for number, text in enumerate(found if several else (found,)):
        try:
            key.check(text)
        except (EdgeError, ValueError) as error:
            what = error.problem if isinstance(error, EdgeError) else str(error)
            hint = error.hint if isinstance(error, EdgeError) else f"write {key.example}"
            raise Fault(f"{name}: {what}", hint, number if several else None) from error
    return found


def _text(value: Any, shown: Callable[[str], str]) -> str:
    """A value that is wrong: it may have thousands of digits, or of letters."""
    try:
        text = shown(json.dumps(value, default=str, ensure_ascii=False))
    except ValueError:  # Python writes no more than 4300 digits
        return "such a number"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _meant(value: Any, key: Key) -> str:
    """Of a misspelt choice the one that is nearest."""
    if not isinstance(value, str) or get_origin(key.kind) is not Literal:
        return ""
    near = difflib.get_close_matches(value, get_args(key.kind), n=1)
    return f"did you mean {near[0]}? " if near else ""


def _path(kind: type, value: Any) -> Path:
    if not isinstance(value, str | Path) or not value:
        raise ValueError("no path")
    return Path(value)
