"""Check of a release: HEAD's wheel is built, installed in a clean environment and used there.

    .venv/bin/python -m scripts.release_check [--tag v0.2.0]

It checks what is committed: `git archive HEAD` is unpacked into build/release/source and built
there. The first step that fails ends the check with one line and exit code 1. docs/releasing.md
says how a release is made.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "build/release"
SOURCE, DIST, VENV, TRIAL = (WORK / name for name in ("source", "dist", "venv", "trial"))
PYTHON = VENV / "bin/python"
# Package data without which a command fails; every other data file of edge/ must be there, too.
DATA = (
    "edge/preprocess/preprocess.cu",
    "edge/outputs/web/page.html",
    "edge/builder/report/report.html.j2",
)
LABELS = ("cat", "dog", "owl")
IMAGES = 24


class Failed(Exception):
    """What is wrong with the release, and what to do about it."""


def info(text: str) -> None:
    print(f"release_check: {text}", file=sys.stderr, flush=True)


def run(*command: object, cwd: Path = ROOT) -> str:
    """Run a command; returns its stdout. Raises `Failed` with the end of its output."""
    # Neither this repository's modules nor its settings may help the installed package.
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, env=environ, capture_output=True, text=True)
    if done.returncode != 0:
        shown = " ".join(words).replace(f"{ROOT}/", "")
        raise Failed(f"{shown} failed:\n{(done.stdout + done.stderr)[-3000:].strip()}")
    return done.stdout


# What a release is called.


def version_of(init: str) -> str:
    """`__version__` of the text of edge/__init__.py. Raises `Failed`."""
    found = re.search(r'^__version__ = "([^"]+)"$', init, re.MULTILINE)
    if not found:
        raise Failed("edge/__init__.py has no __version__")
    return found[1]


def check_names(init: str, changelog: str, tag: str | None) -> str:
    """Compare version, tag and the top entry of the changelog; returns the tag.

    tag: None for v and the version. Raises `Failed`.
    """
    version = version_of(init)
    if not re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?", version):
        raise Failed(f"edge.__version__ is {version}; make it X.Y.Z, or X.Y.ZrcN")
    if tag not in (None, f"v{version}"):
        raise Failed(f"the tag {tag} does not fit edge.__version__, {version}: tag v{version}")
    top = re.search(r"^## (.+)$", changelog, re.MULTILINE)
    if top is None or top[1].strip() != version:
        found = f"## {top[1].strip()}" if top else "no entry"
        raise Failed(f"CHANGELOG.md begins with {found}; its top entry must be ## {version}")
    return f"v{version}"


def check_tag(tag: str) -> None:
    """A tag that exists must be HEAD's. Raises `Failed`."""
    command = ["git", "rev-list", "-n", "1", f"refs/tags/{tag}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode == 0 and done.stdout != run("git", "rev-list", "-n", "1", "HEAD"):
        raise Failed(f"the tag {tag} exists and is not HEAD; raise edge.__version__")


# What is in it.


def check_wheel(names: set[str], sources: list[str]) -> int:
    """Compare a wheel's files with the files of edge/ that git has; returns their number.

    Raises `Failed`.
    """
    missing = sorted({*DATA, *sources} - names)
    if missing:
        few = ", ".join(missing[:5])
        raise Failed(f"the wheel lacks {few}; add them to package-data in pyproject.toml")
    more = sorted(
        name for name in names if not re.match(r"(edge/|vit_edge-[^/]*\.dist-info/)", name)
    )
    if more:
        raise Failed(f"the wheel has {', '.join(more[:5])}, which is not part of the package edge")
    return len(names)


# The steps, in this order.


def unpack_head() -> str:
    shutil.rmtree(WORK, ignore_errors=True)
    for folder in (SOURCE, DIST, TRIAL):
        folder.mkdir(parents=True)
    archive = WORK / "source.tar"
    run("git", "archive", "--output", archive, "HEAD")
    run("tar", "-xf", archive, "-C", SOURCE)
    commit = run("git", "describe", "--always", "--exclude=*", "--dirty").strip()
    if commit.endswith("-dirty"):
        info("uncommitted changes are not part of the release")
    return commit.removesuffix("-dirty")


def check_version(tag: str | None) -> str:
    init = (SOURCE / "edge/__init__.py").read_text()
    tag = check_names(init, (SOURCE / "CHANGELOG.md").read_text(), tag)
    check_tag(tag)
    return tag


def build() -> str:
    if not (find_spec("build") and find_spec("twine")):
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        run(*pip, "--constraint", SOURCE / "constraints.txt", "build", "twine")
    run(sys.executable, "-m", "build", "--outdir", DIST, SOURCE)
    return ", ".join(sorted(path.name for path in DIST.iterdir()))


def check_metadata() -> str:
    run(sys.executable, "-m", "twine", "check", "--strict", *sorted(DIST.iterdir()))
    return "twine check"


def the_wheel() -> Path:
    (wheel,) = DIST.glob("*.whl")
    return wheel


def check_files() -> str:
    sources = [
        str(path.relative_to(SOURCE)) for path in (SOURCE / "edge").rglob("*") if path.is_file()
    ]
    with zipfile.ZipFile(the_wheel()) as opened:
        return f"{check_wheel(set(opened.namelist()), sources)} files"


def install() -> str:
    system = os.environ.get("SYSTEM_PYTHON", "/usr/bin/python3")
    run(system, "-m", "venv", "--system-site-packages", VENV)
    constraints = SOURCE / "constraints.txt"
    pip = [PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    torch = re.search(r"^torch==\S+", constraints.read_text(), re.MULTILINE)
    # By its exact version first: the CPU build is enough, where pip is set up to find it.
    run(*pip, "--constraint", constraints, torch[0] if torch else "torch")
    run(*pip, "--constraint", constraints, f"{the_wheel()}[build]")
    return "with the extra build"


def try_commands() -> str:
    edge = VENV / "bin/edge"
    code = "import edge; print(edge.__file__)"
    where = Path(run(PYTHON, "-c", code, cwd=TRIAL).strip())
    if not where.is_relative_to(VENV):
        raise Failed(f"edge is imported from {where}, not from the installed wheel")
    printed = run(edge, "--version", cwd=TRIAL).strip()
    version = version_of((SOURCE / "edge/__init__.py").read_text())
    if printed != f"vit-edge {version}":
        raise Failed(f"edge --version prints {printed!r}, not 'vit-edge {version}'")
    run(edge, "doctor", cwd=TRIAL)
    return f"{printed}; edge doctor"


def try_engine() -> str:
    """Build a tiny checkpoint with the installed package, and classify an image with it."""
    code = "from scripts.release_check import make_checkpoint; make_checkpoint()"
    run(sys.executable, "-c", code)
    edge, folder = VENV / "bin/edge", TRIAL / "images"
    words = ["--calibration", folder, "--name", "tiny", "--min-agreement", "50"]
    run(edge, "build", TRIAL / "checkpoint", *words, cwd=TRIAL)
    image = next(folder.rglob("*.png"))
    printed = run(edge, "classify", "engines/tiny", image, cwd=TRIAL)
    label = json.loads(printed)["top"][0]["label"]
    if label not in LABELS:
        raise Failed(f"edge classify prints the label {label!r}, none of the checkpoint's")
    return "edge build and edge classify of a tiny ViT, INT8"


def make_checkpoint() -> None:
    """A tiny ViT and images to calibrate it, in the trial's folder."""
    import numpy as np
    from PIL import Image

    from scripts.models.tiny_models import save

    save("vit", TRIAL / "checkpoint", LABELS)
    rng = np.random.default_rng(0)
    for number in range(IMAGES):
        folder = TRIAL / "images" / LABELS[number % len(LABELS)]
        folder.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8))
        image = coarse.resize((80, 60), Image.Resampling.BICUBIC)
        image.save(folder / f"{number:02d}.png")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tag", help="the tag to be made (default: v and the version)")
    tag = parser.parse_args().tag
    steps: list[tuple[str, Callable[[], str]]] = [
        ("HEAD's files", unpack_head),
        ("version, tag and changelog", lambda: check_version(tag)),
        ("sdist and wheel", build),
        ("metadata", check_metadata),
        ("files of the wheel", check_files),
        ("clean environment, a minute or two", install),
        ("commands", try_commands),
        ("an engine", try_engine),
    ]
    begun = time.monotonic()
    for number, (name, step) in enumerate(steps, 1):
        info(f"[{number}/{len(steps)}] {name}")
        start = time.monotonic()
        try:
            result = step()
        except Failed as error:
            raise SystemExit(f"error: {error}") from None
        info(f"      {result} ({time.monotonic() - start:.0f} s)")
    info(f"passed in {time.monotonic() - begun:.0f} s: {the_wheel().relative_to(ROOT)}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit("stopped by Ctrl-C") from None
