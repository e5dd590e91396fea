"""`make image`: which file becomes the container of a JetPack, and that both files are sound."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = ("jetson.Dockerfile", "jetson7.Dockerfile")


def make(*words: str) -> subprocess.CompletedProcess[str]:
    command = ["make", "--silent", "--dry-run", "image", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("words", "built"),
    [
        ([], "--build-arg L4T_TAG=r36.4.0 -f jetson.Dockerfile -t vit-edge:r36.4.0 ."),
        (["JETPACK=6", "L4T_TAG=r36.5.0"], "-f jetson.Dockerfile -t vit-edge:r36.5.0 ."),
        (["JETPACK=7"], "--build-arg L4T_REPO=r39.2 -f jetson7.Dockerfile -t vit-edge:r39.2 ."),
    ],
)
def test_each_jetpack_has_its_image(words: list[str], built: str) -> None:
    done = make(*words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].endswith(built)


def test_another_jetpack_is_refused() -> None:
    done = subprocess.run(["make", "image", "JETPACK=5"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "there is no image for JETPACK=5: use 6 or 7" in done.stderr


@pytest.mark.parametrize("name", FILES)
def test_the_linter_accepts_it(name: str) -> None:
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([linter, name], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", FILES)
def test_what_it_copies_from_this_folder_exists(name: str) -> None:
    copies = re.findall(r"^COPY (?!--)(.+) \S+$", (ROOT / name).read_text(), re.MULTILINE)
    words = [word for line in copies for word in line.split()]
    assert {"edge", "pyproject.toml", "constraints.txt"} <= set(words)
    assert all((ROOT / word).exists() for word in words)


def test_both_install_the_same_of_gstreamer_and_of_python() -> None:
    """What a run needs does not depend on the JetPack; 7.2 adds NVIDIA's own elements."""

    def installed(name: str) -> set[str]:
        text = (ROOT / name).read_text()
        return set(re.findall(r"\b(?:python3|gir1\.2|gstreamer1\.0)-[\w.-]+", text))

    old, new = (installed(name) for name in FILES)
    assert old <= new
    assert new - old == {"python3-libnvinfer"}  # JetPack 6's base image has it
