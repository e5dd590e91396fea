import os

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edge.builder import graph
from edge.builder.models.families import FAMILIES
from edge.errors import GraphError, StorageError


def model(nodes, inputs=("x",), outputs=("y",)):
    def value(name):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, None)

    made = helper.make_graph(nodes, "g", [value(n) for n in inputs], [value(n) for n in outputs])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)])


def node(operator, inputs, output, **attributes):
    return helper.make_node(operator, inputs, [output], f"{operator}_{output}", **attributes)


FUSED = FAMILIES["vit"].fused
WHOLE = [
    node("LayerNormalization", ["x", "w"], "n"),
    node("MatMul", ["n", "n"], "s"),
    node("Softmax", ["s"], "p"),
    node("Gelu", ["p"], "y"),
]


def test_a_vit_with_single_node_operators_passes(fp32_graph):
    graph.check_operators(graph.load(fp32_graph), FUSED)
    graph.check_operators(model(WHOLE, inputs=("x", "w")), FUSED)


@pytest.mark.parametrize(
    ("nodes", "named"),
    [
        ([*WHOLE, node("Erf", ["y"], "e")], "Erf_e"),
        (
            [*WHOLE, node("Pow", ["y", "two"], "q"), node("ReduceMean", ["q"], "m")],
            "ReduceMean_m",
        ),
        (
            [
                *WHOLE[:2],
                node("Where", ["c", "s", "i"], "t"),
                node("Softmax", ["t"], "p"),
                WHOLE[3],
            ],
            "Where_t",
        ),
        ([*WHOLE[:3], node("IsNaN", ["p"], "b"), WHOLE[3]], "IsNaN_b"),
        (WHOLE[1:], "LayerNormalization"),
        ([WHOLE[0], WHOLE[1], WHOLE[2]], "Gelu"),
    ],
)
def test_nodes_that_tensorrt_cannot_fuse_are_named(nodes, named):
    with pytest.raises(GraphError) as caught:
        graph.check_operators(model(nodes), FUSED)
    assert named in caught.value.problem


def test_metadata_survives_the_file(fp32_graph, tmp_path):
    loaded = graph.load(fp32_graph)
    found = graph.metadata(loaded)
    assert found["head"]["labels"] == ["cat", "dog", "fox", "owl", "bee"]
    assert found["preprocess"]["height"] == 32
    graph.set_metadata(loaded, {"labels": ["a"]})
    graph.save(loaded, tmp_path / "again.onnx")
    assert graph.metadata(graph.load(tmp_path / "again.onnx")) == {"labels": ["a"]}


def test_a_foreign_graph_has_no_metadata():
    with pytest.raises(GraphError, match="edge export"):
        graph.metadata(model(WHOLE))


@pytest.mark.parametrize("keep", [0, 10, 3000])
def test_a_truncated_graph_is_an_error(fp32_graph, tmp_path, keep):
    path = tmp_path / "cut.onnx"
    path.write_bytes(fp32_graph.read_bytes()[:keep])
    with pytest.raises(GraphError, match=r"cut.onnx is not a complete ONNX graph"):
        graph.load(path)


def test_a_missing_graph_is_an_error(tmp_path):
    with pytest.raises(GraphError, match="check the path"):
        graph.load(tmp_path / "absent.onnx")


def test_weights_beyond_the_limit_go_beside_the_graph(fp32_graph, tmp_path, monkeypatch):
    monkeypatch.setattr(graph, "INLINE_LIMIT", 1000)
    loaded = graph.load(fp32_graph)
    written = graph.save(loaded, tmp_path / "model.onnx")
    assert [path.name for path in written] == ["model.onnx", "model.onnx.data"]
    assert written[0].stat().st_size < written[1].stat().st_size
    pictures = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)
    expected = graph.session(graph.load(fp32_graph)).logits(pictures)
    assert (graph.session(graph.load(written[0])).logits(pictures) == expected).all()
    assert (graph.session(loaded).logits(pictures) == expected).all()  # the caller's is untouched


@pytest.mark.parametrize("mapped", [0, 10**9])
def test_a_skeleton_runs_with_the_weights_of_its_model(fp32_graph, monkeypatch, mapped):
    monkeypatch.setattr(graph, "MAPPED", mapped)  # as bytes, and from a file
    model = graph.load(fp32_graph)
    bare = graph.skeleton(model)
    assert not bare.graph.initializer
    assert graph.metadata(bare) == graph.metadata(model)
    inner = model.graph.node[5].output[0]
    bare.graph.output.append(onnx.ValueInfoProto(name=inner))
    pictures = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)
    session = graph.session(bare, weights=model)
    assert session.outputs[1:] == [inner]
    assert (session.logits(pictures) == graph.session(model).logits(pictures)).all()
    assert len(model.graph.output) == 1 and not bare.graph.initializer


def test_torch_leaves_no_paths_behind(fp32_graph):
    text = str(list(graph.load(fp32_graph).graph.node))
    assert ".py" not in text
    onnx.checker.check_model(graph.load(fp32_graph), full_check=True)


def test_a_large_graph_follows_a_link_and_replaces_no_device(fp32_graph, tmp_path, monkeypatch):
    monkeypatch.setattr(graph, "INLINE_LIMIT", 1000)
    model = graph.load(fp32_graph)
    (tmp_path / "real").mkdir()
    (tmp_path / "link.onnx").symlink_to(tmp_path / "real/g.onnx")
    graph.save(model, tmp_path / "link.onnx")
    assert graph.load(tmp_path / "link.onnx").graph.node == model.graph.node
    assert {path.name for path in (tmp_path / "real").iterdir()} == {"g.onnx", "g.onnx.data"}
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StorageError, match="is not a file"):
        graph.save(model, tmp_path / "pipe")
