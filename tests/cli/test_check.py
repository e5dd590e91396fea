"""`edge check` and `edge run --check`: here with onnxruntime, as on a machine without a GPU."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edge.engine.accuracy import Gate
from edge.engine.passport import File, Passport

Edge = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def copy(built_engine: Path, tmp_path: Path) -> Path:
    return shutil.copytree(built_engine, tmp_path / "engine")


@pytest.fixture
def wrong(copy: Path) -> Path:
    """An engine whose graph is intact and answers otherwise than FP32."""
    model = onnx.load(copy / "model.onnx")
    head = model.graph.node[-1]
    weight = next(one for one in model.graph.initializer if one.name in head.input)
    negated = (-1 * numpy_helper.to_array(weight)).astype(np.float32)
    weight.CopyFrom(numpy_helper.from_array(negated, weight.name))
    onnx.save(model, copy / "model.onnx")
    passport = Passport.read(copy)
    files = {**passport.files, "model.onnx": File.of(copy / "model.onnx")}
    replace(passport.with_plan(None, {}), files=files, gate=Gate(99)).write(copy)
    return copy


def test_a_right_engine_passes_and_nothing_in_it_changes(edge_command: Edge, copy: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in copy.iterdir()}
    done = edge_command("check", copy, "--backend", "onnxruntime")
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    found = json.loads(line)
    assert found["engine"] == str(copy)
    assert (found["passed"], found["refused"], found["backend"]) == (True, "", "onnxruntime")
    assert found["accuracy"]["images"] == 8
    assert "witnesses, SQNR" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in copy.iterdir()} == before


def test_a_wrong_engine_is_refused_by_check_and_by_a_run(edge_command: Edge, wrong: Path) -> None:
    done = edge_command("check", wrong)
    assert done.returncode == 1
    assert json.loads(done.stdout)["passed"] is False
    *_, error = done.stderr.strip().splitlines()
    assert error.startswith(
        f"error: {wrong} does not give FP32's answers here: it agrees with FP32"
    )
    source = ["--source", "test://ball", "--frames", "1"]
    assert edge_command("run", wrong, *source).returncode == 0
    done = edge_command("run", wrong, *source, "--check")
    assert (done.returncode, done.stdout) == (1, "")
    assert "does not give FP32's answers here" in done.stderr


def test_a_run_is_checked_before_its_first_frame(edge_command: Edge, copy: Path) -> None:
    words = ["run", copy, "--source", "test://ball", "--frames", "1", "--check"]
    done = edge_command(*words, "--backend", "onnxruntime")
    assert done.returncode == 0, done.stderr
    first = done.stderr.strip().splitlines()[0]
    assert first.strip().startswith("check") and "agrees with FP32 on" in first


@pytest.mark.slow
def test_a_configuration_can_ask_for_it(edge_command: Edge, wrong: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(f'engine = "{wrong}"\ncheck = true\n[[camera]]\nsource = "test://ball"\n')
    done = edge_command("run", "--config", path)
    assert done.returncode == 1
    assert "does not give FP32's answers here" in done.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nothing"], "there is no engine at nothing"),
        (["{engine}", "--backend", "tensorrt"], "tensorrt is not installed on this machine"),
        (["{engine}/model.onnx"], "is a file, not an engine folder"),
    ],
)
def test_what_cannot_be_checked_is_named(
    edge_command: Edge, built_engine: Path, words: list[str], told: str
) -> None:
    done = edge_command("check", *(word.format(engine=built_engine) for word in words))
    assert (done.returncode, done.stdout) == (1, "")
    assert told in done.stderr and "Traceback" not in done.stderr


def test_ctrl_c_stops_it(copy: Path) -> None:
    command = [sys.executable, "-m", "edge", "check", str(copy), "--backend", "onnxruntime"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while not (found := children.read_text().split()):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == b"" and b"stopped" in err
    deadline = time.monotonic() + 10
    while (ended := Path(f"/proc/{found[0]}")).exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not ended.exists()
