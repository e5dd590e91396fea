"""README, CONTRIBUTING and docs/ say only what is there: links, commands, options, keys, Python."""

import ast
import builtins
import json
import pkgutil
import re
import shlex
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from typer.main import get_command

from edge import errors
from edge.builder.recipes import KEYS
from edge.cli.commands import app
from edge.engine import passport
from edge.engine.engine import Prediction
from edge.outputs.json_lines import as_json
from edge.preprocess.surface import Surface
from edge.run.interfaces import Result
from edge.run.summary import Summary
from edge.sources.frame import Frame
from tests.test_architecture import ROOMS

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.M))
CLI = get_command(app)
FENCE = re.compile(r"```(\w*)\n(.*?)```", re.S)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def prose(text: str) -> str:
    """A page without its code blocks."""
    return FENCE.sub("", text)


def shell_lines(path: Path):
    """Every line of a shell block, and every `edge` or `make` command between backticks."""
    text = path.read_text()
    blocks = [block for language, block in FENCE.findall(text) if language == "sh"]
    indented = "\n".join(re.findall(r"^ {4,}(.*\S)", prose(text), re.M))
    for block in (*blocks, indented):
        for line in re.sub(r"\\\n\s*", "", block).splitlines():
            yield line.partition(" #")[0].strip()
    yield from re.findall(r"`((?:edge|make) [^`\n]*)`", prose(text))


def commands(verb: str) -> list[str]:
    """The commands of `verb` in all pages, each with its page, as parameters of a test."""
    found = set()
    for path in PAGES:
        for line in shell_lines(path):
            for part in line.split("&&"):
                if part.strip().startswith(f"{verb} "):
                    found.add(f"{name_of(path)}: {part.strip()}")
    return sorted(found)


def slugs(text: str) -> set[str]:
    """The anchors of a page's headings."""
    headings = re.findall(r"^#+ (.*)", prose(text), re.M)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.strip().replace(" ", "-") for heading in plain}


def table_cells(page: str, heading: str, column: int = 0) -> list[str]:
    """A column of the first table below a heading."""
    section = (DOCS / page).read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"(?:^\|.*\n)+", section, re.M)[0].splitlines()[2:]
    return [row.strip("|").split("|")[column].strip() for row in rows]


def words_in(cells: list[str]) -> list[str]:
    """The words between backticks in the cells of a table."""
    return [word for cell in cells for word in re.findall(r"`([\w-]+)`", cell)]


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_every_relative_link_and_its_anchor_exist(path):
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(path.read_text())):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), link
        if anchor:
            assert anchor in slugs(target.read_text()), link


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_every_file_and_script_that_is_named_exists(path):
    # A clean clone has only the recipes in engines/: built engines are not checked.
    named = r"`((?:scripts|docs|tests|edge)/[\w./-]+|engines/[\w-]+\.toml)`"
    for name in re.findall(named, prose(path.read_text())):
        if name not in ("docs/measurements/", "engines/NAME.toml"):
            assert (ROOT / name).exists(), name
    for module in re.findall(r"-m (scripts[\w.]+\w)", path.read_text()):
        assert (ROOT / (module.replace(".", "/") + ".py")).exists(), module


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_python_scripts_are_run_as_modules(path):
    assert not re.search(r"python3? scripts/", path.read_text())


@pytest.mark.parametrize("case", commands("edge"))
def test_every_command_and_option_exists(case):
    words = shlex.split(case.partition(": ")[2])
    command = CLI if words[1].startswith("--") else CLI.commands.get(words[1])
    if command is None:
        assert words[1] == "COMMAND"
        return
    known = {name for parameter in command.params for name in parameter.opts} | {"--help"}
    for parameter in command.params:
        known |= set(parameter.secondary_opts)
    options = {word.partition("=")[0] for word in words if word.startswith("--")}
    assert options <= known


@pytest.mark.parametrize("case", commands("make"))
def test_every_make_target_exists(case):
    words = case.partition(": make ")[2].split()
    assert {word for word in words if "=" not in word and not word.startswith("-")} <= TARGETS


def test_the_page_of_make_targets_has_all_of_them():
    text = (DOCS / "make.md").read_text()
    cells = [row.split("|")[1] for row in text.splitlines() if row.startswith("| `")]
    public = set(re.findall(r"^([a-z-]+):.*## ", MAKEFILE, re.M)) - {"help"}
    assert set(words_in(cells)) == public


