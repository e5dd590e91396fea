"""FP32 graph -> FP16 graph that stays right: pure graph surgery, and what decides it.

FP16 ends at 65504 and loses precision below 2**-14; the activations of large ViTs reach beyond
either. `peaks` measures them on real images, `risks` names the nodes that must stay FP32, and
`to_fp16` keeps those, with what LayerNorm, Softmax and norms sum up, in FP32. The list travels in
the graph's metadata (`set_kept`, `kept`), since a board casts the portable graph without any image.

Casts are explicit and strongly typed, as TensorRT wants them: QuantizeLinear reads, and
DequantizeLinear makes, the type of its scale.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edge.builder import graph
from edge.errors import CalibrationError, GraphError

__all__ = ["MARGIN", "kept", "peaks", "risks", "set_kept", "to_fp16"]

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
MARGIN = 4.0  # two of FP16's 15 exponents: pictures that were not measured reach further
ROUNDED = 2.0**-3  # a sum this large is rounded to steps of 2**-13: SMALLEST is lost in it anyway
KEY = "fp32_nodes"  # of the graph's metadata

_ANY_TYPE = ("Cast", "Shape", "Size")  # read floats of whatever type they are
_PRODUCTS = ("Conv", "Gemm", "MatMul")  # what FP16 makes faster
# Made from constants, or from INT8: in each type that is read, rather than cast.
_EITHER_TYPE = ("Constant", "DequantizeLinear")
_SUFFIX = {TensorProto.FLOAT: "fp32", TensorProto.FLOAT16: "fp16"}

Tensor = npt.NDArray[np.float32]


def peaks(
    model: ModelProto,
    pictures: Iterable[Tensor],
    progress: Callable[[int], None] = lambda _: None,
) -> dict[str, float]:
    """The largest absolute value of each float tensor that a node makes, and of the pictures.

    model: FP32, or FP32 with Q/DQ. pictures: prepared images, float32 [3, H, W] each, streamed;
    `progress` hears how many have run. Only scalars leave the graph, so memory does not grow with
    the images. Raises `CalibrationError` for NaN or infinity, and when there is no picture.
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
                # onnxruntime's ReduceMax passes over NaN, a sum does not.
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
    for picture in pictures:
        largest = float(np.abs(picture).max())
        found[session.input] = max(found.get(session.input, 0.0), largest)
        values = session.run(picture[None], wanted)
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
            "no image could be read to see how far FP16 must reach",
            "give other images: --calibration DIR",
        )
    return found


def risks(model: ModelProto, peaks: Mapping[str, float]) -> dict[str, str]:
    """The nodes that must stay FP32 in an FP16 graph, and why.

    peaks: of this very graph's tensors. A node is named with a tensor, read or made, that comes
    within `MARGIN` of FP16's end or is smaller than its normal numbers, and for such a weight
    (which no other picture changes: without a margin).
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
            # A tiny weight matters to the node it is for, a tiny tensor to all who read it.
            readers = [node] if name in weights else index.readers.get(name, [])
            if 0 < peak < SMALLEST and not (
                readers and all(_lost(reader, name, peaks) for reader in readers)
            ):
                found[node.name] = (
                    f"{what} reaches {peak:.3g} only, FP16 is exact from {SMALLEST:.3g}"
                )
                break
    return found


def _lost(node: NodeProto, name: str, peaks: Mapping[str, float]) -> bool:
    """Whether `name` is only added to what is so large that FP16 would round it away anyway."""
    added = node.op_type in ("Add", "Sub") or (
        node.op_type in ("Conv", "Gemm") and name not in node.input[:2]
    )
    return added and peaks.get(node.output[0], 0.0) >= ROUNDED


def kept(model: ModelProto) -> dict[str, str]:
    """The list of `risks` that the graph carries, or none. Raises `GraphError` if it is damaged."""
    if all(item.key != graph.METADATA for item in model.metadata_props):
        return {}
    found = graph.metadata(model).get(KEY, {})
    if not isinstance(found, dict) or not all(isinstance(why, str) for why in found.values()):
        raise GraphError(
            "the graph's list of FP32 nodes is damaged", "build it again: edge build CHECKPOINT"
        )
    return found


def set_kept(model: ModelProto, risks: Mapping[str, str]) -> None:
    """Write the list of `risks` into the graph's metadata; an empty one leaves no trace.

    Raises `GraphError` when the graph has no metadata: edge export makes it.
    """
    data = {key: value for key, value in graph.metadata(model).items() if key != KEY}
    graph.set_metadata(model, {**data, KEY: dict(risks)} if risks else data)


def to_fp16(model: ModelProto, keep: Collection[str] = ()) -> ModelProto:
    """Compute in FP16; inputs and outputs stay FP32, and so do `FP32_OPERATORS` inside.

    keep: names of more nodes that compute, and make what they make, in FP32; others cast what they
    read of it. A DequantizeLinear has the type of who reads it, so that no cast parts the two. The
    same for an FP32 graph and for the FP32 rest of a Q/DQ graph. Raises `GraphError` for a weight
    that FP16 cannot hold, unless only FP32 nodes read it, and for a name that no node has.
    """
    unknown = set(keep) - {node.name for node in model.graph.node}
    if unknown:
        raise GraphError(
            f"{sorted(unknown)[0]} shall stay FP32, and the graph has no such node",
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
    """The type that each node computes in, and the types in which each float tensor is read."""

    def __init__(self, model: ModelProto, keep: Collection[str]):
        self.index = graph.Index(model)
        self.floats = graph.floats(model)
        self.keep = set(keep)
        self.fixed = {value.name for value in (*model.graph.input, *model.graph.output)}
        self.wanted: dict[str, set[int]] = {}
        self.made: dict[str, int] = {value.name: TensorProto.FLOAT for value in model.graph.input}
        for value in model.graph.output:
            self._want(value.name, TensorProto.FLOAT)
        # Backwards, since some nodes go by who reads them.
        self.nodes = [self._node(node) for node in reversed(model.graph.node)][::-1]

    def _want(self, name: str, kind: int) -> None:
        if name in self.floats:
            self.wanted.setdefault(name, set()).add(kind)

    def _node(self, node: NodeProto) -> list[int]:
        """The type of a node, or two when a node of each is needed; notes what it reads."""
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
        if node.op_type == "QuantizeLinear":  # with the Linear that it quantises for
            restored = [reader.output[0] for reader in self.index.readers.get(node.output[0], ())]
            return any(TensorProto.FLOAT in self.wanted.get(name, ()) for name in restored)
        if node.op_type in _PRODUCTS:
            return False
        # Nothing passes through FP16 between two FP32 nodes, such as a shift put there later.
        maker = self.index.maker
        makers = [maker[name] for name in node.input if name in self.floats and name in maker]
        return (
            bool(makers)
            and all(other.name in self.keep for other in makers)
            and all(self.wanted.get(name) == {TensorProto.FLOAT} for name in node.output)
        )

    def name(self, tensor: str, kind: int | None) -> str:
        """What the tensor is called in that type; None: in the one that it is made in."""
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
        """One cast for each type that is read and not made."""
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
            f"the weight {tensor.name} goes up to {abs(values).max():.3g}, FP16 holds 65504",
            "build it in fp32 or int8: --precision fp32",
        )
    return numpy_helper.from_array(half, tensor.name)
