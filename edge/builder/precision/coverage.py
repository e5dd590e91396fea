"""Coverage: how many matrix products of each kind are quantised in a graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from onnx import ModelProto, NodeProto, TensorProto

from edge.builder.graph import Index
from edge.builder.precision.sites import roles
from edge.errors import GraphError

__all__ = ["Count", "census", "in_words"]

_PRODUCTS = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True)
class Count:
    """The number of products of a kind, and how many of them are quantised."""

    quantised: int
    all: int


def census(model: ModelProto) -> dict[str, Count]:
    """The products of an FP32 or Q/DQ graph: kind -> count, in graph order.

    Kinds are the Linears' roles (`sites.roles`), "convolution", "attention" (a product of two
    activations) and "classifier" (any other with a constant weight).
    """
    restored = {
        node.output[0]: node.input[0]
        for node in model.graph.node
        if node.op_type == "DequantizeLinear"
    }
    plain = _without_qdq(model, restored)
    index = Index(plain)
    try:
        linear_roles = roles(plain)
    except GraphError:  # the graph has no Linear
        linear_roles = {}
    found: dict[str, Count] = {}
    originals = {node.name: node for node in model.graph.node}
    for node in plain.graph.node:
        if node.op_type not in _PRODUCTS:
            continue
        kind = _kind(index, node, linear_roles)
        before = found.get(kind, Count(0, 0))
        quantised = all(name in restored for name in originals[node.name].input[:2])
        found[kind] = Count(before.quantised + quantised, before.all + 1)
    return found


def in_words(counts: Mapping[str, Count]) -> str:
    """Counts as text, such as "12 of 12 qkv, 0 of 1 convolution"."""
    return ", ".join(f"{count.quantised} of {count.all} {kind}" for kind, count in counts.items())


def _kind(index: Index, node: NodeProto, linear_roles: Mapping[str, str]) -> str:
    if node.name in linear_roles:
        return linear_roles[node.name].partition("/")[2].partition(".")[0]
    if node.op_type == "Conv":
        return "convolution"
    return "classifier" if any(name in index.weights for name in node.input[:2]) else "attention"


def _without_qdq(model: ModelProto, restored: Mapping[str, str]) -> ModelProto:
    """The graph without Q/DQ nodes, and without the data of its weights."""
    sources = dict(restored)
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            sources[node.output[0]] = node.input[0]
    plain = ModelProto()
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            continue
        copy = plain.graph.node.add()
        copy.CopyFrom(node)
        for position, name in enumerate(copy.input):
            while name in sources:
                name = sources[name]
            copy.input[position] = name
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.INT64:  # the sizes of Splits are needed
            plain.graph.initializer.add().CopyFrom(tensor)
        else:
            plain.graph.initializer.add(
                name=tensor.name, dims=tensor.dims, data_type=tensor.data_type
            )
    return plain
