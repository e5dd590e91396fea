"""What `make setup` installs beside the packages that pip finds: the script itself, in a copy."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def setup(tmp_path):
    """setup(driver, builds): its stderr, and whether PyCUDA was built.

    All system packages are installed, and pip installs nothing.
    """
    (tmp_path / "constraints.txt").write_text("torch==2\n")
    script = tmp_path / "scripts/setup.sh"
    program(script, "")
    script.write_bytes((ROOT / "scripts/setup.sh").read_bytes())
    program(tmp_path / "bin/dpkg-query", "printf installed")

    def call(driver: bool, builds: bool = True) -> tuple[str, bool]:
        built = tmp_path / "built"
        status = 0 if driver else 1
        program(tmp_path / ".venv/bin/python", f'case "$*" in *libcuda*) exit {status};; esac')
        lines = f'[ "$1" = --install ] && touch {built}; exit {0 if builds else 1}'
        program(tmp_path / "scripts/build_pycuda.sh", lines)
        path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            [script],
            env={**os.environ, "PATH": path, "VENV": ".venv", "SYSTEM_PYTHON": "/bin/sh"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stderr, built.exists()

    return call


pytestmark = pytest.mark.skipif(
    Path("/etc/nv_tegra_release").exists(), reason="a Jetson's setup is another"
)


def test_a_pc_without_a_driver_gets_no_pycuda(setup):
    _, built = setup(driver=False)
    assert not built


def test_a_pc_with_a_driver_gets_pycuda(setup):
    _, built = setup(driver=True)
    assert built


def test_a_pycuda_that_cannot_be_built_is_said_and_the_rest_is_there(setup):
    said, _ = setup(driver=True, builds=False)
    assert "PyCUDA cannot be built" in said
    assert "setup: done" in said
