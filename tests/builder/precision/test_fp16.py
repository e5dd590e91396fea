from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge.builder import graph, plan
from edge.builder.precision import fp16, placement, quantize
from edge.builder.precision.ranges import Range, Ranges
from edge.builder.precision.sites import linears
from edge.errors import CalibrationError, GraphError
from tests.builder.conftest import prepared, sqnr

FLOAT, FLOAT16 = TensorProto.FLOAT, TensorProto.FLOAT16


def logits(model):
    return graph.session(model).logits(prepared())


def types(model):
    """The element type of every tensor, as ONNX infers it; what it cannot infer fails."""
    onnx.checker.check_model(model, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    values = [*inferred.value_info, *inferred.input, *inferred.output]
    found = {value.name: value.type.tensor_type.elem_type for value in values}
    return found | {tensor.name: tensor.data_type for tensor in inferred.initializer}


def kinds(model, node):
    """The float types that a node reads and writes."""
    kind = types(model)
    return {kind[name] for name in (*node.input, *node.output)} & {FLOAT, FLOAT16}


def node_of(model, name):
    return next(node for node in model.graph.node if node.name == name)


def multiplied(model, factors):
    """A copy of the graph with some of its weights multiplied."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for tensor in result.graph.initializer:
        if tensor.name in factors:
            value = numpy_helper.to_array(tensor) * np.asarray(factors[tensor.name], np.float32)
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    return result


def residual(model, factor):
    """Multiply all that is added to the residual stream; every LayerNorm cancels the factor."""
    into = [f.weight for number, f in enumerate(linears(model)) if number % 4 in (1, 3)]
    into += [t.name for t in model.graph.initializer if "embeddings" in t.name]
    assert len(into) == 4 + 3
    return multiplied(model, dict.fromkeys(into, factor))


def values(model, factor):
    """Multiply the values of the first attention; its output projection cancels the factor."""
    qkv, out, *_ = linears(model)
    return multiplied(model, {qkv.weight: [1] * 128 + [factor] * 64, out.weight: 1 / factor})


def measured(model):
    return fp16.find_fp32_nodes(model, fp16.peaks(model, prepared()))


def test_tiny_ranges_keep_scales_that_fp16_can_hold(fp32, ranges):
    model = fp16.to_fp16(
        quantize.to_qdq(fp32, dict.fromkeys(ranges, Range(1e-9, "minmax", 1.0, 1.0)))
    )
    index = graph.Index(model)
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert (index.array(node.input[1]) >= np.finfo(np.float16).smallest_normal).all()


@pytest.mark.parametrize("quantised", [False, True])
def test_computes_in_fp16_except_layernorm_and_softmax(fp32, int8, quantised):
    model = fp16.to_fp16(int8 if quantised else fp32)
    kind = types(model)
    assert kind["pixel_values"] == kind["logits"] == FLOAT
    for node in model.graph.node:
        if node.op_type in ("LayerNormalization", "Softmax"):
            assert {kind[name] for name in (*node.input, *node.output)} == {FLOAT}
        elif node.op_type in ("MatMul", "Gemm", "Gelu", "Conv", "Add", "Mul"):
            assert {kind[name] for name in (*node.input, *node.output)} == {FLOAT16}
        elif node.op_type == "QuantizeLinear":
            assert kind[node.input[0]] == kind[node.input[1]] == FLOAT16
    # The picture, the logits, and both sides of each LayerNorm and Softmax; nothing twice.
    inside = [n for n in model.graph.node if n.op_type in ("LayerNormalization", "Softmax")]
    assert Counter(n.op_type for n in model.graph.node)["Cast"] == 2 + 2 * len(inside)


def test_stays_near_fp32(fp32):
    half = logits(fp16.to_fp16(fp32))
    assert half.dtype == np.float32
    assert sqnr(logits(fp32), half) > 50


def test_a_weight_that_fp16_cannot_hold_is_named_unless_its_node_is_kept(fp32):
    linear = linears(fp32)[0]
    model = multiplied(fp32, {linear.weight: 1e6})
    with pytest.raises(GraphError, match=linear.weight):
        fp16.to_fp16(model)
    fp32_nodes = fp16.find_fp32_nodes(model, {})
    assert list(fp32_nodes) == [linear.node.name]
    assert fp32_nodes[linear.node.name].startswith(f"the weight {linear.weight} reaches ")
    types(fp16.to_fp16(model, fp32_nodes))


def test_a_healthy_graph_has_no_risks(fp32, int8):
    assert measured(fp32) == measured(int8) == {}


def test_peaks_are_the_largest_absolute_values_over_all_pictures(fp32):
    heard = []
    found = fp16.peaks(fp32, iter(prepared()), heard.append)
    assert heard == [1, 2, 3, 4]
    assert "val_0" not in found  # a shape
    probed = onnx.ModelProto()
    probed.CopyFrom(fp32)
    named = ["conv2d", fp32.graph.node[-2].output[0], "logits"]
    for name in named[:2]:
        probed.graph.output.append(helper.make_tensor_value_info(name, FLOAT, None))
    for name, values in zip(named, graph.session(probed).run(prepared(), named), strict=True):
        assert found[name] == pytest.approx(np.abs(values).max(), rel=1e-5)
    made = {name for node in fp32.graph.node for name in node.output}
    assert made - set(found) == {"val_0", "val_10"} & made


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity_are_named(fp32, bad):
    images = prepared()
    images[2, 1, 5, 7] = bad
    with pytest.raises(CalibrationError, match="conv2d is NaN or infinity on image 3"):
        fp16.peaks(fp32, images)


def test_a_single_nan_is_found():
    """onnxruntime's ReduceMax ignores NaN."""
    name, value = "made", helper.make_tensor_value_info
    node = helper.make_node("Neg", ["pixel_values"], [name], "neg")
    body = helper.make_graph(
        [node],
        "one",
        [value("pixel_values", FLOAT, ["batch", 3, 32, 32])],
        [value(name, FLOAT, ["batch", 3, 32, 32])],
    )
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    picture = prepared(1)[0]
    picture[1, 17, 3] = np.nan
    with pytest.raises(CalibrationError, match="made is NaN"):
        fp16.peaks(model, [picture])


def test_no_picture_is_an_error(fp32):
    with pytest.raises(CalibrationError, match="no image"):
        fp16.peaks(fp32, [])


def test_a_residual_stream_that_overflows_stays_fp32_from_add_to_layernorm(fp32):
    model = residual(fp32, 3e4)
    assert sqnr(logits(fp32), logits(model)) > 90  # the same function
    assert not sqnr(logits(model), logits(fp16.to_fp16(model))) > 20  # NaN, too
    fp32_nodes = measured(model)
    adds = [node for node in model.graph.node if node.op_type == "Add"]
    assert {node.name for node in adds} < set(fp32_nodes)
    assert all("FP16 holds 65504" in why for why in fp32_nodes.values())
    guarded = fp16.to_fp16(model, fp32_nodes)
    assert sqnr(logits(model), logits(guarded)) > 50
    index = graph.Index(guarded)
    for node in guarded.graph.node:
        if node.name in fp32_nodes or node.op_type == "LayerNormalization":
            assert kinds(guarded, node) == {FLOAT}
        if node.op_type == "LayerNormalization":
            assert index.maker[node.input[0]].op_type == "Add"  # and no Cast between them
    qkv = node_of(guarded, linears(fp32)[0].node.name)
    assert kinds(guarded, qkv) == {FLOAT16}


def test_a_linear_that_overflows_stays_fp32_and_its_neighbours_fp16(fp32):
    model = values(fp32, 1e4)
    qkv, out, fc1, *_ = (linear.node.name for linear in linears(model))
    assert sqnr(logits(fp32), logits(model)) > 90
    assert not sqnr(logits(model), logits(fp16.to_fp16(model))) > 20
    fp32_nodes = measured(model)
    assert {qkv, out} <= set(fp32_nodes) and fc1 not in fp32_nodes
    made = node_of(model, qkv).output[0]
    reach = float(fp32_nodes[qkv].removeprefix(f"{made} reaches ").partition(",")[0])
    assert reach == pytest.approx(fp16.peaks(model, prepared())[made], rel=1e-5)
    guarded = fp16.to_fp16(model, fp32_nodes)
    assert sqnr(logits(model), logits(guarded)) > 50
    assert kinds(guarded, node_of(guarded, out)) == {FLOAT}
    assert kinds(guarded, node_of(guarded, fc1)) == {FLOAT16}


def test_tensors_of_subnormals_stay_fp32(fp32):
    model = residual(fp32, 2e-6)
    assert sqnr(logits(model), logits(fp16.to_fp16(model))) < 20
    fp32_nodes = measured(model)
    assert {node.name for node in model.graph.node if node.op_type == "Add"} < set(fp32_nodes)
    assert all(", FP16 is exact from 6.1e-05" in why for why in fp32_nodes.values())
    assert sqnr(logits(model), logits(fp16.to_fp16(model, fp32_nodes))) > 50


@pytest.fixture
def sum_of(fp32):
    """x @ weight + bias, with a bias of that size."""

    def make(bias):
        value, array = helper.make_tensor_value_info, numpy_helper.from_array
        body = helper.make_graph(
            [
                helper.make_node("MatMul", ["x", "w"], ["product"], "matmul"),
                helper.make_node("Add", ["product", "b"], ["sum"], "add"),
            ],
            "linear",
            [value("x", FLOAT, ["batch", 4])],
            [value("sum", FLOAT, ["batch", 4])],
            [array(np.eye(4, dtype=np.float32), "w"), array(np.full(4, bias, np.float32), "b")],
        )
        return helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)])

    return make


