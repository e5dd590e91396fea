"""The service's files: where they are installed, what is kept, and whether systemd accepts them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from edge.service import config

ROOT = Path(__file__).parents[2]
# Settings newer than JetPack 6's systemd, which warns of them; the unit says so.
NEWER = {"RestartSteps", "RestartMaxDelaySec"}


def install(stage, *words, script=ROOT / "scripts" / "install_service.sh"):
    environ = os.environ | {"DESTDIR": str(stage)}
    return subprocess.run([script, *words], env=environ, capture_output=True, text=True)


def files(stage):
    return {str(path.relative_to(stage)) for path in stage.rglob("*") if path.is_file()}


@pytest.fixture
def stage(tmp_path):
    """A folder in place of /, with the service installed."""
    done = install(tmp_path)
    assert done.returncode == 0, done.stderr
    return tmp_path


UNIT = "etc/systemd/system/vit-edge.service"


def test_the_unit_starts_the_installed_vit_edge(stage):
    text = (stage / UNIT).read_text()
    assert f"ExecStart={ROOT}/.venv/bin/edge run --config /etc/vit-edge/cameras.toml" in text
    assert "User=vit-edge\n" in text
    assert "@" not in re.sub(r"@system-service|#.*", "", text)


def test_memory_is_limited_and_swap_is_not_used(stage):
    """A Jetson's swap is zram, which uses the same memory."""
    assert re.findall(r"^Memory\w+=.*", (stage / UNIT).read_text(), re.M) == [
        "MemoryMax=75%",
        "MemorySwapMax=0",
    ]


def test_only_root_can_read_secrets(stage):
    for name in ("credentials", "environment"):
        assert (stage / "etc/vit-edge" / name).stat().st_mode & 0o777 == 0o600


def test_the_initial_configuration_is_valid(stage):
    found = config.load(stage / "etc/vit-edge/cameras.toml")
    assert found.engine == ROOT / "engines/demo-int8"
    assert [camera.name for camera in found.cameras] == ["test"]


def test_a_second_installation_keeps_edited_files(stage):
    for name in ("cameras.toml", "credentials", "environment"):
        (stage / "etc/vit-edge" / name).write_text("mine\n")
    (stage / UNIT).write_text("an older one\n")
    done = install(stage, "--user", "me")
    for name in ("cameras.toml", "credentials", "environment"):
        assert (stage / "etc/vit-edge" / name).read_text() == "mine\n"
    assert "User=me\n" in (stage / UNIT).read_text()
    assert f"wrote {stage}/{UNIT}" in done.stderr
    assert f"{UNIT} is up to date" in install(stage, "--user", "me").stderr


def test_a_jetson_gets_additional_settings(tmp_path):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nv_tegra_release").touch()
    install(tmp_path)
    assert "PrivateTmp=no" in (tmp_path / f"{UNIT}.d/jetson.conf").read_text()


def test_a_pc_gets_no_jetson_settings(stage):
    assert not (stage / f"{UNIT}.d").exists()


def test_uninstalling_keeps_the_configuration(stage):
    assert install(stage, "--uninstall").returncode == 0
    kept = {"cameras.toml", "credentials", "environment"}
    assert files(stage) == {f"etc/vit-edge/{name}" for name in kept}
    assert install(stage, "--uninstall").returncode == 0  # a second time is harmless


@pytest.mark.parametrize("words", [["--frob"], ["--user"], ["here"]])
def test_wrong_usage_is_exit_code_2_and_writes_nothing(tmp_path, words):
    assert install(tmp_path, *words).returncode == 2
    assert files(tmp_path) == set()


@pytest.mark.parametrize(
    ("folder", "venv", "why"),
    [
        ("vit-edge", False, "run: make setup"),
        ("vit edge", True, "characters that a unit cannot contain"),
    ],
)
def test_an_installation_that_cannot_run_is_refused_with_a_hint(tmp_path, folder, venv, why):
    home, stage = tmp_path / folder, tmp_path / "stage"
    shutil.copytree(ROOT / "scripts", home / "scripts", ignore=shutil.ignore_patterns("vit"))
    if venv:
        (home / ".venv/bin").mkdir(parents=True)
        (home / ".venv/bin/edge").touch(0o755)
    stage.mkdir()
    done = install(stage, script=home / "scripts" / "install_service.sh")
    assert done.returncode == 1
    assert why in done.stderr
    assert files(stage) == set()


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed here")
@pytest.mark.parametrize("board", ["pc", "jetson"])
def test_systemd_accepts_the_unit(tmp_path, board):
    if board == "jetson":
        (tmp_path / "etc").mkdir()
        (tmp_path / "etc/nv_tegra_release").touch()
    install(tmp_path)
    command = ["systemd-analyze", "verify", "--man=no", str(tmp_path / UNIT)]
    environ = os.environ | {"SYSTEMD_UNIT_PATH": f"{(tmp_path / UNIT).parent}:"}
    done = subprocess.run(command, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    complaints = [line for line in done.stderr.splitlines() if "vit-edge" in line]
    for line in complaints:
        assert re.search(rf"Unknown key( name)? '({'|'.join(NEWER)})'", line), line
