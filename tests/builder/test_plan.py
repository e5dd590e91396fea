"""`edge compile` on the board: the plan is made from the portable engine, without torch."""

import shutil
import subprocess
import sys

import onnx
import pytest

from edge.builder import graph, plan
from edge.builder.pipeline import build
from edge.builder.precision import fp16
from edge.builder.recipes import Recipe
from edge.engine.passport import Passport
from edge.errors import CompileError, EngineError
from edge.gpu.nvidia import Gpu
from tests.conftest import needs_rtx


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

    def timer(path, passport):
        assert path.is_file()
        precision = {c.graph: name for name, c in passport.candidates.items()}
        return clock[precision[passport.plan.graph]]

    plan.compile_engine(folder, None, recorder, timer)
    passport = Passport.read(folder)
    assert passport.plan.graph == passport.candidates[fastest].graph
    assert passport.plan.ms == 1.25
    assert passport.plan.why.startswith(f"{fastest.upper()} is the fastest that passed the gate")
    assert "INT8" in passport.plan.why and "FP16" in passport.plan.why
    assert passport.plan.model_sha256 == passport.files[passport.plan.graph].sha256
    passport.check_file(folder, "model.plan")
