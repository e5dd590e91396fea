"""The README says only what is there: its targets, commands, options, files and Python run."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from typer.main import get_command

from edge.cli.engine import app

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.S)
TARGETS = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.M))
COMMANDS = get_command(app).commands


def shell_lines():
    for language, text in BLOCKS:
        if language == "sh":
            yield from (line.partition("#")[0].strip() for line in text.splitlines())
    yield from re.findall(r"`((?:edge|make) [^`\n]*)`", README)


def test_every_make_target_exists():
    typed = [part.strip() for line in shell_lines() for part in line.split("&&")]
    words = " ".join(part.removeprefix("make ") for part in typed if part.startswith("make "))
    named = {word for word in words.split() if "=" not in word}
    named |= set(
        re.findall(r"`([a-z-]+)`", README.partition("## Make targets")[2].partition("##")[0])
    )
    assert {"demo", "test", "engine"} <= named
    assert named <= TARGETS


def test_every_phony_target_has_a_line_in_help_or_is_a_part_of_one():
    done = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True)
    for target in ("setup", "demo", "export", "engine", "run", "test", "image", "clean"):
        assert f"make {target} " in done.stdout


def test_make_engine_never_takes_the_demos_images_for_another_checkpoint():
    make = ["make", "-n", "-o", "setup", "engine"]
    done = subprocess.run([*make, "CHECKPOINT=my"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0
    assert "CALIBRATION=photos" in done.stderr
    words = ["CHECKPOINT=my", "CALIBRATION=photos"]
    done = subprocess.run([*make, *words], cwd=ROOT, capture_output=True, text=True, check=True)
    assert '--calibration "photos"' in done.stdout
    assert "heldout" not in done.stdout


@pytest.mark.parametrize("line", sorted({x for x in shell_lines() if x.startswith("edge ")}))
def test_every_command_and_option_exists(line):
    words = shlex.split(line)
    command = COMMANDS[words[1]]
    known = {name for parameter in command.params for name in parameter.opts} | {"--help"}
    assert {word for word in words if word.startswith("--")} <= known


def test_files_that_are_named_exist():
    # What `make demo` makes is no file of the project: a clean clone has of engines/ the recipes.
    named = r"\]\(([^)#:]+)\)|`((?:scripts|docs)/[\w./-]+\.\w+|engines/[\w-]+\.toml)`"
    for name in re.findall(named, README):
        assert (ROOT / (name[0] or name[1])).exists(), name


def test_the_python_runs(built_engine, pictures):
    (code,) = [text for language, text in BLOCKS if language == "python"]
    picture = sorted(pictures.rglob("*.png"))[0]
    code = code.replace("engines/demo-int8", str(built_engine)).replace("photo.jpg", str(picture))
    exec(compile(code, "README.md", "exec"), {})


def test_the_targets_that_the_design_names_are_there():
    wanted = "setup demo export simplify calibrate engine run bench test test-gpu check image clean"
    assert set(wanted.split()) <= TARGETS