@pytest.mark.parametrize(
    ("bias", "product", "total", "named"),
    [
        (1.0, 1.0, 1.0, set()),
        (1.0, fp16.LARGEST / fp16.MARGIN, 1.0, set()),
        (1.0, 1 + fp16.LARGEST / fp16.MARGIN, 1.0, {"matmul", "add"}),
        (1.0, 1.0, 1 + fp16.LARGEST / fp16.MARGIN, {"add"}),
        (20000.0, 1.0, 1.0, set()),  # no other picture makes a weight larger
        (1e-6, 1.0, 1.0, set()),  # rounded away in such a sum, in FP16 and in FP32
        (1e-6, 1.0, 1e-3, {"add"}),
        (1.0, 1e-6, 1.0, set()),
        (1.0, 1e-6, 1e-3, {"matmul", "add"}),
        (0.0, 0.0, 0.0, set()),
    ],
)
def test_tensors_at_risk_are_named(sum_of, bias, product, total, named):
    assert set(fp16.find_fp32_nodes(sum_of(bias), {"product": product, "sum": total})) == named


def test_a_kept_linear_stays_int8_with_its_pair_in_fp32(int8, fp32):
    linear = linears(fp32)[1].node.name
    model = fp16.to_fp16(int8, [linear])
    index, kind = graph.Index(model), types(model)
    for node in model.graph.node:
        if node.op_type != "MatMul" or index.maker[node.input[1]].op_type != "DequantizeLinear":
            continue
        expected = FLOAT if node.name == linear else FLOAT16
        assert kinds(model, node) == {expected}
        activation, weight = (index.maker[name] for name in node.input)
        assert kind[weight.input[0]] == TensorProto.INT8
        assert kinds(model, weight) == {expected}
        assert kinds(model, activation) == {expected}
        assert kinds(model, index.maker[activation.input[0]]) == {expected}  # QuantizeLinear
    assert placement.check(model) == placement.check(int8)
    assert sqnr(logits(int8), logits(model)) > 25


