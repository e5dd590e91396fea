"""Graph + ranges -> Q/DQ graph, and FP32 graph -> FP16 graph: pure graph surgery.

Precision lives in the graph, since TensorRT 11 builds nothing else: Q/DQ pairs with calibrated
scales, and FP16 types. Where they stand decides what they cost (reference: NVIDIA's "Working with
quantized types"; onnxsim PR 1742 measured 85 % -> 5 % top-1 for a Q/DQ on the residual adds):

* on the activation and the weight of the transformer's Linears, and nowhere else;
* one shared pair on a LayerNorm output that feeds q, k and v; after GELU, right before fc2;
* activations per tensor, weights per output channel, symmetric INT8, zero point 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edge.build.graph import Index
from edge.errors import GraphError

__all__ = ["Linear", "check_placement", "linears", "to_fp16", "to_int8"]

# FP16 scales below the smallest normal number lose precision or are flushed to zero on a GPU.
SMALLEST_SCALE = 2.0**-14
# Sums over many squares or exponentials: computed in FP32 inside an FP16 graph.
FP32_OPERATORS = ("LayerNormalization", "Softmax")


@dataclass(frozen=True)
class Linear:
    """A MatMul of the transformer with a constant weight [inputs, outputs]."""

    node: NodeProto
    activation: str  # the tensor that is quantised
    weight: str


def linears(model: ModelProto) -> list[Linear]:
    """The Linears of the transformer blocks: q, k, v, the output projection, fc1 and fc2.

    They are the MatMuls with a constant weight that have a LayerNormalization both before and
    after them; so neither the patch embedding nor the classifier head is one. Raises `GraphError`
    when there is none.
    """
    index = Index(model)
    before = _reached(model, index, down=True)
    after = _reached(model, index, down=False)
    found = []
    for node in model.graph.node:
        if node.op_type != "MatMul" or node.input[1] not in index.weights:
            continue
        if len(index.weights[node.input[1]].dims) == 2 and {node.output[0]} <= before & after:
            found.append(Linear(node, node.input[0], node.input[1]))
    if not found:
        raise GraphError(
            "the graph has no Linear to quantise", "build it in fp16: --precision fp16"
        )
    return found


def _reached(model: ModelProto, index: Index, *, down: bool) -> set[str]:
    """Tensors downstream (or upstream) of any LayerNormalization."""
    seeds = [node for node in model.graph.node if node.op_type == "LayerNormalization"]
    waiting = [name for node in seeds for name in (node.output if down else node.input)]
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if down:
            waiting.extend(out for node in index.readers.get(name, ()) for out in node.output)
        elif name in index.maker:
            waiting.extend(index.maker[name].input)
    return seen


def to_int8(model: ModelProto, ranges: dict[str, float]) -> ModelProto:
    """Put Q/DQ on the transformer's Linears; the rest stays FP32.

    ranges: activation tensor -> largest absolute value to represent. Raises `GraphError` when a
    Linear's activation has no range, or one that is not positive and finite.
    """
    result = ModelProto()
    result.CopyFrom(model)
    targets = linears(result)
    index = Index(result)
    pairs: dict[str, list[NodeProto]] = {}
    dequantised: dict[str, NodeProto] = {}
    for linear in targets:
        if linear.activation not in pairs:
            pairs[linear.activation] = _activation_pair(result, linear.activation, ranges)
        if linear.weight not in dequantised:
            dequantised[linear.weight] = _weight(result, index, linear.weight)
    nodes: list[NodeProto] = []
    placed: set[str] = set()
    by_output = {linear.node.output[0]: linear for linear in targets}
    for node in result.graph.node:
        at = by_output.get(node.output[0])
        if at is not None:
            activation, weight = pairs[at.activation], dequantised[at.weight]
            for new in (*activation, weight):
                if new.name not in placed:  # q, k and v share one pair
                    nodes.append(new)
                    placed.add(new.name)
            node.input[0], node.input[1] = activation[1].output[0], weight.output[0]
        nodes.append(node)
    _replace_nodes(result, nodes)
    check_placement(result)
    return result


def _activation_pair(model: ModelProto, tensor: str, ranges: dict[str, float]) -> list[NodeProto]:
    """QuantizeLinear and DequantizeLinear for one activation, per tensor."""
    amax = ranges.get(tensor)
    if amax is None:
        raise GraphError(
            f"there is no range for {tensor}", "calibrate this very graph: edge calibrate"
        )
    if not (np.isfinite(amax) and amax > 0):
        raise GraphError(
            f"the range of {tensor} is {amax}", "calibrate with other images: edge calibrate"
        )
    scale = np.float32(max(amax / 127, SMALLEST_SCALE))
    names = [f"{tensor}_scale", f"{tensor}_zero"]
    model.graph.initializer.extend(
        [numpy_helper.from_array(np.array(scale), names[0]), _zero(names[1], ())]
    )
    quantised, restored = f"{tensor}_int8", f"{tensor}_dequantized"
    quantise = helper.make_node("QuantizeLinear", [tensor, *names], [quantised], f"{tensor}_Q")
    restore = helper.make_node("DequantizeLinear", [quantised, *names], [restored], f"{tensor}_DQ")
    return [quantise, restore]


def _weight(model: ModelProto, index: Index, name: str) -> NodeProto:
    """Turn a weight [inputs, outputs] into INT8 per output channel, and a DequantizeLinear.

    The INT8 numbers themselves are stored (a quarter of the file) rather than floats behind a
    QuantizeLinear; whether to do so is decided here and nowhere else.
    """
    weight = index.array(name).astype(np.float32)
    scale = np.maximum(abs(weight).max(axis=0) / 127, SMALLEST_SCALE).astype(np.float32)
    stored = np.clip(np.rint(weight / scale), -127, 127).astype(np.int8)
    names = [f"{name}_int8", f"{name}_scale", f"{name}_zero"]
    model.graph.initializer.remove(index.weights[name])
    model.graph.initializer.extend(
        [
            numpy_helper.from_array(stored, names[0]),
            numpy_helper.from_array(scale, names[1]),
            _zero(names[2], scale.shape),
        ]
    )
    return helper.make_node(
        "DequantizeLinear", names, [f"{name}_dequantized"], f"{name}_DQ", axis=1
    )


def _zero(name: str, shape: tuple[int, ...]) -> TensorProto:
    return numpy_helper.from_array(np.zeros(shape, np.int8), name)


def check_placement(model: ModelProto) -> int:
    """See that every Q/DQ stands where the rules at the top of this module allow it.

    Returns how many Linears are INT8. Raises `GraphError` naming the node that breaks a rule.
    """
    index = Index(model)
    mend = "quantise the FP32 graph with edge quantize"
    count = 0
    for node in model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        zero = index.array(node.input[2]) if len(node.input) > 2 else None
        if zero is None or zero.dtype != np.int8 or zero.any():
            raise GraphError(f"{node.name} is not symmetric INT8", mend)
        scale = index.array(node.input[1])
        if not (scale > 0).all():
            raise GraphError(f"{node.name} has a scale that is not positive", mend)
        if node.op_type == "QuantizeLinear" and scale.ndim != 0:
            raise GraphError(f"{node.name} quantises an activation per channel", mend)
        for reader in index.readers.get(node.output[0], ()):
            if node.op_type == "DequantizeLinear" and reader.op_type != "MatMul":
                raise GraphError(
                    f"{node.name} feeds {reader.op_type} {reader.name}, not a Linear's MatMul", mend
                )
    for node in model.graph.node:
        if node.op_type != "MatMul":
            continue
        makers = [index.maker.get(name) for name in node.input]
        dequantised = [m for m in makers if m is not None and m.op_type == "DequantizeLinear"]
        if not dequantised:
            continue
        constant = [m for m in dequantised if m.input[0] in index.weights]
        if len(dequantised) != 2 or len(constant) != 1:
            raise GraphError(f"{node.name} is quantised on one side only", mend)
        if index.array(constant[0].input[1]).ndim != 1:
            raise GraphError(f"{node.name} has a weight that is not per output channel", mend)
        count += 1
    return count


def to_fp16(model: ModelProto) -> ModelProto:
    """Compute in FP16; inputs and outputs stay FP32, and so do LayerNorm and Softmax inside.

    The same for an FP32 graph and for the FP32 rest of a Q/DQ graph. Raises `GraphError` for a
    weight that FP16 cannot hold.
    """
    result = ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    kept: set[str] = set()  # weights that FP32 operators read
    halved: set[str] = set()
    for node in graph.node:
        (kept if node.op_type in FP32_OPERATORS else halved).update(node.input)
    for tensor in list(graph.initializer):
        if tensor.data_type != TensorProto.FLOAT or tensor.name not in halved:
            continue
        half = _half(tensor)
        if tensor.name in kept:  # read by both: a copy for each
            copy = graph.initializer.add()
            copy.CopyFrom(tensor)
            copy.name = f"{tensor.name}_fp32"
            _rename_inputs(graph.node, tensor.name, copy.name, FP32_OPERATORS)
        tensor.CopyFrom(half)
    floats = {value.name for value in graph.input if _is_float(value)}
    outputs = {value.name for value in graph.output if _is_float(value)}
    nodes = [_cast(name, f"{name}_fp16", TensorProto.FLOAT16) for name in sorted(floats)]
    for node in graph.node:
        for position, name in enumerate(node.input):
            if name in floats:
                node.input[position] = f"{name}_fp16"
        for attribute in node.attribute:
            if attribute.name == "value" and attribute.t.data_type == TensorProto.FLOAT:
                attribute.t.CopyFrom(_half(attribute.t))
            if node.op_type == "Cast" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.FLOAT16
        if node.op_type in FP32_OPERATORS:
            data, out = node.input[0], node.output[0]
            node.input[0], node.output[0] = f"{node.name}_in_fp32", f"{node.name}_out_fp32"
            nodes += [
                _cast(data, node.input[0], TensorProto.FLOAT),
                node,
                _cast(node.output[0], out, TensorProto.FLOAT16),
            ]
        else:
            nodes.append(node)
    for name in sorted(outputs):
        for node in nodes:
            for position, out in enumerate(node.output):
                if out == name:
                    node.output[position] = f"{name}_fp16"
            for position, read in enumerate(node.input):
                if read == name:
                    node.input[position] = f"{name}_fp16"
        nodes.append(_cast(f"{name}_fp16", name, TensorProto.FLOAT))
    del graph.value_info[:]
    _replace_nodes(result, nodes)
    return result


def _half(tensor: TensorProto) -> TensorProto:
    values: npt.NDArray[np.float32] = numpy_helper.to_array(tensor)
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    if not np.isfinite(half).all():
        raise GraphError(
            f"the weight {tensor.name} goes up to {abs(values).max():.3g}, FP16 holds 65504",
            "build it in fp32 or int8: --precision fp32",
        )
    return numpy_helper.from_array(half, tensor.name)


def _cast(source: str, target: str, to: int) -> NodeProto:
    return helper.make_node("Cast", [source], [target], f"{target}_cast", to=to)


def _is_float(value: object) -> bool:
    return bool(value.type.tensor_type.elem_type == TensorProto.FLOAT)  # type: ignore[attr-defined]


def _rename_inputs(nodes: object, old: str, new: str, operators: tuple[str, ...]) -> None:
    for node in nodes:  # type: ignore[attr-defined]
        if node.op_type in operators:
            for position, name in enumerate(node.input):
                if name == old:
                    node.input[position] = new


def _replace_nodes(model: ModelProto, nodes: list[NodeProto]) -> None:
    copies = [NodeProto() for _ in nodes]
    for copy, node in zip(copies, nodes, strict=True):
        copy.CopyFrom(node)
    del model.graph.node[:]
    model.graph.node.extend(copies)
