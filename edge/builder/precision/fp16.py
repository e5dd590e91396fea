"""FP16 conversion of graphs, and the choice of the nodes that must stay FP32.

FP16 ends at 65504 and loses precision below 2**-14; the activations of large ViTs exceed both
limits. `peaks` measures them on real images, `find_fp32_nodes` names the nodes that must stay FP32,
and `to_fp16` keeps those nodes in FP32, together with the operators that sum many values
(LayerNorm, Softmax, norms). The list is stored in the graph's metadata (`set_kept`, `kept`), since
a board casts the portable graph without any images.

Casts are explicit and strongly typed, as TensorRT requires: QuantizeLinear reads the type of its
scale, and DequantizeLinear writes it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edge.builder import graph
from edge.errors import CalibrationError, GraphError

__all__ = ["MARGIN", "find_fp32_nodes", "kept", "peaks", "set_kept", "to_fp16"]

# Sums over many squares or exponentials: computed in FP32 inside an FP16 graph.
FP32_OPERATORS = (
    "InstanceNormalization",
    "LayerNormalization",
    "LpNormalization",
    "ReduceL2",
    "Softmax",
)
LARGEST = 65504.0  # of FP16
SMALLEST = 2.0**-14  # of FP16's normal numbers; below, precision is lost or a GPU flushes to zero
MARGIN = 4.0  # two of FP16's 15 exponents: other images may have larger values
ROUNDED = 2.0**-3  # a sum this large has steps of 2**-13, in which SMALLEST is lost anyway
KEY = "fp32_nodes"  # of the graph's metadata

_ANY_TYPE = ("Cast", "Shape", "Size")  # read floats of any type
_PRODUCTS = ("Conv", "Gemm", "MatMul")  # faster in FP16
# Read constants or INT8: duplicated for each type that is read, instead of cast.
_EITHER_TYPE = ("Constant", "DequantizeLinear")
_SUFFIX = {TensorProto.FLOAT: "fp32", TensorProto.FLOAT16: "fp16"}

Tensor = npt.NDArray[np.float32]


def peaks(
    model: ModelProto,
    images: Iterable[Tensor],
    progress: Callable[[int], None] = lambda _: None,
) -> dict[str, float]:
    """The largest absolute value of the images and of each float tensor that a node writes.

    model: FP32, or FP32 with Q/DQ. images: prepared images, float32 [3, H, W] each, streamed.
    progress: called with the number of images that have run. Only scalars leave the graph, so
    memory does not grow with the images. Raises `CalibrationError` for NaN or infinity, and when
    there is no image.
    """
    floats = graph.floats(model)
    names = [name for node in model.graph.node for name in node.output if name in floats]
    probed = graph.skeleton(model)
    wanted = []
    for name in names:
        size, peak, total = (f"{name}_{what}" for what in ("size", "peak", "total"))
        probed.graph.node.extend(
            [
                helper.make_node("Abs", [name], [size], size),
                helper.make_node("ReduceMax", [size], [peak], peak, keepdims=0),
                # onnxruntime's ReduceMax ignores NaN, a sum does not.
                helper.make_node("ReduceSum", [size], [total], total, keepdims=0),
            ]
        )
        wanted += [peak, total]
    probed.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, []) for name in wanted
    )
    session = graph.session(probed, weights=model)
    found = dict.fromkeys(names, 0.0)
    ran = 0
    for image in images:
        largest = float(np.abs(image).max())
        found[session.input] = max(found.get(session.input, 0.0), largest)
        values = session.run(image[None], wanted)
        for name, peak, total in zip(names, values[::2], values[1::2], strict=True):
            if not np.isfinite(peak) or np.isnan(total):
                raise CalibrationError(
                    f"{name} is NaN or infinity on image {ran + 1}",
                    "check the checkpoint's weights and the image",
                )
            found[name] = max(found[name], float(peak))
        ran += 1
        progress(ran)
    if not ran:
        raise CalibrationError(
            "no image could be read to measure the range that FP16 needs",
            "give other images: --calibration DIR",
        )
    return found


def find_fp32_nodes(model: ModelProto, peaks: Mapping[str, float]) -> dict[str, str]:
    """The nodes that must stay FP32 in an FP16 graph: name -> reason.

    peaks: of the tensors of this graph. A node must stay FP32 when a tensor that it reads or writes
    comes within `MARGIN` of FP16's largest number or is smaller than its smallest normal one. The
    same holds for weights, but without the margin, as they do not depend on the image.
    """
    index = graph.Index(model)
    weights = {
        tensor.name: float(np.abs(values).max())
        for tensor in model.graph.initializer
        if tensor.data_type == TensorProto.FLOAT and (values := numpy_helper.to_array(tensor)).size
    }
    found: dict[str, str] = {}
    for node in model.graph.node:
        if node.op_type in FP32_OPERATORS:
            continue
        for name in (*node.input, *node.output):
            peak = weights.get(name, peaks.get(name, 0.0))
            what = f"the weight {name}" if name in weights else name
            if peak > (LARGEST if name in weights else LARGEST / MARGIN):
                found[node.name] = f"{what} reaches {peak:.6g}, FP16 holds {LARGEST:.0f}"
                break
            # A tiny weight matters to this node only, a tiny tensor to all nodes that read it.
            readers = [node] if name in weights else index.readers.get(name, [])
            if 0 < peak < SMALLEST and not (
                readers and all(_lost(reader, name, peaks) for reader in readers)
            ):
                found[node.name] = (
                    f"{what} reaches only {peak:.3g}, FP16 is exact from {SMALLEST:.3g}"
                )
                break
    return found


def _lost(node: NodeProto, name: str, peaks: Mapping[str, float]) -> bool:
    """Whether `node` only adds `name` to a sum so large that FP16 rounds it away anyway."""
    added = node.op_type in ("Add", "Sub") or (
        node.op_type in ("Conv", "Gemm") and name not in node.input[:2]
    )
    return added and peaks.get(node.output[0], 0.0) >= ROUNDED


def kept(model: ModelProto) -> dict[str, str]:
    """The nodes that the graph's metadata keeps FP32, {} without any: node -> reason.

    Raises `GraphError` if the list is damaged.
    """
    if all(item.key != graph.METADATA for item in model.metadata_props):
        return {}
    found = graph.metadata(model).get(KEY, {})
    if not isinstance(found, dict) or not all(isinstance(why, str) for why in found.values()):
        raise GraphError(
            "the graph's list of FP32 nodes is damaged", "build it again: edge build CHECKPOINT"
        )
    return found


def set_kept(model: ModelProto, fp32_nodes: Mapping[str, str]) -> None:
    """Store the nodes that stay FP32 in the graph's metadata; an empty list removes the entry.

    Raises `GraphError` when the graph has no metadata, which edge export writes.
    """
    data = {key: value for key, value in graph.metadata(model).items() if key != KEY}
    graph.set_metadata(model, {**data, KEY: dict(fp32_nodes)} if fp32_nodes else data)


def to_fp16(model: ModelProto, keep: Collection[str] = ()) -> ModelProto:
    """A copy of the graph that computes in FP16; inputs, outputs and `FP32_OPERATORS` stay FP32.

    keep: names of further nodes that compute and write FP32; FP16 nodes that read their outputs get
    casts. A DequantizeLinear has the type of its reader, so that no cast separates the two. Works
    for FP32 graphs and for the FP32 part of Q/DQ graphs. Raises `GraphError` for a weight that FP16
    cannot hold, unless only FP32 nodes read it, and for a name in `keep` that no node has.
    """
    unknown = set(keep) - {node.name for node in model.graph.node}
    if unknown:
        raise GraphError(
            f"{sorted(unknown)[0]} must stay FP32, but the graph has no such node",
            "build it again: edge build CHECKPOINT",
        )
    types = _Types(model, keep)
    result = ModelProto()
    result.CopyFrom(model)
    for tensor in list(result.graph.initializer):
        wanted = types.wanted.get(tensor.name, set())
        if TensorProto.FLOAT16 not in wanted:
            continue
        half = _half(tensor)
        half.name = types.name(tensor.name, TensorProto.FLOAT16)
        if TensorProto.FLOAT in wanted:  # read by both: a copy for each
            copy = result.graph.initializer.add()
            copy.CopyFrom(tensor)
            copy.name = types.name(tensor.name, TensorProto.FLOAT)
        tensor.CopyFrom(half)
    nodes = [cast for value in model.graph.input for cast in types.casts(value.name)]
    for node, kinds in zip(model.graph.node, types.nodes, strict=True):
        nodes += [_typed(node, kind, types) for kind in kinds]
        if node.op_type not in _EITHER_TYPE:
            nodes += [cast for name in node.output for cast in types.casts(name)]
    del result.graph.value_info[:]
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    return graph.compact(result)


class _Types:
    """The type that each node computes in, and the types in which each float tensor is read.

    nodes: the types of each node, in graph order. wanted: tensor -> types in which it is read.
    made: tensor -> type in which it is written.
    """

    def __init__(self, model: ModelProto, keep: Collection[str]):
        self.index = graph.Index(model)
        self.floats = graph.floats(model)
        self.keep = set(keep)
        self.fixed = {value.name for value in (*model.graph.input, *model.graph.output)}
        self.wanted: dict[str, set[int]] = {}
        self.made: dict[str, int] = {value.name: TensorProto.FLOAT for value in model.graph.input}
        for value in model.graph.output:
            self._want(value.name, TensorProto.FLOAT)
        # Backwards, since the type of some nodes depends on their readers.
        self.nodes = [self._node(node) for node in reversed(model.graph.node)][::-1]

    def _want(self, name: str, kind: int) -> None:
        if name in self.floats:
            self.wanted.setdefault(name, set()).add(kind)

    def _node(self, node: NodeProto) -> list[int]:
        """The types of a node (two: it is duplicated); records the types of what it reads."""
        if node.op_type in _EITHER_TYPE:
            kinds = sorted(self.wanted.get(node.output[0], {TensorProto.FLOAT16}))
        else:
            kinds = [TensorProto.FLOAT if self._stays(node) else TensorProto.FLOAT16]
            self.made.update(dict.fromkeys(node.output, kinds[0]))
        if node.op_type not in _ANY_TYPE:
            for name in node.input:
                for kind in kinds:
                    self._want(name, kind)
        return kinds

    def _stays(self, node: NodeProto) -> bool:
        """Whether a node computes in FP32."""
        if node.name in self.keep or node.op_type in FP32_OPERATORS:
            return True
        if node.op_type == "QuantizeLinear":  # has the type of the Linear behind it
            restored = [reader.output[0] for reader in self.index.readers.get(node.output[0], ())]
            return any(TensorProto.FLOAT in self.wanted.get(name, ()) for name in restored)
        if node.op_type in _PRODUCTS:
            return False
        # A node between two FP32 nodes, such as a shift that was inserted later, is FP32, too.
        maker = self.index.maker
        makers = [maker[name] for name in node.input if name in self.floats and name in maker]
        return (
            bool(makers)
            and all(other.name in self.keep for other in makers)
            and all(self.wanted.get(name) == {TensorProto.FLOAT} for name in node.output)
        )

    def name(self, tensor: str, kind: int | None) -> str:
        """The tensor's name in type `kind`; None: its own name."""
        if tensor not in self.floats or kind is None:
            return tensor
        own = self.made.get(tensor)
        if tensor in self.fixed:
            own = TensorProto.FLOAT
        elif own is None:  # a constant
            halved = TensorProto.FLOAT16 in self.wanted.get(tensor, {TensorProto.FLOAT16})
            own = TensorProto.FLOAT16 if halved else TensorProto.FLOAT
        return tensor if kind == own else f"{tensor}_{_SUFFIX[kind]}"

    def casts(self, tensor: str) -> list[NodeProto]:
        """One Cast for each type in which the tensor is read but not written."""
        made = self.made.get(tensor)
        source = self.name(tensor, made)
        return [
            helper.make_node("Cast", [source], [target], f"{target}_cast", to=kind)
            for kind in sorted(self.wanted.get(tensor, set()) - {made})
            for target in [self.name(tensor, kind)]
        ]


def _typed(node: NodeProto, kind: int, types: _Types) -> NodeProto:
    """A copy of the node that computes in one type."""
    copy = NodeProto()
    copy.CopyFrom(node)
    reads = None if node.op_type in _ANY_TYPE else kind
    copy.input[:] = [types.name(name, reads) for name in node.input]
    copy.output[:] = [types.name(name, kind) for name in node.output]
    if node.op_type in _EITHER_TYPE and copy.output[0] != node.output[0]:
        copy.name = f"{node.name}_{_SUFFIX[kind]}"  # the second of two
    for attribute in copy.attribute:
        if kind == TensorProto.FLOAT16 and attribute.t.data_type == TensorProto.FLOAT:
            attribute.t.CopyFrom(_half(attribute.t))
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
            attribute.i = kind
    return copy


def _half(tensor: TensorProto) -> TensorProto:
    values: npt.NDArray[np.float32] = numpy_helper.to_array(tensor)
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    if not np.isfinite(half).all():
        raise GraphError(
            f"the weight {tensor.name} reaches {abs(values).max():.3g}, FP16 holds 65504",
            "build in FP32 or INT8: --precision fp32",
        )
    return numpy_helper.from_array(half, tensor.name)
