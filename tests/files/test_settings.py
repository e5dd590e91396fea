"""Settings of a TOML file: what is wrong is named with its line, and with what to write."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest

from edge.errors import ConfigError, OptionError
from edge.files import toml
from edge.files.settings import Fault, Key, nearest, read_table, read_value


def even(text: Any) -> None:
    if len(text) % 2:
        raise ValueError("is odd")


def known(text: Any) -> None:
    if text != "cat":
        raise OptionError(f"there is no {text}", "write cat")


KEYS = {
    "batch": Key(Annotated[int, msgspec.Meta(ge=1, le=64)], "a whole number from 1 to 64", "4"),
    "precision": Key(Literal["fp16", "int8"], "one of fp16, int8", '"int8"'),
    "folder": Key(Path, "a folder", '"photos"'),
    "word": Key(str, "a word", '"even"', even),
    "labels": Key(tuple[str, ...], "a list of labels", '["cat"]', known),
}


def read(tmp_path: Path, text: str) -> dict[str, Any]:
    path = tmp_path / "a.toml"
    path.write_text(text)
    document = toml.read(path)
    return read_table(document, (), document.data, KEYS, lambda name: nearest(name, KEYS))


def test_values_are_what_their_keys_want(tmp_path: Path) -> None:
    text = 'batch = 4\nprecision = "int8"\nfolder = "photos"\nlabels = ["cat", "cat"]\n'
    assert read(tmp_path, text) == {
        "batch": 4,
        "precision": "int8",
        "folder": Path("photos"),
        "labels": ("cat", "cat"),
    }


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("# none\nbatch = 0", 2, ("batch cannot be 0", "a whole number from 1 to 64", "batch = 4")),
        ("batch = 4.5", 1, ("batch cannot be 4.5",)),
        ('\nprecision = "int4"', 2, ('cannot be "int4"', "did you mean int8?")),
        ("folder = 3", 1, ("folder cannot be 3", "a folder")),
        ('folder = ""', 1, ('folder cannot be ""',)),
        ("bach = 4", 1, ("unknown key 'bach'", "did you mean batch?")),
        ('word = "odd"', 1, ("word: is odd", 'write "even"')),
        ('labels = [\n "cat",\n "dog"]', 3, ("labels: there is no dog", "write cat")),
        ('labels = [\n "cat",\n 3]', 3, ("labels cannot be",)),
        (f"batch = 0x{'f' * 5000}", 1, ("batch cannot be such a number",)),
    ],
)
def test_a_fault_is_named_with_its_line_and_what_to_write(
    tmp_path: Path, text: str, line: int, words: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigError) as error:
        read(tmp_path, text)
    said = str(error.value)
    assert f"a.toml:{line}: " in said
    assert all(word in said for word in words), said


def test_of_a_long_value_the_beginning_is_shown_and_no_secret() -> None:
    with pytest.raises(Fault) as fault:
        read_value("batch", "x" * 10_000, KEYS["batch"])
    assert len(fault.value.problem) < 300
    with pytest.raises(Fault) as fault:
        read_value("batch", ["joe:secret@host", {"token=secret": 1}], KEYS["batch"])
    assert "secret" not in str(fault.value)


def test_a_name_that_is_like_none_is_told_all() -> None:
    assert nearest("zzz", ["fp16", "int8"]) == "use one of: fp16, int8"
