"""Placement rules for Q/DQ pairs, and the further places that are off by default.

By default only the activation and the weight of the transformer's Linears have Q/DQ pairs, which is
fast and accurate on an Orin (reference: NVIDIA's "Working with quantized types"; onnxsim PR 1742
measured 85 % -> 5 % top-1 for pairs on the residual adds). Further places may pay on other GPUs:

    attention   both inputs of both products of attention, including the softmax's output
    patch       the patch embedding's convolution
    head        the classifier
    residual    both inputs of the residual adds
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from edge.builder import graph
from edge.builder.graph import Index
from edge.builder.precision.dtypes import INT8, NUMBERS, Number
from edge.errors import GraphError

__all__ = ["PLACES", "add", "check", "places"]

PLACES = ("attention", "patch", "head", "residual")
KEY = "placements"  # of the graph's metadata
_READERS = {"patch": "Conv", "head": "Gemm", "residual": "Add"}
_HINT = "quantise the FP32 graph with edge quantize"


def places(model: ModelProto) -> list[str]:
    """The places beyond the default that the graph's metadata lists."""
    if all(item.key != graph.METADATA for item in model.metadata_props):
        return []
    return [str(place) for place in graph.metadata(model).get(KEY, [])]


def check(model: ModelProto) -> int:
    """Check the placement of all Q/DQ pairs; returns the number of quantised Linears.

    Raises `GraphError` with the name of the node that breaks a rule: not symmetric, an activation
    quantised per channel, a weight quantised per tensor, a product quantised on one side only, or a
    place that was not requested.
    """
    index, allowed = Index(model), places(model)
    readers = {"MatMul", *(_READERS[place] for place in allowed if place in _READERS)}
    dtypes = [number.dtype for number in NUMBERS.values()]
    for node in model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        zero = index.array(node.input[2]) if len(node.input) > 2 else None
        if zero is None or zero.dtype not in dtypes or zero.astype(np.float32).any():
            raise GraphError(f"{node.name} is not symmetric INT8 or FP8", _HINT)
        scale = index.array(node.input[1])
        if not (scale > 0).all():
            raise GraphError(f"{node.name} has a scale that is not positive", _HINT)
        weight = node.input[0] in index.weights
        if node.op_type == "QuantizeLinear" and not weight and scale.size != 1:
            raise GraphError(f"{node.name} quantises an activation per channel", _HINT)
        for reader in index.readers.get(node.output[0], ()):
            if node.op_type == "DequantizeLinear" and reader.op_type not in readers:
                raise GraphError(
                    f"{node.name} feeds {reader.op_type} {reader.name}, not a Linear's MatMul",
                    _HINT,
                )
    return sum(_is_linear(index, node, allowed) for node in model.graph.node)


def _is_linear(index: Index, node: NodeProto, allowed: Collection[str]) -> bool:
    """Whether a node is a quantised Linear. Raises `GraphError` when it breaks a rule."""
    if node.op_type != "MatMul":
        return False
    makers = [index.maker.get(name) for name in node.input]
    dequantised = [m for m in makers if m is not None and m.op_type == "DequantizeLinear"]
    if not dequantised:
        return False
    constant = [maker for maker in dequantised if _is_constant(index, maker)]
    if len(dequantised) != 2:
        raise GraphError(f"{node.name} is quantised on one side only", _HINT)
    if not constant and "attention" in allowed:
        return False
    if len(constant) != 1:
        raise GraphError(f"{node.name} multiplies two activations, both quantised", _HINT)
    if index.array(constant[0].input[1]).ndim != 1:
        raise GraphError(f"{node.name} has a weight that is not per output channel", _HINT)
    return True


def _is_constant(index: Index, restore: NodeProto) -> bool:
    """Whether a DequantizeLinear reads a weight: a stored one, or one quantised in the graph."""
    source = restore.input[0]
    maker = index.maker.get(source)
    return source in index.weights or (maker is not None and maker.input[0] in index.weights)


