import json
import shutil
from collections import Counter

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from edge.builder import export as exporting
from edge.builder import graph, image_sets
from edge.builder.models import network
from edge.builder.models.checkpoint import read_checkpoint
from edge.builder.simplify import simplify
from edge.errors import CheckpointError, GraphError
from scripts.models.tiny_models import save
from tests.conftest import LABELS, save_checkpoint


@pytest.fixture(scope="module")
def found(checkpoint):
    return read_checkpoint(str(checkpoint))


@pytest.fixture(scope="module")
def few(found, pictures):
    return image_sets.prepare_first(image_sets.find(pictures), found.preprocess, 3, print)


@pytest.fixture(scope="module")
def exported(found, few):
    return exporting.export(found, few)


def test_keeps_what_tensorrt_fuses(exported):
    operators = Counter(node.op_type for node in exported[0].graph.node)
    assert operators["LayerNormalization"] == 5
    assert operators["Gelu"] == operators["Softmax"] == 2
    assert not {"Erf", "Pow", "ReduceMean", "IsNaN", "Where"} & set(operators)
    assert [(entry.domain, entry.version) for entry in exported[0].opset_import] == [("", 20)]


def test_the_query_is_scaled_before_the_product(exported):
    index = graph.Index(exported[0])
    for softmax in (node for node in exported[0].graph.node if node.op_type == "Softmax"):
        product = index.maker[softmax.input[0]]
        assert product.op_type == "MatMul"
        assert index.maker[product.input[0]].op_type == "Mul"


def test_outputs_equal_transformers_for_any_batch(exported, checkpoint, few):
    import torch
    from transformers import AutoModelForImageClassification

    model = AutoModelForImageClassification.from_pretrained(checkpoint).eval()
    session = graph.session(exported[0])
    for batch in (few[:1], few, np.concatenate([few, few])):
        with torch.inference_mode():
            expected = model(pixel_values=torch.from_numpy(batch)).logits.numpy()
        assert session.logits(batch) == pytest.approx(expected, abs=1e-4)
    assert exported[1] < 1e-4


def test_a_deit_is_exported(tmp_path, few):
    folder = save_checkpoint(tmp_path / "deit")
    from transformers import DeiTConfig, DeiTForImageClassification, DeiTImageProcessorPil

    settings = json.loads((folder / "config.json").read_text())
    config = DeiTConfig(
        **{key: settings[key] for key in ("image_size", "patch_size")},
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
    )
    DeiTForImageClassification(config).save_pretrained(folder)
    size = {"height": 32, "width": 32}
    DeiTImageProcessorPil(size=size, crop_size=size).save_pretrained(folder)
    _, difference = exporting.export(read_checkpoint(str(folder)), few)
    assert difference < 1e-4


def test_weights_that_are_missing_are_named(checkpoint, tmp_path, few):
    folder = shutil.copytree(checkpoint, tmp_path / "headless")
    weights = load_file(folder / "model.safetensors")
    weights = {name: value for name, value in weights.items() if "classifier" not in name}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"classifier.bias.*fine-tune"):
        exporting.export(read_checkpoint(str(folder)), few)
    weights = {name: value for name, value in weights.items() if "layernorm" not in name}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"classifier.bias.* and 9 more; .*download it again"):
        exporting.export(read_checkpoint(str(folder)), few)


@pytest.mark.parametrize(
    ("name", "changes"),
    [("dinov2", {}), ("dinov2_with_registers", {}), ("beit", {"use_mask_token": True})],
)
def test_a_missing_mask_token_is_no_error(name, changes, tmp_path):
    import torch
    from transformers import AutoModelForImageClassification

    folder = save(name, tmp_path / name, LABELS, **changes)
    weights = load_file(folder / "model.safetensors")
    (mask,) = (key for key in weights if key.endswith("embeddings.mask_token"))
    del weights[mask]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    pictures = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    theirs = AutoModelForImageClassification.from_pretrained(folder).eval()
    with torch.inference_mode(), network.quiet():
        given = network.load(read_checkpoint(str(folder)))(pictures)
        torch.testing.assert_close(given, theirs(pictures).logits)


def test_a_checkpoint_that_gives_nan_is_refused(checkpoint, tmp_path, few):
    folder = shutil.copytree(checkpoint, tmp_path / "nan")
    weights = load_file(folder / "model.safetensors")
    weights["classifier.bias"] = weights["classifier.bias"] * np.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="itself outputs NaN"):
        exporting.export(read_checkpoint(str(folder)), few)


def test_weights_of_another_shape_are_refused(checkpoint, tmp_path, few):
    folder = shutil.copytree(checkpoint, tmp_path / "other")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 96}))
    with pytest.raises(CheckpointError, match=r"use config.json and weights of"):
        exporting.export(read_checkpoint(str(folder)), few)


def test_a_graph_that_disagrees_with_its_checkpoint_is_refused(exported, few):
    reference = graph.session(exported[0]).logits(few)
    with pytest.raises(GraphError, match=r"differs from the checkpoint by 0\.1"):
        exporting.compare(exported[0], few, reference + 0.1, "the exported graph", "the checkpoint")
    with pytest.raises(GraphError, match="differs"):
        exporting.compare(exported[0], few, reference * np.nan, "this", "that")


def test_simplify_keeps_the_function_and_the_metadata(exported, few):
    simpler, difference = simplify(exported[0], few)
    assert len(simpler.graph.node) <= len(exported[0].graph.node)
    assert difference < 1e-5
    assert graph.metadata(simpler) == graph.metadata(exported[0])
