"""Quantisation: FP32 graph and ranges -> Q/DQ graph.

The graph itself defines the precision, since TensorRT 11 supports nothing else: with Q/DQ pairs and
calibrated scales here, with FP16 types in `fp16`. The transformer's Linears get the pairs
(`placement`): one shared pair on a LayerNorm output that feeds q, k and v; one after GELU, directly
before fc2. Activations are quantised per tensor, weights per output channel; symmetric INT8 or FP8,
zero point 0.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edge.builder.graph import Index, compact
from edge.builder.precision.dtypes import FP8, INT8, Number
from edge.builder.precision.migrate import add_to_bias, migrate
from edge.builder.precision.placement import check
from edge.builder.precision.range_search import quantized_weight
from edge.builder.precision.ranges import Range
from edge.builder.precision.sites import Linear, linears
from edge.errors import GraphError

__all__ = ["Quantized", "quantized", "to_qdq"]


@dataclass(frozen=True)
class Quantized:
    """The quantised weight of a Linear, and the correction of its bias."""

    stored: npt.NDArray[Any]  # INT8 or FP8 [inputs, outputs]
    scale: npt.NDArray[np.float32]  # [outputs]
    correction: npt.NDArray[np.float64]  # [outputs], to be added to the output

    @property
    def restored(self) -> npt.NDArray[np.float32]:
        """The weight after quantisation, as float32 [inputs, outputs]."""
        return np.asarray(self.stored.astype(np.float32) * self.scale)


def quantized(
    model: ModelProto, ranges: Mapping[str, Range], number: Number = INT8
) -> dict[str, Quantized]:
    """The quantised weight of each Linear of a migrated graph, by its MatMul's name.

    The bias is corrected by the mean error of quantising weight and activation to INT8 (arXiv
    1906.04721, 4.2). This correction and the clipping of weights were measured for INT8 only; FP8
    has neither.
    """
    index, found = Index(model), {}
    first: dict[str, int] = {}  # activation -> start of the next Linear in the site's `clip`
    for linear in linears(model):
        if number is FP8:
            weight = index.array(linear.weight).astype(np.float32)
            scale = number.scale(np.abs(weight).max(axis=0))
            found[linear.node.name] = Quantized(
                number.store(weight, scale), scale, np.zeros(weight.shape[1])
            )
            continue
        range_, weight = ranges[linear.activation], index.array(linear.weight).astype(np.float32)
        begin = first.get(linear.activation, 0)
        first[linear.activation] = begin + weight.shape[1]
        clip = np.array(range_.clip[begin : begin + weight.shape[1]], np.float32)
        stored, scale = quantized_weight(weight, clip if range_.clip else None)
        correction = np.zeros(weight.shape[1])
        if range_.error:
            restored = (stored * scale).astype(np.float64)
            correction -= np.array(range_.error) @ restored
            correction -= np.array(range_.mean) @ (restored - weight)
        found[linear.node.name] = Quantized(stored, scale, correction)
    return found


def to_qdq(
    model: ModelProto,
    ranges: Mapping[str, Range],
    kept: Collection[str] = (),
    number: Number = INT8,
) -> ModelProto:
    """Migrate outliers and quantise the transformer's Linears; everything else stays FP32.

    ranges: activation -> range. kept: MatMuls of Linears that are not quantised. Raises
    `GraphError` when either does not belong to this graph.
    """
    result, ranges = migrate(model, ranges)
    parts = quantized(result, ranges, number)
    if unknown := set(kept) - set(parts):
        raise GraphError(f"there is no Linear {sorted(unknown)[0]}", "see edge inspect")
    targets = [linear for linear in linears(result) if linear.node.name not in kept]
    index = Index(result)
    pairs: dict[str, list[NodeProto]] = {}
    before: dict[str, list[NodeProto]] = {}  # MatMul -> new nodes before it
    for linear in targets:
        part = parts[linear.node.name]
        new: list[NodeProto] = []
        if linear.activation not in pairs:  # q, k and v share one pair
            range_ = ranges[linear.activation]
            # The clipped range was chosen for INT8; FP8 has a larger dynamic range and clips none.
            amax = range_.largest if number is FP8 else range_.amax
            new += _activation_pair(result, linear.activation, amax, number)
            pairs[linear.activation] = new[:]
        if part.correction.any():
            add_to_bias(result, linear, part.correction)
        new.append(_weight(result, index, linear, part, number))
        linear.node.input[0] = pairs[linear.activation][1].output[0]
        linear.node.input[1] = new[-1].output[0]
        before[linear.node.name] = new
    nodes: list[NodeProto] = []
    for node in result.graph.node:
        nodes += [*before.get(node.name, ()), node]
    _replace_nodes(result, nodes)
    check(result)
    return compact(result)


def _activation_pair(
    model: ModelProto, tensor: str, amax: float, number: Number
) -> list[NodeProto]:
    """QuantizeLinear and DequantizeLinear for one activation, per tensor."""
    names = [f"{tensor}_scale", f"{tensor}_zero"]
    model.graph.initializer.extend(
        [numpy_helper.from_array(number.scale(amax), names[0]), _zero(names[1], (), number)]
    )
    quantised, restored = f"{tensor}_{number.name.lower()}", f"{tensor}_dequantized"
    quantise = helper.make_node("QuantizeLinear", [tensor, *names], [quantised], f"{tensor}_Q")
    restore = helper.make_node("DequantizeLinear", [quantised, *names], [restored], f"{tensor}_DQ")
    return [quantise, restore]


def _weight(
    model: ModelProto, index: Index, linear: Linear, part: Quantized, number: Number
) -> NodeProto:
    """Add the quantised weight to the graph; returns its DequantizeLinear.

    The float weight is removed when no other node reads it. The INT8 or FP8 values themselves are
    stored, a quarter of the file size of floats behind a QuantizeLinear; only this function decides
    that.
    """
    name = linear.weight if len(index.readers[linear.weight]) == 1 else linear.node.name
    names = [f"{name}_{number.name.lower()}", f"{name}_scale", f"{name}_zero"]
    if name == linear.weight:
        model.graph.initializer.remove(index.weights[name])
    model.graph.initializer.extend(
        [
            numpy_helper.from_array(part.stored, names[0]),
            numpy_helper.from_array(part.scale, names[1]),
            _zero(names[2], part.scale.shape, number),
        ]
    )
    return helper.make_node(
        "DequantizeLinear", names, [f"{name}_dequantized"], f"{name}_DQ", axis=1
    )


def _zero(name: str, shape: tuple[int, ...], number: Number) -> TensorProto:
    return numpy_helper.from_array(np.zeros(shape, number.dtype), name)


def _replace_nodes(model: ModelProto, nodes: list[NodeProto]) -> None:
    copies = [NodeProto() for _ in nodes]
    for copy, node in zip(copies, nodes, strict=True):
        copy.CopyFrom(node)
    del model.graph.node[:]
    model.graph.node.extend(copies)
