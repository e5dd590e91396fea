"""ONNX graphs: reading, writing, and the rules that TensorRT's fusions need.

TensorRT fuses a ViT, and computes it correctly in FP16, if the graph has `LayerNormalization`,
`Gelu` and `Softmax` as single nodes and nothing else inside attention. Otherwise the plan is slow
or wrong (TensorRT issues 2709, 3657, 4328). `check_operators` checks that at build time.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edge.engine.onnxruntime import Session
from edge.errors import GraphError, StorageError
from edge.files.reading import ACCESS, check_regular
from edge.files.storage import atomic, writing

__all__ = [
    "FUSED",
    "Index",
    "check_operators",
    "compact",
    "fingerprint",
    "floats",
    "inline_constants",
    "load",
    "metadata",
    "save",
    "session",
    "set_metadata",
    "skeleton",
    "types",
]

INLINE_LIMIT = 2_000_000_000  # bytes; protobuf stops at 2 GiB
# Bytes of weights from which onnxruntime maps them from a file instead of parsing them.
MAPPED = 200_000_000
PAGE = 4096  # bytes; mapped weights are aligned to it
SHORT = 1024  # bytes; smaller tensors stay in the graph, since shapes are read while it is loaded
METADATA = "vit_edge"
FUSED = ("LayerNormalization", "Gelu", "Softmax")  # operators that TensorRT fuses


def load(path: Path) -> ModelProto:
    """Read a graph with its weights. Raises `GraphError` when it is missing, cut off or corrupt."""
    try:
        # External weights are in the folder of the file itself, not of a link to it.
        check_regular(path)
        model = onnx.load(str(path.resolve()))
    except FileNotFoundError as error:
        raise GraphError(
            f"{path} cannot be read ({error})", "check the path; run the previous stage first"
        ) from error
    except OSError as error:
        raise GraphError(f"{path} cannot be read ({error.strerror or error})", ACCESS) from error
    except Exception as error:  # protobuf and onnx raise classes of their own
        raise GraphError(
            f"{path} is not a complete ONNX graph ({type(error).__name__})", "run edge export again"
        ) from error
    if not model.graph.node or not model.graph.input:
        raise GraphError(
            f"{path} is not a complete ONNX graph (it is empty)", "run edge export again"
        )
    return model


def save(model: ModelProto, path: Path) -> list[Path]:
    """Write a graph atomically; with weights of 2 GB or more they go to `<name>.data` beside it.

    Returns the written files. Raises `StorageError`.
    """
    if _size(model) < INLINE_LIMIT:
        with atomic(path) as scratch:
            scratch.write_bytes(model.SerializeToString())
        return [path]
    path = path.resolve()
    data = path.with_name(f"{path.name}.data")
    if path.exists() and not path.is_file():
        raise StorageError(
            f"{path} is not a file", "give a file name: weights beyond 2 GB go beside it"
        )
    with (
        writing(path),
        tempfile.TemporaryDirectory(prefix=".onnx-", dir=path.parent) as folder,
        atomic(path) as scratch,
    ):
        made = Path(folder) / data.name
        scratch.write_bytes(_externalise(skeleton(model), model, made))
        path.unlink(missing_ok=True)  # so that an old graph is never beside new weights
        with made.open("rb+") as file:
            os.fsync(file.fileno())
        made.replace(data)
    return [path, data]


def _externalise(graph: ModelProto, weights: ModelProto, data: Path) -> bytes:
    """Write the weights to the file `data`; returns `graph`, serialised, with references to them.

    Only one weight at a time is copied: a copy of all would be another 2.5 GB for a ViT-H.
    """
    with data.open("wb") as file:
        for tensor in weights.graph.initializer:
            if len(tensor.raw_data) < SHORT:
                graph.graph.initializer.add().CopyFrom(tensor)
                continue
            file.seek(-file.tell() % PAGE, os.SEEK_CUR)
            place = {"location": data.name, "offset": file.tell(), "length": len(tensor.raw_data)}
            file.write(tensor.raw_data)
            graph.graph.initializer.append(
                TensorProto(
                    name=tensor.name,
                    dims=tensor.dims,
                    data_type=tensor.data_type,
                    data_location=TensorProto.EXTERNAL,
                    external_data=[{"key": key, "value": str(at)} for key, at in place.items()],
                )
            )
    serialized: bytes = graph.SerializeToString()
    return serialized


def skeleton(model: ModelProto) -> ModelProto:
    """A copy of a model without its weights, to be changed and then run by `session`."""
    result = ModelProto()
    for field, value in model.ListFields():
        if field.name == "graph":
            continue
        if hasattr(value, "extend"):
            getattr(result, field.name).extend(value)
        else:
            setattr(result, field.name, value)
    for field, value in model.graph.ListFields():
        if field.name == "initializer":
            continue
        if hasattr(value, "extend"):
            getattr(result.graph, field.name).extend(value)
        else:
            setattr(result.graph, field.name, value)
    return result


def compact(model: ModelProto) -> ModelProto:
    """A copy of a model, to free memory.

    protobuf keeps replaced and removed weights in memory as long as the original model exists.
    """
    result = ModelProto()
    result.CopyFrom(model)
    return result


def _size(model: ModelProto) -> int:
    """Bytes of the weights: ByteSize() itself fails beyond 2 GiB."""
    return sum(len(tensor.raw_data) for tensor in model.graph.initializer)


def session(
    model: ModelProto, threads: int | None = None, *, weights: ModelProto | None = None
) -> Session:
    """An onnxruntime session on the CPU for a graph in memory.

    weights: the model that has the weights, if `model` is a `skeleton` of it.
    """
    source = model if weights is None else weights
    fp8 = any(t.data_type == TensorProto.FLOAT8E4M3FN for t in source.graph.initializer)
    if _size(source) < MAPPED:
        complete = model
        if weights is not None:
            complete = skeleton(model)
            complete.graph.initializer.extend(model.graph.initializer)
            complete.graph.initializer.extend(weights.graph.initializer)
        return Session(complete.SerializeToString(), threads, fuse_qdq=not fp8)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "model.onnx"
        bare = skeleton(model)
        if weights is not None:
            bare.graph.initializer.extend(model.graph.initializer)
        path.write_bytes(_externalise(bare, source, Path(scratch) / "weights"))
        return Session(path, threads, fuse_qdq=not fp8)


def metadata(model: ModelProto) -> dict[str, Any]:
    """The metadata that export stored in the graph: `head`, `preprocess`, `checkpoint`.

    Raises `GraphError` when there is none or it is damaged.
    """
    found = {item.key: item.value for item in model.metadata_props}
    if METADATA not in found:
        raise GraphError("the graph has no vit-edge metadata", "create the graph with edge export")
    try:
        return dict(json.loads(found[METADATA]))
    except (ValueError, TypeError, RecursionError) as error:
        raise GraphError(
            f"the graph's vit-edge metadata is damaged ({error})",
            "create the graph with edge export",
        ) from error


def set_metadata(model: ModelProto, data: dict[str, Any]) -> None:
    """Store `data` in the graph's metadata, which every stage and other tools can read."""
    kept = [item for item in model.metadata_props if item.key != METADATA]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    item = model.metadata_props.add()
    item.key, item.value = METADATA, json.dumps(data)


