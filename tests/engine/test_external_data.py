"""The files that a graph reads its weights from are found wherever ONNX can name them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import AttributeProto, ModelProto, TensorProto, helper

from edge.engine import external_data
from edge.engine.external_data import external_files


def outside(location: str) -> TensorProto:
    """A tensor whose values are in another file."""
    entries = [{"key": "offset", "value": "0"}, {"key": "location", "value": location}]
    return TensorProto(
        name=location,
        dims=[4],
        data_type=TensorProto.FLOAT,
        data_location=TensorProto.EXTERNAL,
        external_data=entries,
    )


def constant(location: str) -> onnx.NodeProto:
    return helper.make_node("Constant", [], ["c"], value=outside(location))


def test_every_place_for_a_tensor_is_searched(tmp_path: Path) -> None:
    model = ModelProto(ir_version=10)
    model.graph.name = "g"
    inline = helper.make_tensor("inline", TensorProto.FLOAT, [1000], np.zeros(1000))
    model.graph.initializer.extend([inline, outside("weights"), outside("../above")])
    model.graph.sparse_initializer.add().values.CopyFrom(outside("sparse values"))
    model.graph.sparse_initializer.add().indices.CopyFrom(outside("sparse indices"))
    branch = helper.make_graph([constant("branch")], "b", [], [])
    loop = helper.make_node("Loop", ["a"], ["b"], body=branch)
    many = AttributeProto(name="t", type=AttributeProto.TENSORS, tensors=[outside("of many")])
    loop.attribute.append(many)
    model.graph.node.extend([constant("attribute"), loop])
    model.functions.add().node.append(constant("function"))
    model.training_info.add().algorithm.node.append(constant("training"))
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    assert external_files(path) == {
        *("weights", "../above", "sparse values", "sparse indices", "attribute", "branch"),
        *("of many", "function", "training"),
    }


def test_the_fields_are_those_of_onnx() -> None:
    """Every way from a model to a tensor, as the package `onnx` describes its messages."""
    fields, waiting = {}, [onnx.ModelProto.DESCRIPTOR]
    while waiting:
        message = waiting.pop()
        if message.name not in fields:
            inner = {one.number: one.message_type for one in message.fields if one.message_type}
            fields[message.name] = inner
            waiting += inner.values()
    leads = {"TensorProto"}
    for _ in fields:
        for name, inner in fields.items():
            if leads & {one.name for one in inner.values()}:
                leads.add(name)
    ways = {
        name: {number: one.name for number, one in fields[name].items() if one.name in leads}
        for name in leads - {"TensorProto"}
    }
    known = {name: dict(inner) for name, inner in external_data._INSIDE.items()}
    entry = TensorProto.DESCRIPTOR.fields_by_name["external_data"]
    assert known.pop("TensorProto") == {entry.number: entry.message_type.name}
    assert known == ways


def test_a_graph_without_external_data_reads_no_file(fp32_graph: Path) -> None:
    assert external_files(fp32_graph) == set()


@given(st.binary(max_size=60))
def test_what_is_no_graph_is_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.onnx"
    path.write_bytes(data)
    try:
        external_files(path)
    except ValueError:
        return
    assert data
