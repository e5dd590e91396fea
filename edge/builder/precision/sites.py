"""Sites: the activations of a transformer that are quantised, with the nodes before and after.

A site is an activation tensor with the Linears that read it. Whether its channels can be scaled
without changing the function depends on the node before it: a LayerNorm's weight and bias can take
a division, the value projection before an attention output can, a GELU cannot.
"""

from __future__ import annotations

from dataclasses import dataclass

from onnx import ModelProto, NodeProto

from edge.builder.graph import Index
from edge.errors import GraphError

__all__ = ["Bias", "Linear", "Site", "Values", "biases", "linears", "roles", "sites"]

_MOVES = ("Reshape", "Transpose")  # move values without changing them
_ACTIVATIONS = ("Gelu", "Mul", "Relu", "Sigmoid", "Split", "Tanh")  # Mul: of SiLU and gates


@dataclass(frozen=True)
class Linear:
    """A MatMul of the transformer with a constant weight [inputs, outputs]."""

    node: NodeProto
    activation: str  # the tensor that is quantised
    weight: str


@dataclass(frozen=True)
class Values:
    """The value projection before an attention output: columns of a weight, and their bias."""

    node: NodeProto  # the MatMul
    first: int  # the first column of the values; there are as many as the output has channels
    bias: tuple[NodeProto, int] | None  # its Add, and the input position of the vector


@dataclass(frozen=True)
class Bias:
    """A part of a Linear's outputs, and the Add of a constant vector to it, if there is one."""

    maker: NodeProto  # the MatMul, or the Split after it
    tensor: str  # its output
    node: NodeProto | None  # the Add
    position: int  # input position of the vector in the Add
    first: int  # the part's first column in the Linear's outputs
    count: int  # the part's number of columns


@dataclass(frozen=True)
class Site:
    """An activation that is quantised, with the Linears that read it."""

    activation: str
    linears: tuple[Linear, ...]
    norm: NodeProto | None = None  # the LayerNormalization before it, if only these Linears read it
    values: Values | None = None  # the value projection before it, likewise


def linears(model: ModelProto) -> list[Linear]:
    """The Linears of the transformer blocks: q, k, v, the output projection, fc1 and fc2.

    They are the MatMuls with a constant weight and a LayerNormalization both before and after them,
    which excludes the patch embedding and the classifier. Raises `GraphError` when there is none.
    """
    index = Index(model)
    before = _reached(model, index, down=True)
    after = _reached(model, index, down=False)
    found = []
    for node in model.graph.node:
        if node.op_type != "MatMul" or node.input[1] not in index.weights:
            continue
        if len(index.weights[node.input[1]].dims) == 2 and {node.output[0]} <= before & after:
            found.append(Linear(node, node.input[0], node.input[1]))
    if not found:
        raise GraphError("the graph has no Linear to quantise", "build in FP16: --precision fp16")
    return found


def _reached(model: ModelProto, index: Index, *, down: bool) -> set[str]:
    """Tensors downstream (or upstream) of any LayerNormalization."""
    seeds = [node for node in model.graph.node if node.op_type == "LayerNormalization"]
    waiting = [name for node in seeds for name in (node.output if down else node.input)]
    reached: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in reached:
            continue
        reached.add(name)
        if down:
            waiting.extend(out for node in index.readers.get(name, ()) for out in node.output)
        elif name in index.maker:
            waiting.extend(index.maker[name].input)
    return reached


def sites(model: ModelProto) -> list[Site]:
    """The sites of all Linears, in graph order. Raises `GraphError` when there is none."""
    index = Index(model)
    readers: dict[str, list[Linear]] = {}
    for linear in linears(model):
        readers.setdefault(linear.activation, []).append(linear)
    found = []
    for activation, group in readers.items():
        maker, norm, values = index.maker.get(activation), None, None
        # With another reader the activation must not be scaled.
        if len(index.readers[activation]) == len(group):
            norm = maker if maker is not None and maker.op_type == "LayerNormalization" else None
            values = _values(index, activation) if norm is None else None
        found.append(Site(activation, tuple(group), norm, values))
    return found


