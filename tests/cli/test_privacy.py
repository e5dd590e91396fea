"""Nothing phones home, nothing is written into a home, and no home is needed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import edge

ROOT = Path(edge.__file__).parents[1]
BECOME = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")  # nobody
CAPTURED = {"capture_output": True, "text": True}


def becomes_nobody() -> bool:
    """Whether this user may become nobody, and nobody may run this checkout."""
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        return False
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import edge.errors, numpy"
    probe = subprocess.run([*BECOME, sys.executable, "-c", code], cwd="/", capture_output=True)
    return probe.returncode == 0


def open_to_all(folder: Path) -> None:
    """Let every user read what is in a folder of pytest's."""
    for path in (folder, *folder.parents[:-2], *folder.rglob("*")):
        path.chmod(path.stat().st_mode | (0o555 if path.is_dir() else 0o444))


def run(words: Sequence[str | Path], home: Path | str, before: Sequence[str] = ()) -> str:
    """Run `edge WORDS` with this home and nothing else in the environment; its stderr."""
    command = [*before, sys.executable, "-m", "edge", *map(str, words)]
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": str(ROOT)}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    done = subprocess.run(
        command, env=environment, cwd="/", capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout
    return done.stderr


def test_a_run_writes_nothing_about_its_user(built_engine, tmp_path):
    """onnxruntime's telemetry writes Microsoft/DeveloperTools/.onnxruntime with a device id."""
    run(["run", built_engine, "--source", "test://ball", "--frames", "3"], tmp_path)
    written = {path.relative_to(tmp_path).parts[:2] for path in tmp_path.rglob("*")}
    assert written <= {(".cache",), (".cache", "gstreamer-1.0")}


def traces() -> bool:
    """Whether strace is installed and may trace: a container may forbid it."""
    path = shutil.which("strace")
    return bool(path) and subprocess.run([path, "-qq", "true"], capture_output=True).returncode == 0


@pytest.mark.skipif(not traces(), reason="strace is not installed, or may not trace")
def test_a_run_looks_up_no_host_and_connects_to_none(built_engine, tmp_path):
    log = tmp_path / "strace"
    trace = ["strace", "-f", "-qq", "-e", "trace=connect,sendto", "-o", str(log)]
    run(["run", built_engine, "--source", "test://ball", "--frames", "3"], tmp_path, trace)
    calls = log.read_text().splitlines()
    assert not [line for line in calls if "AF_INET" in line]


@pytest.mark.skipif(not becomes_nobody(), reason="another user cannot run this checkout")
@pytest.mark.parametrize("home", ["/nonexistent", "/root"])
def test_a_user_without_a_home_runs_and_hears_why_it_starts_slowly(
    built_engine, pictures, home, tmp_path_factory
):
    """As with `docker run --user 65534`; numba found no folder for its cache and gave up."""
    folder = Path(shutil.copytree(built_engine, tmp_path_factory.mktemp("open") / "engine"))
    image = shutil.copy(next(pictures.glob("*/*")), folder.parent / "image.png")
    open_to_all(folder.parent)
    said = run(["classify", folder, image], home, BECOME)
    assert "Traceback" not in said
    assert said.count("NUMBA_CACHE_DIR") == 1


@pytest.mark.skipif(not becomes_nobody(), reason="another user cannot run this checkout")
def test_an_image_that_may_not_be_read_does_not_keep_the_others_from_being_labelled(
    built_engine, pictures, tmp_path_factory
):
    folder = tmp_path_factory.mktemp("open")
    engine = Path(shutil.copytree(built_engine, folder / "engine"))
    good, secret = folder / "good.png", folder / "secret.png"
    for path in (good, secret):
        shutil.copy(next(pictures.glob("*/*")), path)
    open_to_all(folder)
    secret.chmod(0o600)
    words = [sys.executable, "-m", "edge", "classify", engine, good, secret, good]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([*BECOME, *map(str, words)], env=environment, cwd="/", **CAPTURED)
    assert done.returncode == 1
    assert done.stdout.count('"image"') == 2
    assert f"{secret} cannot be read (Permission denied)" in done.stderr


def test_numba_without_any_folder_for_its_cache_still_prepares_images():
    code = """
from numba.core import caching
caching.CacheImpl._locator_classes = []
import numpy as np
from edge.preprocess import compiled
from edge.preprocess.cpu import Preprocessor
from edge.preprocess.spec import Preprocess, Resize
assert not compiled.CACHED
spec = Preprocess(8, 8, Resize("stretch", 8, 8), 2, None, 1 / 255, None, None)
pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
fast, plain = Preprocessor(spec, compiled=True), Preprocessor(spec, compiled=False)
assert (fast(pixels) == plain(pixels)).all()
print(fast.resizer)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "set NUMBA_CACHE_DIR=FOLDER" in done.stdout


def test_a_full_disk_costs_only_numbas_cache(tmp_path):
    code = """
import errno
from numba.core import caching
def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")
caching.Cache.save_overload = full
caching.Cache.load_overload = lambda *_: None
import numpy as np
from edge.preprocess import compiled
from edge.preprocess.cpu import Preprocessor
from edge.preprocess.spec import Preprocess, Resize
spec = Preprocess(8, 8, Resize("stretch", 8, 8), 2, None, 1 / 255, None, None)
fast = Preprocessor(spec, compiled=True)
fast(np.zeros((20, 30, 3), np.uint8))
assert not compiled.CACHED
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
