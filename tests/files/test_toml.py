"""TOML with line numbers: every key is where a person would look for it."""

from __future__ import annotations

import json
import re
import string
import textwrap
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.errors import ConfigError
from edge.files import toml


def lines_of(tmp_path, text):
    path = tmp_path / "a.toml"
    path.write_text(textwrap.dedent(text))
    return toml.read(path).lines


def test_keys_tables_and_elements_are_found_where_they_stand(tmp_path):
    found = lines_of(
        tmp_path,
        """\
        # engine = "a comment"
        engine = "cats"
        note = \"\"\"
        [[camera]]
        every = 0 # "
        \"\"\"
        on = [ # ]
          "one",

          # "none"
          "two" ]

        [[camera]]
          source = "a"
        "the name" = "it's"
        [[ "camera" ]] # [[camera]]
        source = '[[camera]]'
        size.width = 4
        size.height = {pixels = 3, "in lines" = [3]}
        [camera.sub]
        every = 2
        """,
    )
    assert found == {
        ("engine",): 2,
        ("note",): 3,
        ("on",): 7,
        ("on", 0): 8,
        ("on", 1): 11,
        ("camera",): 13,
        ("camera", 0): 13,
        ("camera", 0, "source"): 14,
        ("camera", 0, "the name"): 15,
        ("camera", 1): 16,
        ("camera", 1, "source"): 17,
        ("camera", 1, "size"): 18,
        ("camera", 1, "size", "width"): 18,
        ("camera", 1, "size", "height"): 19,
        ("camera", 1, "size", "height", "pixels"): 19,
        ("camera", 1, "size", "height", "in lines"): 19,
        ("camera", 1, "size", "height", "in lines", 0): 19,
        ("camera", 1, "sub"): 20,
        ("camera", 1, "sub", "every"): 21,
    }


def test_tables_of_an_array_over_many_lines_have_their_own(tmp_path):
    found = lines_of(tmp_path, 'camera = [\n{a = 1},\n\n{a = """\n]""", b = [\n1]},\n]\n')
    assert found["camera", 0, "a"] == 2
    assert found["camera", 1, "b"] == 4


def test_arrays_of_tables_within_arrays_of_tables_count_anew(tmp_path):
    found = lines_of(tmp_path, "[[a]]\n[[a.b]]\n[[a.b]]\n[[a]]\n[[a.b]]\nx = 1\n")
    assert found["a", 0, "b", 1] == 3
    assert found["a", 1, "b", 0, "x"] == 6
    assert ("a", 1, "b", 1) not in found


# Keys are made unique by a number, so that every document is a valid one.
NOISE = ["", "  # key = 1", "\t", "# [[camera]]", '# """']
KEY = st.sampled_from(["k{}", '"k {}"', "'k#{}'", '"[k{}"', '"k.{}="'])
WORD = st.text(string.ascii_letters + " #=[]{},.'é\u2028", max_size=12)
SCALAR = st.one_of(
    st.integers(-9, 9).map(str),
    st.sampled_from(["true", "1979-05-27 07:32:00", "nan", "0x1f"]),
    WORD.map(lambda word: json.dumps(word, ensure_ascii=False)),
)
LONG = st.sampled_from(
    [
        '"""\n[[camera]]\nevery = 0\n"""',
        "'''\n# x\n]\n'''",
        '"""a\\\n  b = "c" \n[t]"""',
    ]
)


@st.composite
def documents(draw):
    """(text, line of each place), the lines counted while it is written."""
    text: list[str] = []
    lines: dict[toml.KeyPath, int] = {}
    numbers = iter(range(10_000))
    table: toml.KeyPath = ()
    cameras = 0

    def noise():
        text.extend(draw(st.lists(st.sampled_from(NOISE), max_size=2)))

    def write(statement):
        text.extend(statement.split("\n"))
        return len(text) - statement.count("\n")

    def new_key():
        typed = draw(KEY).format(next(numbers))
        return typed, typed.strip("\"'")

    for _ in range(draw(st.integers(0, 8))):
        noise()
        kind = draw(st.sampled_from(["table", "camera", "value", "dotted", "inline", "array"]))
        if kind == "table":
            typed, key = new_key()
            table = (key,)
            lines[table] = write(f" [ {typed} ] # [[no]]")
        elif kind == "camera":
            table = ("camera", cameras)
            cameras += 1
            lines[table] = write("[[camera]]")
            lines.setdefault(("camera",), lines[table])
        elif kind == "value":
            typed, key = new_key()
            lines[(*table, key)] = write(f"{typed} = {draw(st.one_of(SCALAR, LONG))} # ]")
        elif kind == "dotted":
            (one, outer), (two, inner) = new_key(), new_key()
            line = write(f"  {one} . {two} = {draw(SCALAR)}")
            lines[(*table, outer)] = lines[(*table, outer, inner)] = line
        elif kind == "inline":
            (one, outer), (two, inner) = new_key(), new_key()
            line = write(f"{one} = {{ {two} = {draw(st.one_of(SCALAR, LONG))} }}")
            lines[(*table, outer)] = lines[(*table, outer, inner)] = line
        else:
            typed, key = new_key()
            lines[(*table, key)] = write(f"{typed} = [")
            for place in range(draw(st.integers(0, 3))):
                noise()
                lines[(*table, key, place)] = write(f"  {draw(st.one_of(SCALAR, LONG))}, # ,")
            write("]")
    noise()
    return "\n".join(text), lines


