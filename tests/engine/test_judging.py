"""Plans are judged in a process of their own: what is wrong with one, and how it ends, is said.

The plans are the emulated TensorRT's, on the stand-in driver with real PyCUDA and the kernel as
C++; `emulated_compiler.Wrong` says in which way each of them is wrong.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from edge.builder import graph
from edge.builder.plan import device_form
from edge.engine import judging
from edge.engine.accuracy import Gate
from edge.engine.judging import judge_apart
from edge.engine.passport import File, Passport, Plan
from edge.errors import EngineError, MissingPackage
from tests.cuda_driver import emulated_compiler
from tests.cuda_driver.standin import environment


@pytest.fixture(scope="module")
def on_a_gpu() -> dict[str, str]:
    return environment(tensorrt=True)


@pytest.fixture
def planned(
    built_engine: Path, tmp_path: Path, on_a_gpu: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Path]:
    """planned(fault): an engine whose plan has it; processes that this test starts see a GPU."""
    for name in ("LD_LIBRARY_PATH", "PYTHONPATH"):
        monkeypatch.setenv(name, on_a_gpu[name])
    monkeypatch.setattr(judging, "choose", lambda folder, passport, asked: ("tensorrt", "a test"))

    def make(fault: str) -> Path:
        folder = shutil.copytree(built_engine, tmp_path / "engine", dirs_exist_ok=True)
        passport = Passport.read(folder)
        model: onnx.ModelProto = device_form(graph.load(folder / "model.onnx"), "int8")
        if fault:
            model.metadata_props.add(key=emulated_compiler._KEY, value=fault)
        (folder / "model.plan").write_bytes(model.SerializeToString())
        sha256 = passport.files["model.onnx"].sha256
        plan = Plan("tensorrt", "model.onnx", "10.3.0", "Stand-in GPU", "8.7", 4, sha256)
        listed = passport.with_plan(plan, {"model.plan": File.of(folder / "model.plan")})
        replace(listed, gate=Gate(99)).write(folder)
        return folder

    return make


def test_a_right_plan_passes_in_every_way_and_at_every_batch_size(
    planned: Callable[[str], Path],
) -> None:
    steps: list[tuple[int, int]] = []
    found = judge_apart(planned(""), progress=lambda *ran: steps.append(ran))
    assert (found.refused, found.backend, found.batches) == ("", "tensorrt", (1, 2, 4))
    assert found.accuracy is not None and found.accuracy.images == 8
    # Twice and NV12 as tensors, then RGB and NV12 until both lanes have launched their graphs.
    assert found.runs == 3 * 3 + 2 * (2 + 2 + 3)
    assert steps[-1] == (8 * found.runs, 8 * found.runs)


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ("one_class", "it agrees with FP32 on "),
        ("exchanged", "it agrees with FP32 on "),
        ("nan_in_the_largest_batch", "outputs are NaN or infinity, in batches of 4"),
        ("wrong_in_the_graph", "from RGB frames and the CUDA graph, in batches of 1"),
        ("right_the_first_time", "a second run gives other outputs, in batches of 1"),
        ("other_bits_each_time", "a second run gives other outputs, in batches of 1"),
        ("noise_of_2_percent", "its outputs have an SQNR of 31.0 dB, its graph has 33.3 dB"),
        ("noise_of_a_hundredth_percent", ""),
        ("no_memory", "tensorrt cannot create an execution context for its plan"),
        ("crash", "tensorrt crashed with SIGSEGV"),
        ("killed", "tensorrt was killed with SIGKILL, as when memory runs out"),
    ],
)
def test_each_planted_fault_is_caught(fault: str, why: str, planned: Callable[[str], Path]) -> None:
    found = judge_apart(planned(fault))
    assert bool(found.refused) == bool(why)
    assert why in found.refused


def test_a_plan_that_hangs_is_given_up(planned: Callable[[str], Path]) -> None:
    began = time.monotonic()
    found = judge_apart(planned("hang"), silence=4)
    assert found.refused == "tensorrt has not answered for 4 s"
    assert time.monotonic() - began < 60


def test_a_plan_that_cannot_be_loaded_is_an_error(planned: Callable[[str], Path]) -> None:
    with pytest.raises(EngineError, match=r"tensorrt 10\.3\.0 cannot load .*model\.plan"):
        judge_apart(planned("unloadable"))


def test_a_missing_package_is_no_fault_of_the_plan(
    planned: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pycuda.py").write_text("raise ImportError('not for this Python')")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ['PYTHONPATH']}")
    with pytest.raises(MissingPackage, match="pycuda"):
        judge_apart(planned(""))


def test_an_engine_without_witnesses_is_an_error(planned: Callable[[str], Path]) -> None:
    folder = planned("")
    replace(Passport.read(folder), witnesses=None).write(folder)
    with pytest.raises(EngineError, match="has no witnesses"):
        judge_apart(folder)


def test_a_damaged_witness_is_named(planned: Callable[[str], Path]) -> None:
    folder = planned("")
    (folder / "witnesses.png").write_bytes(b"")
    with pytest.raises(EngineError, match=r"witnesses\.png is damaged"):
        judge_apart(folder)


def test_ctrl_c_ends_the_process_too(planned: Callable[[str], Path], tmp_path: Path) -> None:
    folder = planned("hang")
    script = (
        "import sys; from pathlib import Path; from edge.engine.judging import judge_apart\n"
        f"judge_apart(Path({str(folder)!r}), 'tensorrt', silence=100)"
    )
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        deadline = time.monotonic() + 60
        while not (found := children.read_text().split()) and time.monotonic() < deadline:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=60)
        assert process.returncode not in (0, None)
    assert found and not Path(f"/proc/{found[0]}").exists()
