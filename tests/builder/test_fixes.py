"""Each fix changes what it says, leaves the function as it is, and is compiled by TensorRT-RTX."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from edge.builder import compile as compiling
from edge.builder import graph
from edge.builder.fixes import FIXES, Fix
from edge.builder.plan import device_form, make_forms
from edge.builder.precision import islands
from tests.conftest import needs_rtx
from tests.cuda_driver.emulated_compiler import _without_bf16

BF16, ATTENTION, RESIDUAL, LEVEL, TACTICS = FIXES


@pytest.fixture(scope="module", params=["fp16", "int8"])
def compiled_graph(
    request: pytest.FixtureRequest, built_engine: Path, fp32_graph: Path
) -> ModelProto:
    """The graph that is compiled for a tiny ViT."""
    if request.param == "int8":
        return device_form(graph.load(built_engine / "model.onnx"), "int8")
    return make_forms(graph.load(fp32_graph), "fp16", None)["portable"]


def images() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((4, 3, 32, 32)).astype(np.float32)


def difference(model: ModelProto, other: ModelProto) -> float:
    """The largest difference of the logits, relative to their size."""
    one, two = (graph.session(each).logits(images()) for each in (model, other))
    return float(np.abs(one - two).max() / np.abs(one).max())


@pytest.mark.parametrize("fix", [BF16, ATTENTION, RESIDUAL], ids=lambda fix: fix.name)
def test_the_changed_graph_is_valid_and_computes_the_same(
    fix: Fix, compiled_graph: ModelProto
) -> None:
    before = compiled_graph.SerializeToString()
    changed = fix.change(compiled_graph)
    assert changed is not None
    onnx.checker.check_model(changed)
    onnx.shape_inference.infer_shapes(changed, strict_mode=True, check_type=True)
    if fix is BF16:
        copy = ModelProto.FromString(changed.SerializeToString())
        # A rounded activation is another INT8 level here and there.
        assert 0 < difference(compiled_graph, _without_bf16(copy)) < 0.05
    else:
        assert difference(compiled_graph, changed) < 0.003
    assert compiled_graph.SerializeToString() == before


def kinds_of(model: ModelProto, names: set[str]) -> set[int]:
    """The types in which nodes of a changed graph compute."""
    types = graph.types(model)
    return {types[node.output[0]] for node in model.graph.node if node.name in names}


def test_what_a_fix_changes_has_the_type_and_nothing_else_has(compiled_graph: ModelProto) -> None:
    core = islands.attention_core(compiled_graph)
    nodes = {node.name: node.op_type for node in compiled_graph.graph.node}
    assert sorted(nodes[name] for name in core if nodes[name] != "Cast") == (
        ["MatMul"] * 4 + ["Softmax"] * 2
    )
    changed = BF16.change(compiled_graph)
    assert changed is not None
    assert kinds_of(changed, core) == {TensorProto.BFLOAT16}
    others = {name for name in nodes if nodes[name] in ("MatMul", "Gemm", "Conv")} - core
    assert kinds_of(changed, others) == kinds_of(compiled_graph, others)
    stream = islands.residual_stream(compiled_graph)
    assert {nodes[name] for name in stream} == {"Add", "Cast", "LayerNormalization"}
    changed = RESIDUAL.change(compiled_graph)
    assert changed is not None
    assert kinds_of(changed, stream) == {TensorProto.FLOAT}


def test_there_is_nothing_to_change_in_fp32(fp32_graph: Path) -> None:
    model = graph.load(fp32_graph)
    assert ATTENTION.change(model) is RESIDUAL.change(model) is None
    assert BF16.change(model) is not None


def test_a_softmax_without_products_is_no_attention() -> None:
    """As at the end of a graph that gives probabilities."""
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"], "product"),
        helper.make_node("Softmax", ["y"], ["z"], "probabilities"),
    ]
    made = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT16, ["n", 4])],
        [value("z", TensorProto.FLOAT16, ["n", 4])],
        [numpy_helper.from_array(np.eye(4, dtype=np.float16), "w")],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)])
    assert islands.attention_core(model) == set()
    assert ATTENTION.change(model) is None


def test_constants_of_an_island_are_converted_and_outputs_keep_their_type() -> None:
    """Scores with a scale and a bias; the second product is an output of the graph, too."""
    value, half = helper.make_tensor_value_info, TensorProto.FLOAT16
    nodes = [
        helper.make_node("MatMul", ["q", "k"], ["s"], "scores"),
        helper.make_node("Mul", ["s", "scale"], ["scaled"], "scale_it"),
        helper.make_node("Add", ["scaled", "bias"], ["biased"], "bias_it"),
        helper.make_node("Softmax", ["biased"], ["p"], "softmax"),
        helper.make_node("MatMul", ["p", "v"], ["out"], "values"),
    ]
    weights = [
        numpy_helper.from_array(np.array(0.5, np.float16), "scale"),
        numpy_helper.from_array(np.arange(16, dtype=np.float16).reshape(4, 4), "bias"),
    ]
    inputs = [value(name, half, [4, 4]) for name in ("q", "k", "v")]
    made = helper.make_graph(nodes, "g", inputs, [value("out", half, [4, 4])], weights)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)])
    changed = islands.in_type(model, islands.attention_core(model), TensorProto.FLOAT)
    assert changed is not None
    onnx.checker.check_model(changed)
    types = graph.types(changed)
    assert kinds_of(changed, {node.name for node in nodes}) == {TensorProto.FLOAT}
    assert types["out"] == half
    assert [node.op_type for node in changed.graph.node] == (
        ["Cast", "Cast", "MatMul", "Mul", "Add", "Softmax", "Cast", "MatMul", "Cast"]
    )


@needs_rtx
@pytest.mark.parametrize("fix", FIXES, ids=lambda fix: fix.name)
def test_tensorrt_rtx_compiles_it(fix: Fix, compiled_graph: ModelProto, tmp_path: Path) -> None:
    model = fix.change(compiled_graph)
    assert model is not None
    graph.save(model, tmp_path / "model.onnx")
    compiled = compiling.compile_plan(
        tmp_path / "model.onnx",
        "tensorrt-rtx",
        input_shape=(3, 32, 32),
        max_batch=4,
        cache=tmp_path,
        progress=lambda *_: None,
        restraint=fix.restraint,
    )
    assert len(compiled.data) > 10_000