@pytest.mark.parametrize("damage", [residual, values])
def test_overflow_in_a_quantised_graph_is_found(fp32, damage):
    damaged = damage(fp32, 1e4)
    ranges = {
        li.activation: Range(
            peak := 1.1 * fp16.peaks(damaged, prepared())[li.activation], "", 1.0, peak
        )
        for li in linears(damaged)
    }
    model = quantize.to_qdq(damaged, ranges)
    assert not sqnr(logits(model), logits(fp16.to_fp16(model))) > 20
    for fp32_nodes in (measured(damaged), measured(model)):  # of either graph
        assert sqnr(logits(model), logits(fp16.to_fp16(model, fp32_nodes))) > 25


def test_a_pair_shared_by_two_linears_is_duplicated_for_their_types(int8, fp32):
    model = onnx.ModelProto()
    model.CopyFrom(int8)
    first = node_of(model, linears(fp32)[0].node.name)
    model.graph.node.append(helper.make_node("MatMul", list(first.input), ["twin"], "twin"))
    shape = [None, 17, 192]
    model.graph.output.append(helper.make_tensor_value_info("twin", FLOAT, shape))
    half = fp16.to_fp16(model, ["twin"])
    assert kinds(half, node_of(half, "twin")) == {FLOAT}
    assert kinds(half, node_of(half, first.name)) == {FLOAT16}
    index = graph.Index(half)
    for node in half.graph.node:
        if node.op_type == "Cast":  # it would part the Linear from its pair
            assert index.maker.get(node.input[0], node).op_type != "DequantizeLinear"
    assert placement.check(half) == placement.check(int8) + 1
    exact, near = (graph.session(m).run(prepared(), ["twin"])[0] for m in (model, half))
    assert sqnr(exact, near) > 25


