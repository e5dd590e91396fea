"""`read`: TOML files with the line number of every key, which `tomllib` does not provide.

A statement ends at the end of a line outside of strings and brackets. Parsed alone, it shows the
keys that it sets: quotes, dots and values are left to `tomllib`. Every line is parsed twice, so the
time is linear in the length of a file.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
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
# What opens and closes brackets, ends a line, or may contain such characters.
_TOKEN = re.compile(
    r'''"""(?:\\.|[^\\])*?"{3,5}|"(?:\\.|[^"\\\n])*"'''
    r"""|'''.*?'{3,5}|'[^'\n]*'|\#[^\n]*|[][{}\n]""",
    re.S,
)
_BARE = re.compile(r"\s*([\w.-]+)\s*=\s*([^\s\"'\[{#][^\"'#]*?)\s*(?:#.*)?")  # key = text
_COMMA = re.compile(r"\A\s*,")

KeyPath = tuple[str | int, ...]  # keys, and numbers of elements: ("camera", 0, "every")
Part = tuple[int, str]  # one or more lines, and the number of the first, from 1
# One part; or, for an array over several lines, parts after each of which it could end.
Statement = list[Part]


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
        written = text.splitlines()[line - 1 : line]
        bare = _BARE.fullmatch(written[0]) if problem == "Invalid value" and written else None
        hint = f'put the value in quotes: {bare[1]} = "..."' if bare else "correct that line"
        raise ConfigError(f"{path}:{line}: this is not valid TOML ({problem})", hint) from error


def _parsed(text: str) -> tuple[dict[str, Any], dict[KeyPath, int]]:
    """The values of a document, and the line of each place."""
    statements = list(_statements(text))
    return tomllib.loads(text), _lines(statements)


def _lines(statements: Iterable[Statement]) -> dict[KeyPath, int]:
    """The line of each place in a valid document."""
    lines: dict[KeyPath, int] = {}
    counts: dict[KeyPath, int] = {}  # number of elements so far of each array of tables
    table: KeyPath = ()
    for (first, opening), *parts in statements:
        values = _loads(first, opening + "\n]" if parts else opening)
        if opening.lstrip().startswith("["):
            table = _table(values, counts, opening.lstrip().startswith("[["))
            for end in range(1, len(table) + 1):
                lines.setdefault(table[:end], first)
            continue
        for place in _places(values):
            lines.setdefault((*table, *place), first)
        if parts:
            array, elements = _array(values)
            _add_elements(lines, (*table, *array), len(elements), parts)
    return lines


def _add_elements(
    lines: dict[KeyPath, int], array: KeyPath, count: int, parts: Sequence[Part]
) -> None:
    """Add the places in the further parts of an array, which has `count` elements before them."""
    for number, (line, part) in enumerate(parts, 1):
        ending = "" if number == len(parts) else "\n]"
        elements = _loads(line, f"x = [{_COMMA.sub('', part)}{ending}")["x"]
        for index, element in enumerate(elements, count):
            lines.setdefault((*array, index), line)
            for place in _places(element):
                lines.setdefault((*array, index, *place), line)
        count += len(elements)


def _statements(text: str) -> Iterator[Statement]:
    """The statements of a document, also blank lines and comments. Raises _TooDeep."""
    brackets, line, begun, start = "", 1, 1, 0
    statement: Statement = []
    for token in _TOKEN.finditer(f"{text}\n"):
        if token[0] in ("[", "{"):
            brackets += token[0]
            if len(brackets) > _DEEPEST:
                raise _TooDeep(statement[0][0] if statement else begun)
        elif token[0] in ("]", "}"):
            brackets = brackets[:-1]
        line += token[0].count("\n")
        if token[0] == "\n" and brackets in ("", "["):
            statement.append((begun, text[start : token.start()]))
            begun, start = line, token.end()
            if not brackets:
                yield statement
                statement = []


def _loads(line: int, text: str) -> dict[str, Any]:
    """The values of a valid statement. Raises _TooDeep; line: the statement's first one."""
    values: dict[str, Any] = tomllib.loads(text)
    if _is_deep(values):
        raise _TooDeep(line)
    return values


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


def _array(values: Any) -> tuple[KeyPath, list[Any]]:
    """The place of the array that a statement sets, and its elements."""
    place: KeyPath = ()
    while isinstance(values, dict):
        ((key, values),) = values.items()
        place = (*place, key)
    return place, values


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