@pytest.mark.parametrize("page", ["python.md", "errors.md"])
def test_the_python_examples_run(page, built_engine, pictures):
    (code,) = [text for name, text in FENCE.findall((DOCS / page).read_text()) if name == "python"]
    picture = sorted(pictures.rglob("*.png"))[0]
    code = code.replace("engines/demo-int8", str(built_engine)).replace("photo.jpg", str(picture))
    exec(compile(code, page, "exec"), {})


def test_the_page_of_commands_has_all_of_them():
    named = {cell.strip("`").removeprefix("edge ") for cell in table_cells("cli.md", "Commands")}
    assert named == set(CLI.commands)


def test_the_environment_variables_that_are_documented_are_read():
    source = "".join(path.read_text() for path in (ROOT / "edge").rglob("*.py"))
    for name in words_in(table_cells("cli.md", "Environment variables")):
        assert name in source


def test_the_page_of_recipes_has_every_key_with_its_option():
    keys = words_in(table_cells("build.md", "Recipes"))
    assert set(keys) == set(KEYS)
    options = {name for parameter in CLI.commands["build"].params for name in parameter.opts}
    assert set(words_in(table_cells("build.md", "Recipes", 1))) <= options


def test_the_keys_of_json_lines_are_documented():
    surface = Surface.from_rgb(np.zeros((2, 2, 3), np.uint8))
    frame = Frame("door", 0, None, 0.0, "system", surface)
    prediction = Prediction(np.ones(1, np.float32), ("cat",))
    line = json.loads(as_json(Result(frame, prediction, 1.0, 1.0, 0.0)))
    assert words_in(table_cells("run.md", "JSON lines")) == list(line)
    described = (DOCS / "run.md").read_text()
    assert all(f"`{key}`" in described for key in line["top"][0])


def test_the_keys_of_the_summary_are_documented():
    documented = words_in(table_cells("run.md", "Summary"))
    assert documented == [*(field.name for field in fields(Summary)), "lost", "audit"]


def test_the_tree_of_errors_is_documented():
    text = (DOCS / "errors.md").read_text()
    tree = re.findall(r"[├└]── (\w+) +(?:\((\w+)\))?", text)
    classes = {
        name: value
        for name in errors.__all__
        if isinstance(value := getattr(errors, name), type) and name != "EdgeError"
    }
    assert {name for name, _ in tree} == set(classes)
    for name, base in tree:
        assert not base or issubclass(classes[name], getattr(builtins, base))
    below = re.findall(r"│ +[├└]── (\w+)", text)
    assert below == [n for n, c in classes.items() if c.__base__ is errors.SourceError]


def test_the_schemas_of_the_passport_are_documented():
    text = (DOCS / "stability.md").read_text()
    oldest, newest = passport._OLDEST, passport.SCHEMA
    assert f"reads schema {oldest} and {newest} and writes schema {newest}" in text


def test_the_names_that_are_stable_in_python_are_documented():
    exported = ast.literal_eval(
        re.search(r"^__all__ = (\[.*?\])", (ROOT / "edge/__init__.py").read_text(), re.M | re.S)[1]
    )
    described = (DOCS / "python.md").read_text()
    for name in exported:
        assert name.startswith("__") or f"edge.{name}" in described, name


def test_the_table_of_rooms_is_the_house():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    table = text.partition("| room | content |")[2].partition("\n\n")[0]
    rooms = re.findall(r"^\| `edge/(\w+)(?:\.py)?`", table, re.M)
    assert rooms == [room for room in ROOMS if not room.startswith("__")]


def test_every_page_is_in_the_navigation_of_the_site():
    config = (ROOT / "mkdocs.yml").read_text()
    named = set(re.findall(r"\w[\w/]*\.md", config))
    assert {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")} <= named


def test_the_reference_pages_name_modules_and_objects_that_exist():
    for path in (DOCS / "reference").glob("*.md"):
        names = re.findall(r"^::: ([\w.]+)", path.read_text(), re.M)
        assert names
        for name in names:
            assert pkgutil.resolve_name(name), name


def test_the_reference_of_errors_has_all_of_them():
    text = (DOCS / "reference/errors.md").read_text()
    assert sorted(re.findall(r"^::: edge\.errors\.(\w+)", text, re.M)) == errors.__all__


def test_the_names_in_the_glossary_exist():
    text = (DOCS / "glossary.md").read_text()
    names = re.findall(r"`(edge\.[\w.]+)`", text)
    assert names
    for name in names:
        assert pkgutil.resolve_name(name), name