def test_nodes_inserted_between_two_fp32_nodes_stay_fp32(fp32):
    """A shift after GELU and a bias, which the FP32 graph's list does not contain."""
    ranges = {li.activation: Range(6.0, "minmax", 6.0, 6.0) for li in linears(fp32)}
    fc1, fc2 = linears(fp32)[2], linears(fp32)[3]
    ranges[fc2.activation] = Range(6.0, "minmax", 6.0, 6.0, shift=0.5)
    ranges[fc1.activation] = Range(6.0, "minmax", 6.0, 6.0, mean=(0.1,) * 64, error=(0.1,) * 64)
    model = quantize.to_qdq(fp32, ranges)
    gelu = graph.Index(fp32).maker[fc2.activation].name
    half = fp16.to_fp16(model, [fc1.node.name, gelu, fc2.node.name])
    for name in (f"{fc2.activation}_centred", f"{fc1.node.name}_bias"):
        assert kinds(half, node_of(half, name)) == {FLOAT}
    assert sqnr(logits(model), logits(half)) > 25


def test_a_name_that_no_node_has_is_an_error(fp32):
    with pytest.raises(GraphError, match="elsewhere must stay FP32"):
        fp16.to_fp16(fp32, ["elsewhere"])


def test_the_list_of_fp32_nodes_is_stored_in_the_graph(fp32, tmp_path):
    model = onnx.ModelProto()
    model.CopyFrom(fp32)
    assert fp16.kept(model) == {}
    fp16.set_kept(model, {"node_conv2d": "too large"})
    graph.save(model, tmp_path / "model.onnx")
    assert fp16.kept(graph.load(tmp_path / "model.onnx")) == {"node_conv2d": "too large"}
    assert graph.metadata(model)["head"] == graph.metadata(fp32)["head"]
    fp16.set_kept(model, {})
    assert graph.metadata(model) == graph.metadata(fp32)
    for damaged in (["node_conv2d"], {"node_conv2d": 1}):
        graph.set_metadata(model, {"fp32_nodes": damaged})
        with pytest.raises(GraphError, match="damaged"):
            fp16.kept(model)
    del model.metadata_props[:]
    assert fp16.kept(model) == {}
    with pytest.raises(GraphError, match="no vit-edge metadata"):
        fp16.set_kept(model, {"node_conv2d": "too large"})


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_all_forms_of_an_engine_keep_the_graph_s_fp32_nodes(fp32, ranges, precision):
    model = onnx.ModelProto()
    model.CopyFrom(fp32)
    linear = linears(model)[1].node.name
    fp16.set_kept(model, {linear: "for this test"})
    found = Ranges(method="minmax", images=1, set_sha256="", ranges=ranges)
    forms = plan.make_forms(model, precision, found)
    half = forms["portable" if precision == "fp16" else "device"]
    assert kinds(half, node_of(half, linear)) == {FLOAT}
    assert all(list(fp16.kept(form)) == [linear] for form in forms.values())
