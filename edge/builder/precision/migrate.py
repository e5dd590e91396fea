"""Outlier migration: moves outlier channels from activations into weights, without any loss.

A few channels of a large ViT's activations are a hundred times larger than the others, but all
share one INT8 range. Dividing each channel by a factor, and multiplying the next Linear's weight by
it, changes no output (SmoothQuant, arXiv 2211.10438); the weights tolerate that, as they have a
range per output channel. The division is folded into the node before the activation: into a
LayerNorm's weight and bias, or into the value projection, whose rows attention only mixes. The
output of a GELU lies between -0.17 and its largest value and would leave half of a symmetric range
empty: it is shifted by a constant, which the next Linear's bias compensates.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, helper, numpy_helper

from edge.builder.graph import Index, compact
from edge.builder.precision.ranges import Range
from edge.builder.precision.sites import Linear, Site, biases, sites
from edge.errors import GraphError

__all__ = ["add_to_bias", "can_scale", "migrate"]

Floats = npt.NDArray[np.float32]


def can_scale(site: Site) -> bool:
    """Whether a division of the channels can be folded into the node before the activation."""
    return site.norm is not None or site.values is not None


def migrate(model: ModelProto, ranges: Mapping[str, Range]) -> tuple[ModelProto, dict[str, Range]]:
    """Fold the migration of each range into a copy of the graph.

    ranges: activation -> range. Returns the copy, and its ranges by its own activation names (a
    shift renames the activation). Raises `GraphError` for a range that does not fit the graph.
    """
    result = ModelProto()
    result.CopyFrom(model)
    named: dict[str, Range] = {}
    everywhere = sites(result)
    for site in everywhere:
        found = ranges.get(site.activation)
        if found is None:
            raise GraphError(
                f"there is no range for {site.activation}",
                "calibrate this graph: edge calibrate",
            )
        _check_lengths(Index(result), site, found)
        named[site.activation] = found
        if found.scale:
            _scale(result, site, np.array(found.scale, np.float32))
    # Shifts come last: a shift changes a bias, which a later scale would have to change again.
    for site in everywhere:
        if (found := named[site.activation]).shift:
            name = _shift(result, site, np.float32(found.shift))
            named[name] = named.pop(site.activation)
    unknown = set(ranges) - {site.activation for site in sites(model)}
    if unknown:
        raise GraphError(
            f"there is a range for {sorted(unknown)[0]}, which no Linear of this graph reads",
            "calibrate this graph: edge calibrate",
        )
    return compact(result), named


def _check_lengths(index: Index, site: Site, found: Range) -> None:
    sizes = [index.weights[linear.weight].dims for linear in site.linears]
    channels, outputs = sizes[0][0], sum(size[1] for size in sizes)
    vectors = {"scale": channels, "mean": channels, "error": channels, "clip": outputs}
    for name, wanted in vectors.items():
        if len(getattr(found, name)) not in (0, wanted):
            raise GraphError(
                f"{site.activation} needs {wanted} numbers of {name}, the range table has "
                f"{len(getattr(found, name))}",
                "calibrate this graph: edge calibrate",
            )


def _scale(model: ModelProto, site: Site, scale: Floats) -> None:
    index = Index(model)
    channels = len(scale)
    if not can_scale(site):
        raise GraphError(
            f"no node before {site.activation} can be scaled for its migration",
            "calibrate this graph: edge calibrate",
        )
    if site.norm is not None:
        for position in range(1, len(site.norm.input)):
            _set(model, site.norm, position, index.array(site.norm.input[position]) / scale)
    if site.values is not None:
        part = slice(site.values.first, site.values.first + channels)
        weight = index.array(site.values.node.input[1]).copy()
        weight[:, part] /= scale
        _set(model, site.values.node, 1, weight)
        if site.values.bias is not None:
            node, position = site.values.bias
            vector = index.array(node.input[position]).copy()
            # A bias after the Split belongs to the values only.
            vector[slice(None) if len(vector) == channels else part] /= scale
            _set(model, node, position, vector)
    for linear in site.linears:
        _set(model, linear.node, 1, index.array(linear.weight) * scale[:, None])


def _shift(model: ModelProto, site: Site, shift: np.float32) -> str:
    """Subtract `shift` before the Linears and add `shift @ weight` to their biases.

    Returns the name of the shifted activation.
    """
    index = Index(model)
    name, constant = f"{site.activation}_centred", f"{site.activation}_shift"
    for linear in site.linears:
        add_to_bias(model, linear, shift * index.array(linear.weight).astype(np.float64).sum(0))
        linear.node.input[0] = name
    model.graph.initializer.append(numpy_helper.from_array(np.array(-shift), constant))
    add = helper.make_node("Add", [site.activation, constant], [name], name)
    model.graph.node.insert(_place(model, site.linears[0].node), add)
    return name


def add_to_bias(model: ModelProto, linear: Linear, extra: npt.NDArray[np.float64]) -> None:
    """Add a vector [outputs] to a Linear's bias; a bias is created where there is none."""
    index = Index(model)
    for place in biases(index, linear):
        vector = extra[place.first : place.first + place.count]
        if place.node is not None:
            old = index.array(place.node.input[place.position]).astype(np.float64)
            _set(model, place.node, place.position, (old + vector).astype(np.float32))
            continue
        out, bias = place.tensor, f"{place.tensor}_bias"
        outputs = list(place.maker.output)
        place.maker.output[outputs.index(out)] = f"{out}_unbiased"
        unsplit = place.maker.name == linear.node.name  # otherwise one output of a Split
        name = f"{linear.node.name}_bias" if unsplit else bias
        add = helper.make_node("Add", [f"{out}_unbiased", bias], [out], name)
        model.graph.initializer.append(numpy_helper.from_array(vector.astype(np.float32), bias))
        model.graph.node.insert(_place(model, place.maker) + 1, add)


def _place(model: ModelProto, node: NodeProto) -> int:
    return [other.output[0] for other in model.graph.node].index(node.output[0])


def _set(model: ModelProto, node: NodeProto, position: int, value: Floats) -> None:
    """Replace a constant input of a node.

    A constant that other nodes read as well is not changed but copied: exporters store equal
    constants, such as the weights of untrained LayerNorms, only once.
    """
    index = Index(model)
    name = node.input[position]
    tensor = numpy_helper.from_array(np.asarray(value, np.float32), name)
    if sum(list(reader.input).count(name) for reader in index.readers[name]) == 1:
        index.weights[name].CopyFrom(tensor)
        return
    tensor.name = f"{node.name}_{position}"
    model.graph.initializer.append(tensor)
    node.input[position] = tensor.name
