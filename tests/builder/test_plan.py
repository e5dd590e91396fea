"""`edge compile` on the board: the plan is made from the portable engine, without torch."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from edge.builder import graph, plan
from edge.builder.pipeline import build
from edge.builder.precision import fp16
from edge.builder.recipes import Recipe
from edge.engine.passport import File, Passport, Plan
from edge.engine.timing import WARM_UP, Timing
from edge.errors import CompileError, EngineError
from edge.gpu import nvidia
from edge.gpu.nvidia import Gpu
from tests.conftest import needs_rtx
from tests.cuda_driver import emulated_trt
from tests.cuda_driver.standin import emulated


@pytest.fixture
def copy(built_engine, tmp_path):
    """The engine folder as it arrives on another machine."""
    folder = shutil.copytree(built_engine, tmp_path / "engines" / "tiny")
    passport = Passport.read(folder)
    (folder / "model.plan").unlink(missing_ok=True)
    passport.with_plan(None, {}).write(folder)
    return folder


@needs_rtx
def test_compiles_the_plan_and_lists_it_in_the_passport(copy, recorder):
    passport = plan.compile_engine(copy, None, recorder)
    assert Passport.read(copy) == passport
    passport.check_file(copy, "model.plan")
    assert passport.plan.model_sha256 == passport.files["model.onnx"].sha256
    assert passport.plan.max_batch == 4
    assert recorder.stages == ["compile int8 (tensorrt-rtx)"]
    if passport.plan.gpu is None:
        told = "for any GPU of compute capability 8.6, 8.9 or 12.0 (a Jetson needs its own: edge"
        assert told in recorder.texts[0]


@needs_rtx
def test_needs_neither_torch_nor_transformers(copy):
    script = f"""
import sys
for name in ("torch", "transformers", "onnxsim", "safetensors"):
    sys.modules[name] = None  # importing it fails
from pathlib import Path
from edge.builder.plan import compile_engine
from edge.cli.console import Console
compile_engine(Path({str(copy)!r}), None, Console())
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
    assert Passport.read(copy).plan is not None


def test_nodes_that_the_graph_keeps_fp32_are_not_cast(copy, recorder, monkeypatch):
    """A board has no images to find these nodes with."""
    portable = graph.load(copy / "model.onnx")
    add = [node.name for node in portable.graph.node if node.op_type == "Add"][-1]
    fp16.set_kept(portable, {add: "for this test"})
    monkeypatch.setattr(plan.graph, "load", lambda _: portable)
    compiled = []

    def take(source, *_, **__):
        compiled.append(onnx.load(source))
        raise CompileError("enough", "seen")

    monkeypatch.setattr(plan.compiling, "compile_plan", take)
    monkeypatch.setattr(plan.compiling, "available", lambda: ("tensorrt", "test"))
    with pytest.raises(CompileError, match="enough"):
        plan.compile_engine(copy, None, recorder)
    node = next(node for node in compiled[0].graph.node if node.name == add)
    inferred = onnx.shape_inference.infer_shapes(compiled[0]).graph.value_info
    kind = {value.name: value.type.tensor_type.elem_type for value in inferred}
    assert kind[node.output[0]] == onnx.TensorProto.FLOAT


def test_a_failed_compile_leaves_the_engine_as_it_was(copy, recorder, monkeypatch):
    before = Passport.read(copy)

    def fail(*_, **__):
        raise CompileError("out of memory", "buy more")

    monkeypatch.setattr(plan.compiling, "compile_plan", fail)
    monkeypatch.setattr(plan.compiling, "available", lambda: ("tensorrt", "test"))
    with pytest.raises(CompileError):
        plan.compile_engine(copy, None, recorder)
    assert Passport.read(copy) == before
    assert not (copy / "model.plan").exists()


def test_without_a_backend_that_compiles_there_is_an_error(copy, recorder, monkeypatch):
    monkeypatch.setattr(plan.compiling.nvidia, "installed", lambda: [])
    with pytest.raises(CompileError, match="python3-libnvinfer"):
        plan.compile_engine(copy, None, recorder)