def floats(model: ModelProto) -> set[str]:
    """The names of a graph's float32 tensors: inputs, weights and outputs of nodes."""
    return {name for name, kind in types(model).items() if kind == TensorProto.FLOAT}


def types(model: ModelProto) -> dict[str, int]:
    """The type of each tensor of a graph, as a number of `TensorProto`, by its name."""
    # Types do not depend on weights; without them inference also works beyond 2 GB.
    bare = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    bare.graph.name = model.graph.name
    bare.graph.node.extend(model.graph.node)
    bare.graph.input.extend(model.graph.input)
    bare.graph.output.extend(model.graph.output)
    inputs = {value.name for value in model.graph.input}
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.INT64:  # shapes, on which other shapes depend
            bare.graph.initializer.add().CopyFrom(tensor)
        elif tensor.name not in inputs:
            bare.graph.input.append(
                helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    inferred = onnx.shape_inference.infer_shapes(bare).graph
    values = [*inferred.input, *inferred.value_info, *inferred.output]
    return {value.name: value.type.tensor_type.elem_type for value in values}


def inline_constants(model: ModelProto) -> None:
    """Turn Constant nodes, which other exporters write, into weights, as our graphs have them."""
    kept = [node for node in model.graph.node if node.op_type != "Constant"]
    for node in model.graph.node:
        value = next((a.t for a in node.attribute if a.name == "value"), None)
        if node.op_type == "Constant" and value is not None:
            tensor = model.graph.initializer.add()
            tensor.CopyFrom(value)
            tensor.name = node.output[0]
        elif node.op_type == "Constant":
            kept.append(node)
    copies = [NodeProto.FromString(node.SerializeToString()) for node in kept]
    del model.graph.node[:]
    model.graph.node.extend(copies)


def fingerprint(model: ModelProto) -> str:
    """SHA-256 of what a graph computes: its nodes and weights, without its metadata."""
    result = hashlib.sha256()
    for node in model.graph.node:
        result.update(node.SerializeToString(deterministic=True))
    for tensor in model.graph.initializer:
        result.update(f"{tensor.name}{list(tensor.dims)}{tensor.data_type}".encode())
        result.update(numpy_helper.to_array(tensor).tobytes())
    return result.hexdigest()


class Index:
    """The node that writes each tensor of a graph, the nodes that read it, and the weights."""

    def __init__(self, model: ModelProto):
        self.model = model
        self.weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self.maker: dict[str, NodeProto] = {}
        self.readers: dict[str, list[NodeProto]] = {}
        for node in model.graph.node:
            for name in node.output:
                self.maker[name] = node
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    def array(self, name: str) -> Any:
        """A weight as a numpy array."""
        return numpy_helper.to_array(self.weights[name])

    def upstream(self, start: NodeProto, stop: Iterable[str]) -> Iterator[NodeProto]:
        """Nodes that `start` depends on; the search ends before operators in `stop`."""
        waiting, visited = list(start.input), set()
        while waiting:
            node = self.maker.get(waiting.pop())
            if node is None or node.op_type in stop or node.output[0] in visited:
                continue
            visited.add(node.output[0])
            yield node
            waiting.extend(node.input)


def check_operators(model: ModelProto, fused: Iterable[str]) -> None:
    """Check that the operators that TensorRT fuses are single nodes.

    fused: operators that the graph must have. Raises `GraphError` with the node's name.
    """
    index = Index(model)
    hint = "use the transformers and torch of constraints.txt: make setup"
    operators = {node.op_type for node in model.graph.node}
    for node in model.graph.node:
        if node.op_type == "Erf":
            raise GraphError(f"GELU is decomposed: Erf at {node.name}", hint)
        if node.op_type == "ReduceMean" and _is_deviation(index.maker.get(node.input[0])):
            raise GraphError(f"LayerNorm is decomposed: Pow and ReduceMean at {node.name}", hint)
        if node.op_type == "Softmax":
            for other in index.upstream(node, stop=("MatMul", "Gemm")):
                if other.op_type in ("IsNaN", "Where", "ReduceMax"):
                    raise GraphError(f"attention has {other.op_type} at {other.name}", hint)
            for reader in index.readers.get(node.output[0], ()):
                if reader.op_type in ("IsNaN", "Where"):
                    raise GraphError(f"attention has {reader.op_type} at {reader.name}", hint)
    for operator in fused:
        if operator not in operators:
            raise GraphError(f"the graph has no {operator} node", hint)


def _is_deviation(node: NodeProto | None) -> bool:
    """Whether a node computes what a decomposed LayerNorm averages: x - mean, or its square."""
    if node is None:
        return False
    square = node.op_type == "Mul" and node.input[0] == node.input[1]  # not SiLU's x * sigmoid(x)
    return square or node.op_type in ("Pow", "Sub")