def add(
    model: ModelProto, peaks: Mapping[str, float], where: Collection[str], number: Number = INT8
) -> ModelProto:
    """A copy of the graph with further `PLACES` quantised, and listed in its metadata.

    peaks: the largest absolute value of each tensor of this graph on real images (`fp16.peaks`).
    where: names of `PLACES`. Raises `GraphError` for a place that this graph does not have.
    """
    result = ModelProto()
    result.CopyFrom(model)
    index = Index(result)
    targets = {place: list(_targets(index, place)) for place in where}
    if empty := sorted(place for place, found in targets.items() if not found):
        raise GraphError(f"the graph has no {empty[0]} to quantise", "leave it out of --also")
    before: dict[str, list[NodeProto]] = {}
    pairs: dict[str, str] = {}
    for node, position in (each for found in targets.values() for each in found):
        name = node.input[position]
        new = before.setdefault(node.output[0], [])
        if name in index.weights:
            axis = 1 if node.op_type == "MatMul" else 0  # Gemm's weight is [outputs, inputs]
            new.append(_weight(result, index, name, axis, number))
        elif name not in pairs:
            new += _pair(result, name, peaks[name], number)
        pairs[name] = f"{name}_restored"
        node.input[position] = pairs[name]
    nodes: list[NodeProto] = []
    for node in result.graph.node:
        nodes += [*before.get(node.output[0], ()), node]
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del result.graph.node[:]
    result.graph.node.extend(copies)
    graph.set_metadata(result, {**graph.metadata(result), KEY: sorted(where)})
    check(result)
    return result


def _targets(index: Index, place: str) -> Iterator[tuple[NodeProto, int]]:
    """The inputs that a place quantises: (node, position)."""
    images = {value.name for value in index.model.graph.input}
    logits = {value.name for value in index.model.graph.output}
    for node in index.model.graph.node:
        takes_two = {
            "patch": node.op_type == "Conv" and node.input[0] in images,
            "head": node.op_type == "Gemm" and node.output[0] in logits,
            "attention": False,
            "residual": _is_residual(index, node),
        }
        if takes_two[place]:
            yield from ((node, 0), (node, 1))
        elif place == "attention" and node.op_type == "Softmax":
            product = index.maker[node.input[0]]
            if product.op_type == "Add":  # adds relative positions or a mask
                product = next(index.maker[n] for n in product.input if n in index.maker)
            yield from ((product, 0), (product, 1))
            for reader in index.readers[node.output[0]]:
                yield from ((reader, 0), (reader, 1))


def _is_residual(index: Index, node: NodeProto) -> bool:
    """Whether a node adds a block's output to the block's input."""
    if node.op_type != "Add" or any(name in index.weights for name in node.input):
        return False
    return any(
        reader.op_type == "LayerNormalization" for reader in index.readers.get(node.output[0], ())
    )


def _pair(model: ModelProto, name: str, amax: float, number: Number) -> list[NodeProto]:
    """The Q/DQ pair of an activation, with its constants added to the graph."""
    names = [f"{name}_q_scale", f"{name}_q_zero"]
    zero = np.zeros((), number.dtype)
    model.graph.initializer.extend(
        [
            numpy_helper.from_array(number.scale(amax), names[0]),
            numpy_helper.from_array(zero, names[1]),
        ]
    )
    small, restored = f"{name}_small", f"{name}_restored"
    return [
        helper.make_node("QuantizeLinear", [name, *names], [small], f"{name}_Q"),
        helper.make_node("DequantizeLinear", [small, *names], [restored], f"{name}_DQ"),
    ]


def _weight(model: ModelProto, index: Index, name: str, axis: int, number: Number) -> NodeProto:
    """Replace a weight by its quantised values; returns its DequantizeLinear."""
    values = index.array(name).astype(np.float32)
    others = tuple(at for at in range(values.ndim) if at != axis)
    scale = number.scale(np.abs(values).max(axis=others))
    shape = [-1 if at == axis else 1 for at in range(values.ndim)]
    names = [f"{name}_small", f"{name}_q_scale", f"{name}_q_zero"]
    model.graph.initializer.remove(index.weights[name])
    model.graph.initializer.extend(
        [
            numpy_helper.from_array(number.store(values, scale.reshape(shape)), names[0]),
            numpy_helper.from_array(scale, names[1]),
            numpy_helper.from_array(np.zeros(scale.shape, number.dtype), names[2]),
        ]
    )
    return helper.make_node(
        "DequantizeLinear", names, [f"{name}_restored"], f"{name}_DQ", axis=axis
    )