@needs_rtx
@pytest.mark.parametrize("capability, taken", [("8.9", True), ("12.0", True), ("9.0", False)])
def test_tensorrt_rtx_compiles_only_for_supported_gpus(monkeypatch, capability, taken):
    """On an unsupported GPU a build succeeds and the engine is portable."""
    monkeypatch.setattr(plan.compiling.nvidia, "installed", lambda: ["tensorrt-rtx"])
    monkeypatch.setattr(plan.compiling.nvidia, "gpu", lambda: Gpu("NVIDIA X", capability))
    found, why = plan.compiling.available()
    assert (found == "tensorrt-rtx") == taken
    assert taken or why == "TensorRT-RTX does not support NVIDIA X (compute capability 9.0)"


def test_a_damaged_engine_is_not_compiled(copy, recorder):
    with (copy / "model.onnx").open("ab") as file:
        file.write(b"more")
    with pytest.raises(EngineError, match="is damaged"):
        plan.compile_engine(copy, None, recorder)


@needs_rtx
@pytest.mark.parametrize("fastest", ["fp32", "fp16", "int8"])
def test_the_board_keeps_the_candidate_that_is_fastest_there(
    checkpoint, pictures, warm, recorder, fastest
):
    recipe = Recipe(
        str(checkpoint), pictures, precision="auto", name="a", engines=warm, min_agreement=50
    )
    folder = build(recipe, recorder).folder
    clock = {"fp32": 9.0, "fp16": 5.0, "int8": 6.0, fastest: 1.25}
    plan.compile_engine(folder, None, recorder, timer_of(clock))
    passport = Passport.read(folder)
    assert passport.plan.graph == passport.candidates[fastest].graph
    assert passport.plan.ms == 1.25
    assert passport.plan.why.startswith(f"{fastest.upper()} was chosen by speed on ")
    for other in {"fp32", "fp16", "int8"} - {fastest}:
        assert other.upper() in passport.plan.why
    assert passport.plan.model_sha256 == passport.files[passport.plan.graph].sha256
    passport.check_file(folder, "model.plan")
    assert not list(folder.glob(".plans-*"))


@needs_rtx
def test_plans_that_are_not_told_apart_leave_the_build_s_choice(
    checkpoint, pictures, warm, recorder
):
    """The other plan is 1.25x as fast by the median, but each is faster in half of the rounds."""
    recipe = Recipe(
        str(checkpoint), pictures, precision="auto", name="a", engines=warm, min_agreement=50
    )
    folder = build(recipe, recorder).folder
    chosen = Passport.read(folder).precision

    def noisy(plans):
        best, other = plans
        return Timing({best: [1.0, 4.0] * 10, other: [2.0] * 20}, "busy")

    plan.compile_engine(folder, None, recorder, noisy)
    passport = Passport.read(folder)
    assert passport.plan.graph == "model.onnx"
    assert passport.plan.why.startswith(f"{chosen.upper()} was chosen by speed")
    assert passport.plan.why.count("not told apart by speed") == 2


def timer_of(clock):
    """A timer for which each plan takes its milliseconds."""

    def timer(plans):
        assert len(plans) == 2
        for precision, (path, passport) in plans.items():
            assert path.is_file()
            assert passport.plan.graph == passport.candidates[precision].graph
        return Timing({name: [clock[name]] * 20 for name in plans}, "a board")

    return timer


@emulated
def test_plans_take_turns_on_the_gpu_and_are_closed(driver, built_engine, tmp_path):
    trt = emulated_trt.Trt(driver)
    nvidia.tensorrt = lambda name: trt
    passport = Passport.read(Path(built_engine))
    graph_sha256 = passport.files["model.onnx"].sha256
    about = Plan("tensorrt", "model.onnx", "10.3.0", "X", "8.7", 4, graph_sha256)
    path = Path(tmp_path) / "model.plan"
    path.write_bytes(os.fsencode(Path(built_engine) / "model.onnx"))
    planned = passport.with_plan(about, {"model.plan": File.of(path)})
    timing = plan.time_on_gpu({"fp16": (path, planned), "int8": (path, planned)})
    assert set(timing.times_ms) == {"fp16", "int8"}
    assert len(timing.times_ms["int8"]) == timing.rounds
    assert set(trt.queued) == {1}
    assert len(trt.queued) == 2 * (WARM_UP + timing.rounds)
