"""scripts/build_pycuda.sh compiles PyCUDA once per machine: the script itself, with a fake pip."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Logs its arguments, and makes what pip would: a wheel, or CUDA's headers.
PYTHON = """#!/bin/sh
case "$*" in
  *cache_tag*) echo cpython-399; exit ;;
  *importlib*) exit 1 ;;
  *zipfile*) grep -q wheel "$4"; exit ;;
esac
echo "$@" >>"$LOG"
while [ $# -gt 0 ]; do
  case $1 in
    --wheel-dir) mkdir -p "$2"; echo wheel >"$2/pycuda-7-x.whl" ;;
    --target) mkdir -p "$2"; case "$*" in *nvidia*) touch "$2/cuda.h" ;; esac ;;
  esac
  shift
done
"""

pytestmark = pytest.mark.skipif(
    (os.uname().sysname, os.uname().machine) != ("Linux", "x86_64"),
    reason="the script does nothing on other systems",
)


@pytest.fixture
def build(tmp_path):
    """build(clone, *words, cache): the kinds of pip calls (wheel, install) that the script made."""

    def call(clone: str, *words: str, cache: Path = tmp_path / "cache") -> list[str]:
        home = tmp_path / clone
        python, script, log = (home / name for name in (".venv/bin/python", "scripts/x.sh", "log"))
        for path in (python, script):
            path.parent.mkdir(parents=True, exist_ok=True)
        (home / "constraints.txt").write_text("nvidia-cuda-runtime==5\npycuda==7\n")
        python.write_text(PYTHON)
        script.write_bytes((ROOT / "scripts/build_pycuda.sh").read_bytes())
        python.chmod(0o755)
        script.chmod(0o755)
        log.write_text("")
        environ = {**os.environ, "LOG": str(log), "XDG_CACHE_HOME": str(cache), "VENV": ".venv"}
        done = subprocess.run([script, *words], env=environ, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        verbs = {"wheel", "install"}
        return [
            word
            for line in log.read_text().splitlines()
            for word in line.split()[:7]
            if word in verbs
        ]

    return call


def test_a_second_clone_takes_the_wheel_of_the_first(build, tmp_path):
    assert "wheel" in build("first")
    assert "wheel" not in build("second")
    for clone in ("first", "second"):
        assert (tmp_path / clone / "build/pycuda-7-cpython-399/.ready").is_file()
        assert (tmp_path / clone / "build/pycuda-7-cpython-399/include/cuda.h").is_file()


def test_nothing_runs_when_the_build_folder_has_it(build):
    build("first")
    assert build("first") == []


def test_other_compiler_flags_are_another_wheel(build):
    build("first")
    assert "wheel" in build("first", "--install")
    assert build("second", "--install") == ["install"]


def test_a_damaged_wheel_is_built_again(build, tmp_path):
    build("first")
    (kept,) = (tmp_path / "cache").rglob("*.whl")
    kept.write_bytes(b"")
    assert "wheel" in build("second")
    assert kept.read_text() == "wheel\n"


def test_without_a_writable_cache_the_wheel_is_kept_in_the_build_folder(build, tmp_path):
    (tmp_path / "file").touch()
    assert "wheel" in build("first", cache=tmp_path / "file")
    assert list((tmp_path / "first/build/wheels").rglob("*.whl"))
