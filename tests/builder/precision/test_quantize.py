import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edge.builder import graph
from edge.builder.precision import placement, quantize
from edge.builder.precision.ranges import Range
from edge.builder.precision.sites import linears
from edge.errors import GraphError
from tests.builder.conftest import prepared, sqnr

BLOCKS = 2


def test_finds_the_linears_of_the_blocks_and_no_others(fp32):
    found = linears(fp32)
    outputs = sorted(
        numpy_helper.to_array(graph.Index(fp32).weights[f.weight]).shape for f in found
    )
    # q, k and v as one; the output projection; fc1; fc2
    assert outputs == sorted([(64, 192), (64, 64), (64, 128), (128, 64)] * BLOCKS)


def test_a_graph_without_linears_is_refused(fp32):
    bare = onnx.ModelProto()
    bare.CopyFrom(fp32)
    kept = [node for node in bare.graph.node if node.op_type != "LayerNormalization"]
    del bare.graph.node[:]
    bare.graph.node.extend(kept)
    with pytest.raises(GraphError, match="no Linear to quantise"):
        linears(bare)


def test_every_quantised_matmul_has_both_sides_dequantised(int8):
    assert placement.check(int8) == 4 * BLOCKS


def test_weights_are_int8_per_output_channel_with_their_axis_written(fp32, int8):
    index = graph.Index(int8)
    weights = [
        n
        for n in int8.graph.node
        if n.op_type == "DequantizeLinear" and n.input[0] in index.weights
    ]
    assert len(weights) == 4 * BLOCKS
    for node in weights:
        assert [(a.name, a.i) for a in node.attribute] == [("axis", 1)]
        stored, scale = index.array(node.input[0]), index.array(node.input[1])
        assert stored.dtype == np.int8
        assert scale.shape == (stored.shape[1],)
        original = graph.Index(fp32).array(node.input[0].removesuffix("_int8"))
        assert np.abs(stored * scale - original).max() <= scale.max() / 2 + 1e-7
        assert (np.abs(stored).max(axis=0) == 127).all()


def test_one_pair_on_a_layernorm_and_none_on_residuals(int8):
    index = graph.Index(int8)
    for node in int8.graph.node:
        if node.op_type == "QuantizeLinear":
            assert index.maker[node.input[0]].op_type in ("LayerNormalization", "Reshape", "Gelu")
            assert index.array(node.input[1]).shape == ()
            assert index.array(node.input[2]) == 0


def test_int8_stays_near_fp32(fp32, int8):
    x = prepared()
    assert sqnr(graph.session(fp32).logits(x), graph.session(int8).logits(x)) > 20


def test_ranges_of_another_graph_are_named(fp32, ranges):
    name = next(iter(ranges))
    with pytest.raises(GraphError, match=f"no range for {name}"):
        quantize.to_qdq(fp32, {k: v for k, v in ranges.items() if k != name})
    with pytest.raises(GraphError, match="there is a range for elsewhere"):
        quantize.to_qdq(fp32, {**ranges, "elsewhere": ranges[name]})
    for bad in (0.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="range of"):
            Range(bad, "minmax", 1.0, 1.0)


def qdq_on_a_residual(int8):
    model = onnx.ModelProto()
    model.CopyFrom(int8)
    add = next(n for n in model.graph.node if n.op_type == "Add")
    pair = next(n for n in model.graph.node if n.op_type == "QuantizeLinear")
    model.graph.node.extend(
        [
            helper.make_node("QuantizeLinear", [add.output[0], *pair.input[1:]], ["rq"], "bad_Q"),
            helper.make_node("DequantizeLinear", ["rq", *pair.input[1:]], ["rd"], "bad_DQ"),
            helper.make_node("Add", ["rd", "rd"], ["unused"], "residual"),
        ]
    )
    return model


def change_zero(int8):
    model = onnx.ModelProto()
    model.CopyFrom(int8)
    pair = next(n for n in model.graph.node if n.op_type == "QuantizeLinear")
    zero = next(t for t in model.graph.initializer if t.name == pair.input[2])
    zero.CopyFrom(numpy_helper.from_array(np.array(3, np.int8), zero.name))
    return model


def one_sided(int8):
    model = onnx.ModelProto()
    model.CopyFrom(int8)
    maker = {n.output[0]: n for n in model.graph.node}
    for node in model.graph.node:
        if node.op_type == "MatMul" and node.input[0] in maker:
            restored = maker[node.input[0]]
            if restored.op_type == "DequantizeLinear":
                node.input[0] = maker[restored.input[0]].input[0]
                return model
    raise AssertionError("nothing to change")


@pytest.mark.parametrize(
    ("spoil", "named"),
    [(qdq_on_a_residual, "bad_DQ"), (change_zero, "symmetric"), (one_sided, "one side only")],
)
def test_broken_placements_are_named(int8, spoil, named):
    with pytest.raises(GraphError, match=named):
        placement.check(spoil(int8))
