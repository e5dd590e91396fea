"""Graph + ranges -> Q/DQ graph: pure graph surgery.

Precision lives in the graph, since TensorRT 11 builds nothing else: Q/DQ pairs with calibrated
scales here, FP16 types in `fp16`. Where the pairs stand decides what they cost (reference:
NVIDIA's "Working with quantized types"; onnxsim PR 1742 measured 85 % -> 5 % top-1 for a Q/DQ on
the residual adds):

* on the activation and the weight of the transformer's Linears, and nowhere else;
* one shared pair on a LayerNorm output that feeds q, k and v; after GELU, right before fc2;
* activations per tensor, weights per output channel, symmetric INT8, zero point 0.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edge.build.graph import Index
from edge.build.migrate import add_to_bias, migrate
from edge.build.ranges import Range
from edge.build.search import quantized_weight, steps
from edge.build.sites import Linear, linears
from edge.errors import GraphError

__all__ = ["Quantized", "check_placement", "quantized", "to_int8"]


@dataclass(frozen=True)
class Quantized:
    """A Linear's weight as INT8, and what its bias must take."""

    stored: npt.NDArray[np.int8]  # [inputs, outputs]
    scale: npt.NDArray[np.float32]  # [outputs]
    correction: npt.NDArray[np.float64]  # [outputs], to be added to the output

    @property
    def restored(self) -> npt.NDArray[np.float32]:
        """The weight as INT8 represents it, [inputs, outputs]."""
        return np.asarray(self.stored * self.scale, np.float32)


def quantized(model: ModelProto, ranges: Mapping[str, Range]) -> dict[str, Quantized]:
    """The weight of each Linear of a migrated graph as INT8, by its MatMul's name.

    Its bias takes the mean error that quantising weight and activation makes (arXiv 1906.04721,
    4.2).
    """
    index, found = Index(model), {}
    first: dict[str, int] = {}  # in a site's `clip` its Linears follow each other
    for linear in linears(model):
        known, weight = ranges[linear.activation], index.array(linear.weight).astype(np.float32)
        begin = first.get(linear.activation, 0)
        first[linear.activation] = begin + weight.shape[1]
        clip = np.array(known.clip[begin : begin + weight.shape[1]], np.float32)
        stored, scale = quantized_weight(weight, clip if known.clip else None)
        correction = np.zeros(weight.shape[1])
        if known.error:
            restored = (stored * scale).astype(np.float64)
            correction -= np.array(known.error) @ restored
            correction -= np.array(known.mean) @ (restored - weight)
        found[linear.node.name] = Quantized(stored, scale, correction)
    return found


def to_int8(
    model: ModelProto, ranges: Mapping[str, Range], kept: Collection[str] = ()
) -> ModelProto:
    """Migrate outliers, and put Q/DQ on the transformer's Linears; the rest stays FP32.

    ranges: by activation. kept: MatMuls of Linears that are not quantised. Raises `GraphError`
    when either is not of this graph.
    """
    result, ranges = migrate(model, ranges)
    parts = quantized(result, ranges)
    if unknown := set(kept) - set(parts):
        raise GraphError(f"there is no Linear {sorted(unknown)[0]}", "see edge inspect")
    targets = [linear for linear in linears(result) if linear.node.name not in kept]
    index = Index(result)
    pairs: dict[str, list[NodeProto]] = {}
    before: dict[str, list[NodeProto]] = {}  # MatMul -> what stands before it
    for linear in targets:
        part = parts[linear.node.name]
        new: list[NodeProto] = []
        if linear.activation not in pairs:  # q, k and v share one pair
            new += _activation_pair(result, linear.activation, ranges[linear.activation])
            pairs[linear.activation] = new[:]
        if part.correction.any():
            add_to_bias(result, linear, part.correction)
        new.append(_weight(result, index, linear, part))
        linear.node.input[0] = pairs[linear.activation][1].output[0]
        linear.node.input[1] = new[-1].output[0]
        before[linear.node.name] = new
    nodes: list[NodeProto] = []
    for node in result.graph.node:
        nodes += [*before.get(node.name, ()), node]
    _replace_nodes(result, nodes)
    check_placement(result)
    return result


def _activation_pair(model: ModelProto, tensor: str, known: Range) -> list[NodeProto]:
    """QuantizeLinear and DequantizeLinear for one activation, per tensor."""
    names = [f"{tensor}_scale", f"{tensor}_zero"]
    model.graph.initializer.extend(
        [numpy_helper.from_array(np.array(steps(known.amax)), names[0]), _zero(names[1], ())]
    )
    quantised, restored = f"{tensor}_int8", f"{tensor}_dequantized"
    quantise = helper.make_node("QuantizeLinear", [tensor, *names], [quantised], f"{tensor}_Q")
    restore = helper.make_node("DequantizeLinear", [quantised, *names], [restored], f"{tensor}_DQ")
    return [quantise, restore]


def _weight(model: ModelProto, index: Index, linear: Linear, part: Quantized) -> NodeProto:
    """Put an INT8 weight beside a float one, which goes when nobody reads it; its
    DequantizeLinear.

    The INT8 numbers themselves are stored (a quarter of the file) rather than floats behind a
    QuantizeLinear; whether to do so is decided here and nowhere else.
    """
    name = linear.weight if len(index.readers[linear.weight]) == 1 else linear.node.name
    names = [f"{name}_int8", f"{name}_scale", f"{name}_zero"]
    if name == linear.weight:
        model.graph.initializer.remove(index.weights[name])
    model.graph.initializer.extend(
        [
            numpy_helper.from_array(part.stored, names[0]),
            numpy_helper.from_array(part.scale, names[1]),
            _zero(names[2], part.scale.shape),
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


def _replace_nodes(model: ModelProto, nodes: list[NodeProto]) -> None:
    copies = [NodeProto() for _ in nodes]
    for copy, node in zip(copies, nodes, strict=True):
        copy.CopyFrom(node)
    del model.graph.node[:]
    model.graph.node.extend(copies)