def roles(model: ModelProto) -> dict[str, str]:
    """The role of each Linear: its MatMul's name -> block and role, such as "3/fc1"; blocks from 0.

    Roles are qkv, proj, fc1, fc2; merge: Swin's Linear between two stages; linear: any other. A
    block begins with qkv or, without attention as in ConvNeXt, with fc1.
    """
    index, everywhere = Index(model), sites(model)
    attended = {site.values.node.name for site in everywhere if site.values is not None}
    behind = {site.activation: _behind(index, site.activation) for site in everywhere}
    first = set().union(*behind.values())
    found: dict[str, str] = {}
    block, role = -1, ""
    for site in everywhere:
        names = {linear.node.name for linear in site.linears}
        before, role = role, _role(index, site, names, attended, first, behind[site.activation])
        if role == "qkv" or (role == "fc1" and before != "proj"):
            block += 1
        for number, linear in enumerate(site.linears):
            which = f"{role}.{number}" if len(site.linears) > 1 else role
            found[linear.node.name] = f"{max(block, 0)}/{which}"
    return found


def _role(
    index: Index,
    site: Site,
    names: set[str],
    attended: set[str],
    first: set[str],
    behind: set[str],
) -> str:
    """The role of a site's Linears.

    names: of their MatMuls. attended: Linears that compute values. first: all fc1. behind: the
    Linears from which the activation is made element by element (`_behind`).
    """
    if names & attended:
        return "qkv"
    if site.values is not None:
        return "proj"
    if behind:
        return "fc2"
    if names & first:
        return "fc1"
    inputs, outputs = index.weights[site.linears[0].weight].dims
    return "merge" if inputs == 2 * outputs else "linear"


def _behind(index: Index, activation: str) -> set[str]:
    """The Linears from which an activation is computed element by element, as fc2's from fc1."""
    node = index.maker.get(activation)
    if node is None:
        return set()
    if node.op_type == "MatMul" and node.input[1] in index.weights:
        return {node.name}
    if node.op_type not in (*_ACTIVATIONS, "Add"):
        return set()
    made = [_behind(index, name) for name in node.input if name not in index.weights]
    if node.op_type in _ACTIVATIONS:
        return set().union(*made)
    # The two inputs of a residual Add come from different Linears.
    same = node.op_type == "Add" and all(other == made[0] for other in made)
    return made[0] if same else set()


def _values(index: Index, activation: str) -> Values | None:
    """The value projection before `activation`, if that is an attention output; else None."""
    product = _back(index, activation)
    if product is None or product.op_type != "MatMul":
        return None
    softmax = index.maker.get(product.input[0])
    if softmax is None or softmax.op_type != "Softmax":
        return None
    name, first, bias = product.input[1], 0, None
    while (node := _back(index, name)) is not None:
        if node.op_type == "Add" and bias is None:
            position = next((i for i, n in enumerate(node.input) if n in index.weights), None)
            if position is None:
                return None
            bias, name = (node, position), node.input[1 - position]
        elif node.op_type == "Split" and first == 0:
            while index.maker[name] is not node:
                name = index.maker[name].input[0]
            sizes = [int(size) for size in index.array(node.input[1])]
            first = sum(sizes[: list(node.output).index(name)])
            name = node.input[0]
        elif node.op_type == "MatMul" and node.input[1] in index.weights:
            return Values(node, first, bias)
        else:
            return None
    return None


def _back(index: Index, name: str) -> NodeProto | None:
    """The node that computes `name`, skipping `_MOVES`; None if others read its output, too."""
    while (node := index.maker.get(name)) is not None and len(index.readers[name]) == 1:
        if node.op_type not in _MOVES:
            return node
        name = node.input[0]
    return None


def biases(index: Index, linear: Linear) -> list[Bias]:
    """The places where a constant is, or can be, added to a Linear's outputs, in output order."""
    after = index.readers.get(linear.node.output[0], [])
    if len(after) == 1 and after[0].op_type == "Split":
        sizes = [int(size) for size in index.array(after[0].input[1])]
        parts = [(after[0], name, size) for name, size in zip(after[0].output, sizes, strict=True)]
    else:
        outputs = index.weights[linear.weight].dims[1]
        parts = [(linear.node, linear.node.output[0], outputs)]
    found, first = [], 0
    for maker, name, count in parts:
        readers = index.readers.get(name, [])
        add = readers[0] if len(readers) == 1 and readers[0].op_type == "Add" else None
        position = 1 - list(add.input).index(name) if add is not None else 0
        vector = index.weights.get(add.input[position]) if add is not None else None
        if vector is None or list(vector.dims) != [count]:
            add = None
        found.append(Bias(maker, name, add, position, first, count))
        first += count
    return found
