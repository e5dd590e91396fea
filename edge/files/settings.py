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
from edge.files.redaction import holds_secret, redact, redact_address

__all__ = ["Fault", "Key", "nearest", "read_table", "read_value"]

_SHOWN = 200  # characters of an invalid value in a message


@dataclass(frozen=True)
class Key:
    """One key of a TOML file.

    kind     the type to which msgspec converts the value
    wanted   a description of the value for the hint of an error
    example  a valid value in the syntax of TOML
    check    raises an EdgeError or a ValueError for an invalid text, or one of a list
    uris     a value may contain a URI with a password; the errors of `check` redact it
    """

    kind: Any
    wanted: str
    example: str
    check: Callable[[str], object] = str
    uris: bool = False

    def check_value(self, value: Any) -> None:
        """Check a value, or an element of a list. Raises EdgeError or ValueError.

        A URI with a secret where none is expected is refused here: `check` and the code that uses
        the value would show it in their errors.
        """
        if not self.uris and isinstance(value, str | Path) and holds_secret(str(value)):
            raise ValueError(f"cannot be {redact(str(value))}")
        self.check(value)


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
) -> dict[str, Any]:
    """The values of a table, converted and checked.

    advice: the hint for an unknown key. Raises ConfigError with the line of the first error, which
    redacts secrets.
    """
    found = {}
    for name, value in table.items():
        here = (*place, name)
        if name not in keys:
            raise document.error(here, f"unknown key {redact(name)!r}", advice(name))
        try:
            found[name] = read_value(name, value, keys[name])
        except Fault as fault:
            where = here if fault.element is None else (*here, fault.element)
            raise document.error(where, fault.problem, fault.hint) from fault
    return found


def read_value(name: str, value: Any, key: Key) -> Any:
    """A value, converted and checked. Raises `Fault`."""
    try:
        found = msgspec.convert(value, key.kind, dec_hook=_path)
    except msgspec.ValidationError as error:
        element = re.search(r"\$\[(\d+)\]`$", str(error))
        raise Fault(
            f"{name} cannot be {_text(value)}",
            f"{_suggestion(value, key)}write {key.wanted}, as in: {name} = {key.example}",
            int(element[1]) if element else None,
        ) from error
    several = isinstance(found, tuple)
    for number, text in enumerate(found if several else (found,)):
        try:
            key.check_value(text)
        except (EdgeError, ValueError) as error:
            problem = error.problem if isinstance(error, EdgeError) else str(error)
            hint = error.hint if isinstance(error, EdgeError) else f"write {key.example}"
            raise Fault(f"{name}: {problem}", hint, number if several else None) from error
    return found


def _text(value: Any) -> str:
    """An invalid value for a message, redacted and shortened."""
    try:
        text = json.dumps(_redacted(value), default=str, ensure_ascii=False)
    except ValueError:  # Python converts no more than 4300 digits
        return "such a number"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _redacted(value: Any) -> Any:
    if isinstance(value, dict):
        return {redact_address(key): _redacted(child) for key, child in value.items()}
    if isinstance(value, list):
        return [_redacted(child) for child in value]
    return redact_address(str(value)) if isinstance(value, str | Path) else value


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
