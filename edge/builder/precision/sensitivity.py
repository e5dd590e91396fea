"""Sensitivity: the noise in the outputs when a single Linear is INT8.

One session measures all Linears. The output of each Linear gets an addend that is 0 unless it is
fed; to measure a Linear, the error of quantising it is computed from its activation and fed there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, TensorProto, helper, numpy_helper

from edge.builder import graph
from edge.builder.precision.migrate import migrate
from edge.builder.precision.quantize import quantized
from edge.builder.precision.range_search import fake_quantized
from edge.builder.precision.ranges import Range
from edge.builder.precision.sites import Linear, linears
from edge.engine.accuracy import EXACT_DB
from edge.files.storage import write_bytes

__all__ = ["images_for", "measure", "write"]

RUNS = 96  # approximate number of runs of the graph; a large model has more Linears to measure

Tensor = npt.NDArray[np.float32]


def images_for(model: ModelProto) -> int:
    """The number of images on which a graph's Linears are measured, 2 to 8."""
    return min(8, max(2, RUNS // len(linears(model))))


def measure(
    model: ModelProto,
    ranges: Mapping[str, Range],
    images: Sequence[Tensor],
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> dict[str, float]:
    """SQNR of the outputs with only one Linear in INT8: MatMul's name -> dB; the lowest is worst.

    images: prepared images, float32 [3, H, W] each. Raises `GraphError` for ranges that do not
    fit the graph.
    """
    migrated, named = migrate(model, ranges)
    found = linears(migrated)
    parts = quantized(migrated, named)
    index, logits = graph.Index(migrated), model.graph.output[0].name
    session = graph.session(_with_deltas(migrated, found), weights=migrated)
    tensors = sorted({linear.activation for linear in found})
    noise = dict.fromkeys((linear.node.name for linear in found), 0.0)
    signal, done = 0.0, 0
    for image in images:
        reference, *values = session.run(image[None], [logits, *tensors])
        activations = dict(zip(tensors, values, strict=True))
        signal += float((reference.astype(np.float64) ** 2).sum())
        for linear in found:
            name, part = linear.node.name, parts[linear.node.name]
            x = activations[linear.activation]
            y = fake_quantized(x, named[linear.activation].amax) @ part.restored
            delta = y + part.correction.astype(np.float32) - x @ index.array(linear.weight)
            (changed,) = session.run(image[None], [logits], {_delta(linear): delta})
            noise[name] += float(((changed.astype(np.float64) - reference) ** 2).sum())
            done += 1
            progress("Linears alone", done, len(found) * len(images))
    return {
        name: round(10 * math.log10(max(signal, 1e-300) / value), 2) if value else EXACT_DB
        for name, value in noise.items()
    }


def _delta(linear: Linear) -> str:
    return f"{linear.node.name}_delta"


def _with_deltas(model: ModelProto, found: Sequence[Linear]) -> ModelProto:
    """The graph's skeleton with an addend for each Linear's output, and activations as outputs."""
    result = graph.skeleton(model)
    by_name = {node.name: node for node in result.graph.node}
    adds = {}
    for linear in found:
        node, name = by_name[linear.node.name], _delta(linear)
        out = node.output[0]
        node.output[0] = f"{out}_exact"
        adds[node.name] = helper.make_node("Add", [node.output[0], name], [out], f"{name}_add")
        # An input with an initializer is optional.
        result.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
        result.graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.float32), name))
    nodes = []
    for node in result.graph.node:
        nodes += [node, adds[node.name]] if node.name in adds else [node]
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del result.graph.node[:]
    result.graph.node.extend(copies)
    result.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        for name in sorted({linear.activation for linear in found})
    )
    return result


def write(path: Path, measured: Mapping[str, float]) -> None:
    """Write the result of `measure` as JSON. Raises `StorageError`."""
    write_bytes(path, (json.dumps(dict(measured), indent=1) + "\n").encode())
