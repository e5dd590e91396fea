"""The README is short and names targets that exist; test_docs.py checks its links and commands."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))


def test_the_readme_has_at_most_120_lines():
    assert len(README.splitlines()) <= 120


def test_the_readme_names_the_demo_and_the_tests():
    assert {"make demo", "make test"} <= set(re.findall(r"^make [a-z]+", README, re.M))


def test_the_targets_that_the_design_names_are_there():
    wanted = "setup demo export simplify calibrate engine run bench test test-gpu check image clean"
    assert set(wanted.split()) <= TARGETS


def test_make_help_lists_the_targets():
    done = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True)
    for target in ("setup", "demo", "export", "engine", "run", "test", "docs", "image", "clean"):
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