@given(documents())
@settings(max_examples=200, deadline=None)
def test_lines_are_right_whatever_the_document(tmp_path_factory, document):
    text, lines = document
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(text.encode())
    assert toml.read(path).lines == lines
    path.write_bytes(text.replace("\n", "\r\n").encode())
    assert toml.read(path).lines == lines


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (b"a = 1\nb = \n", 2),
        (b"a = 1\nb = [\n1,\n", 3),
        (b"a = 1\n\na = 2\n", 3),
        (b"a = 1\nb = 'caf\xe9'\n", 2),
    ],
)
def test_what_is_no_toml_is_named_with_its_line(tmp_path, text, line):
    path = tmp_path / "a.toml"
    path.write_bytes(text)
    with pytest.raises(ConfigError, match=rf"^{re.escape(str(path))}:{line}: this is not"):
        toml.read(path)


@pytest.mark.parametrize("depth", [40, 400, 4000])  # Python's own limit is between the last two
@pytest.mark.parametrize(
    "nested",
    [
        lambda depth: f"x = {'[' * depth}{']' * depth}",
        lambda depth: "x = " + "[\n" * depth + "]\n" * depth,
        lambda depth: f"x = {'{x = ' * depth}1{'}' * depth}",
        lambda depth: f"{'.'.join('x' * depth)} = 1",
        lambda depth: f"[{'.'.join('x' * depth)}]",
        lambda depth: f"[[{'.'.join('x' * depth)}]]",
    ],
    ids=["array", "array over lines", "table", "key", "header", "element"],
)
def test_what_is_nested_too_deeply_is_named_with_its_line(nested, depth, tmp_path):
    path = tmp_path / "a.toml"
    path.write_text(f"a = 1\n\n# here\n{nested(depth)}\n[b]\n")
    with pytest.raises(ConfigError, match=rf"^{re.escape(str(path))}:4: this is nested too deeply"):
        toml.read(path)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.toml cannot be read \(No such file"):
        toml.read(tmp_path / "absent.toml")


def test_an_error_of_a_key_that_is_not_there_names_the_line_of_its_table(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text("\n[[camera]]\n")
    error = toml.read(path).error(("camera", 0, "source"), "it is missing", "write it")
    assert str(error) == f"{path}:2: it is missing; write it"


def test_a_byte_order_mark_is_no_fault(tmp_path):
    path = tmp_path / "a.toml"
    path.write_bytes(b"\xef\xbb\xbfa = 1\n")
    assert toml.read(path).data == {"a": 1}


@pytest.mark.parametrize(
    "statement",
    [
        lambda count: "x = [\n" + '  "one",  # 1\n' * count + "]\n",
        lambda count: "x = [" + "\n{a = [1,\n2]} ,\n" * count + "]\n",
        lambda count: "x = [" + "1\n\n," * count + "]\n",
        lambda count: 'x = """\n' + "[[camera]]\n" * count + '"""\n',
        lambda count: "x = 1\n" + "# none\n" * count,
        lambda count: "[[x]]\n" * count,
    ],
    ids=["array", "tables", "commas", "string", "comments", "headers"],
)
def test_the_time_is_linear_in_the_lines(statement, tmp_path, monkeypatch):
    """Counted in characters that are parsed: an array of 4000 lines took minutes."""
    parsed, loads = [], toml.tomllib.loads
    monkeypatch.setattr(toml.tomllib, "loads", lambda text: parsed.append(text) or loads(text))
    path = tmp_path / "a.toml"
    path.write_text(f"a = 1\n{statement(500)}b = 2\n")
    assert ("b",) in toml.read(path).lines or ("x", 499, "b") in toml.read(path).lines
    assert sum(map(len, parsed)) < 10 * len(path.read_text())


def test_elements_of_an_array_with_commas_anywhere_have_their_lines(tmp_path):
    found = lines_of(tmp_path, "x = [1\n# ,\n , 2,\n[3,\n4], 5 # ]\n, '''\n,\n''', ]\n")
    assert found == {
        ("x",): 1,
        ("x", 0): 1,
        ("x", 1): 3,
        ("x", 2): 4,
        ("x", 2, 0): 4,
        ("x", 2, 1): 4,
        ("x", 3): 4,
        ("x", 4): 6,
    }


def test_a_device_that_never_ends_is_no_file():
    with pytest.raises(ConfigError, match=r"/dev/zero cannot be read \(it is a pipe or a device"):
        toml.read(Path("/dev/zero"))


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("engine = engines/x", 'put the value in quotes: engine = "..."'),
        ("a = 1\nmqtt = mqtt://joe:s3cret@host  # a broker", 'quotes: mqtt = "..."'),
        ("a = [1, x]", "correct that line"),
        ("a = ", "correct that line"),
    ],
)
def test_a_text_without_quotes(text, hint, tmp_path):
    path = tmp_path / "a.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        toml.read(path)
    assert caught.value.hint.endswith(hint)
    assert "s3cret" not in str(caught.value)
