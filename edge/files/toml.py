"""`read`: TOML files with the line number of every key, which `tomllib` does not provide.

A TOML statement ends at the end of a line, and no leading part of it is a valid statement. So each
statement is the smallest number of lines that `tomllib` accepts. Parsed alone, it shows the keys
that it sets; multi-line strings, quotes, dots and comments are left to the parser.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.errors import ConfigError
from edge.files.reading import ACCESS, read_text

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["Document", "KeyPath", "read"]

_DEEPEST = 32  # nesting depth of one statement; a configuration needs two

KeyPath = tuple[str | int, ...]  # keys, and numbers of elements: ("camera", 0, "every")


class _TooDeep(Exception):
    """A statement nests `_DEEPEST` deep; its argument is the statement's first line, from 1."""


@dataclass(frozen=True)
class Document:
    """The values of a TOML file, and their lines.

    lines  for every table, key and array element the line where it first appears, from 1
    """

    path: Path
    data: dict[str, Any]
    lines: dict[KeyPath, int]

    def error(self, place: KeyPath, problem: str, hint: str) -> ConfigError:
        """An error with the file and the line; for a missing key, the line of its table."""
        while place and place not in self.lines:
            place = place[:-1]
        return ConfigError(f"{self.path}:{self.lines.get(place, 1)}: {problem}", hint)


def read(path: Path) -> Document:
    """Read a TOML file. Raises ConfigError if it does not exist or is invalid."""
    try:
        text = read_text(path, "utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror or error})", ACCESS) from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: this is not UTF-8", "save the file as UTF-8") from error
    try:
        return Document(path, *_parsed(text))
    except _TooDeep as error:
        raise ConfigError(
            f"{path}:{error.args[0]}: this is nested too deeply", "correct that line"
        ) from error
    except ValueError as error:
        found = re.search(r" \(at (?:line (\d+), column \d+|end of document)\)$", str(error))
        line = text.rstrip().count("\n") + 1
        problem = str(error)
        if found:
            line, problem = int(found[1] or line), problem[: found.start()]
        raise ConfigError(
            f"{path}:{line}: this is not valid TOML ({problem})", "correct that line"
        ) from error


def _parsed(text: str) -> tuple[dict[str, Any], dict[KeyPath, int]]:
    """The values of a document, and the line of each place."""
    try:
        data = tomllib.loads(text)
    except RecursionError:
        data = {}  # `_lines` raises _TooDeep for the statement
    return data, _lines(text)


def _lines(text: str) -> dict[KeyPath, int]:
    """The line of each place in a valid document."""
    lines: dict[KeyPath, int] = {}
    counts: dict[KeyPath, int] = {}  # number of elements so far of each array of tables
    table: KeyPath = ()
    for first, statement in _statements(text):
        is_header = statement[0].lstrip().startswith("[")
        if is_header:
            is_element = statement[0].lstrip().startswith("[[")
            table = _table(tomllib.loads(statement[0]), counts, is_element)
            for end in range(1, len(table) + 1):
                lines.setdefault(table[:end], first)
            continue
        for line, values in _growing(first, statement):
            for place in _places(values):
                lines.setdefault((*table, *place), line)
    return lines


def _statements(text: str) -> Iterator[tuple[int, list[str]]]:
    """The first line's number and the lines of each statement; no blank lines or comments."""
    start, lines = 0, text.split("\n")
    for end in range(1, len(lines) + 1):
        statement = lines[start:end]
        try:
            values = tomllib.loads("\n".join(statement))
        except ValueError:
            continue
        except RecursionError as error:
            raise _TooDeep(start + 1) from error
        if _is_deep(values):
            raise _TooDeep(start + 1)
        if values:
            yield start + 1, statement
        start = end


def _is_deep(value: Any) -> bool:
    """Whether tables and arrays are nested more than `_DEEPEST` deep."""
    layer = [value]
    for _ in range(_DEEPEST):
        layer = [child for one in layer for child in _children(one)]
    return bool(layer)


def _children(value: Any) -> Collection[Any]:
    """The values of a table or an array."""
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _table(header: dict[str, Any], counts: dict[KeyPath, int], is_element: bool) -> KeyPath:
    """The place of the table that a header opens; arrays on the way mean their newest element."""
    place: KeyPath = ()
    value: Any = header
    while value:
        if isinstance(value, list):
            value = value[0]
            continue
        ((key, value),) = value.items()
        place = (*place, key)
        if is_element and isinstance(value, list):
            counts[place] = counts.get(place, 0) + 1
        if place in counts:
            place = (*place, counts[place] - 1)
    return place


def _growing(first: int, statement: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The values set after each line of a statement; a multi-line array is closed for parsing."""
    begun = first
    for size in range(1, len(statement) + 1):
        ending = [] if size == len(statement) else ["]"]
        try:
            values = tomllib.loads("\n".join(statement[:size] + ending))
        except ValueError:
            continue
        yield begun, values
        begun = first + size


def _places(value: Any) -> Iterator[KeyPath]:
    """All places in a value, outer ones first."""
    if isinstance(value, dict):
        children = list(value.items())
    elif isinstance(value, list):
        children = list(enumerate(value))
    else:
        return
    for key, child in children:
        yield (key,)
        for place in _places(child):
            yield (key, *place)
