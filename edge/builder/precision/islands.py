"""Islands: parts of a graph that compute in another type than the rest, with casts around them.

Some versions of TensorRT compile parts of a transformer wrongly in FP16. Such a part can run in
BF16, which has the exponents of FP32, or in FP32. Softmax and LayerNorm are FP32 in an FP16 graph
already (`fp16.to_fp16`): what an island adds are the products and sums beside them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import ml_dtypes
import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edge.builder import graph

__all__ = ["attention_core", "in_type", "residual_stream"]

_FLOATS = {
    TensorProto.FLOAT: np.dtype(np.float32),
    TensorProto.FLOAT16: np.dtype(np.float16),
    TensorProto.BFLOAT16: np.dtype(ml_dtypes.bfloat16),
}
# Between the two products of attention, beside the softmax: scale, bias, mask, casts, windows.
_BETWEEN = ("Add", "Cast", "Div", "Mul", "Reshape", "Softmax")


def attention_core(model: ModelProto) -> set[str]:
    """The names of the nodes of attention: its two products and all between them."""
    index, found = graph.Index(model), set[str]()
    for node in model.graph.node:
        if node.op_type != "Softmax":
            continue
        before = list(_to_products(index, node, down=False))
        after = list(_to_products(index, node, down=True))
        # A softmax that does not stand between two products is not attention.
        if any(one.op_type == "MatMul" for one in before) and any(
            one.op_type == "MatMul" for one in after
        ):
            found.update(one.name for one in (node, *before, *after))
    return found


def _to_products(index: graph.Index, start: NodeProto, *, down: bool) -> Iterator[NodeProto]:
    """The nodes from `start` up to the next products, these included."""
    waiting = [start]
    while waiting:
        node = waiting.pop()
        if down:
            beside = [reader for name in node.output for reader in index.readers.get(name, ())]
        else:
            beside = [index.maker[name] for name in node.input if name in index.maker]
        for other in beside:
            yield other
            if other.op_type in _BETWEEN:
                waiting.append(other)


def residual_stream(model: ModelProto) -> set[str]:
    """The names of all LayerNormalizations, and of the Adds whose sums they normalise."""
    index, found = graph.Index(model), set[str]()
    for node in model.graph.node:
        if node.op_type != "LayerNormalization":
            continue
        found.add(node.name)
        maker = index.maker.get(node.input[0])
        while maker is not None and maker.op_type in ("Add", "Cast"):
            found.add(maker.name)
            if maker.op_type == "Add":
                break
            maker = index.maker.get(maker.input[0])
    return found


def in_type(model: ModelProto, nodes: Collection[str], kind: int) -> ModelProto | None:
    """A copy of a graph in which `nodes` compute in `kind`; None if all of them do already.

    nodes: names. kind: FLOAT or BFLOAT16 of `TensorProto`. Casts between floats among the nodes go;
    constants are converted; integers, such as shapes, stay as they are.
    """
    return _Island(model, set(nodes), kind).copy()


class _Island:
    def __init__(self, model: ModelProto, nodes: set[str], kind: int):
        self._model, self._kind = model, kind
        self._types = graph.types(model)
        self._weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self._nodes = {
            node.name for node in model.graph.node if node.name in nodes and self._is_float(node)
        }
        self._names: dict[str, str] = {}  # tensor -> its name in the island's type
        self._more: list[TensorProto] = []

    def copy(self) -> ModelProto | None:
        inside = [node for node in self._model.graph.node if node.name in self._nodes]
        if all(
            self._types.get(name, self._kind) == self._kind
            for node in inside
            if node.op_type != "Cast"
            for name in (*node.input, *node.output)
            if self._types.get(name) in _FLOATS
        ):
            return None
        outside = {name for one in self._model.graph.output for name in (one.name,)}
        for node in self._model.graph.node:
            if node.name not in self._nodes:
                outside.update(node.input)
        nodes: list[NodeProto] = []
        for node in self._model.graph.node:
            if node.name not in self._nodes:
                nodes.append(node)
                continue
            reads = []
            for name in node.input:
                nodes += self._enter(name)
                reads.append(self._names.get(name, name))
            if node.op_type == "Cast":
                self._names[node.output[0]] = reads[0]
            else:
                made = NodeProto()
                made.CopyFrom(node)
                made.input[:] = reads
                self._names |= {name: f"{name}_island" for name in node.output}
                made.output[:] = [self._names[name] for name in node.output]
                nodes.append(made)
            for name in node.output:
                if name in outside:
                    to = self._types[name]
                    cast = helper.make_node("Cast", [self._names[name]], [name], f"{name}_out")
                    cast.attribute.append(helper.make_attribute("to", to))
                    nodes.append(cast)
        result = graph.skeleton(self._model)
        del result.graph.node[:]
        del result.graph.value_info[:]
        result.graph.node.extend(nodes)
        result.graph.initializer.extend(self._model.graph.initializer)
        result.graph.initializer.extend(self._more)
        return result

    def _is_float(self, node: NodeProto) -> bool:
        return all(self._types.get(name) in _FLOATS for name in node.output)

    def _enter(self, name: str) -> list[NodeProto]:
        """What makes a float tensor from outside the island available in its type."""
        if name in self._names or self._types.get(name) not in _FLOATS:
            return []
        if self._types[name] == self._kind:
            self._names[name] = name
            return []
        self._names[name] = f"{name}_into_island"
        if name in self._weights:
            values = numpy_helper.to_array(self._weights[name]).astype(_FLOATS[self._kind])
            self._more.append(numpy_helper.from_array(values, self._names[name]))
            return []
        cast = helper.make_node("Cast", [name], [self._names[name]], self._names[name])
        cast.attribute.append(helper.make_attribute("to", self._kind))
        return [cast]
