"""The hooks of .pre-commit-config.yaml, in a repository of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("pre_commit", reason="the extra dev is not installed")

ROOT = Path(__file__).resolve().parents[2]
VENV = Path(sys.executable).parents[1]


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    """A repository with one good commit, our hooks and our tools."""
    folder = tmp_path_factory.mktemp("repository")
    for name in (".pre-commit-config.yaml", "pyproject.toml"):
        (folder / name).write_bytes((ROOT / name).read_bytes())
    (folder / ".venv").symlink_to(VENV)
    (folder / ".gitignore").write_text("/.venv\n")
    git(folder, "init")
    return folder


def git(folder: Path, *words: str) -> None:
    subprocess.run(["git", "-C", folder, *words], check=True, capture_output=True)


def check(folder: Path, files: dict[str, bytes]) -> dict[str, str]:
    """Stage files and run the hooks on them: Passed, Failed or Skipped for each hook."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    git(folder, "add", *files)
    command = [sys.executable, "-m", "pre_commit", "run", "--files", *files]
    environ = {**os.environ, "PRE_COMMIT_HOME": str(folder / ".git/pre-commit")}
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if "..." in line]
    found = {line.partition("..")[0]: re.split(r"[.)]", line)[-1] for line in lines}
    assert done.returncode == ("Failed" in found.values()), done.stdout + done.stderr
    return found


def test_a_large_file_a_misspelling_and_bad_code_are_refused(repository):
    word = "sep" + "erate"
    found = check(
        repository,
        {"big.bin": bytes(2 << 20), "a.md": f"a {word}\n".encode(), "a.py": b"import  os\n"},
    )
    assert found == {
        "ruff check": "Failed",
        "ruff format": "Failed",
        "mypy": "Skipped",
        "codespell": "Failed",
        "no file above 1 MB": "Failed",
    }


def test_british_spelling_the_demos_checkpoint_and_measurements_pass(repository):
    found = check(
        repository,
        {
            "scripts/demo/vit/model.safetensors": bytes(2 << 20),
            "docs/measurements/figures.json": b"[]" + b" " * (2 << 20),
            "a.md": b"the colour of quantised normalisation\n",
        },
    )
    assert found["codespell"] == found["no file above 1 MB"] == "Passed"
