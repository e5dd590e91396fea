"""The table of models covers every family and matches its figures."""

import json

import numpy as np
import pytest

from edge.builder.models import network
from edge.builder.models.families import FAMILIES
from edge.engine.heads import CLASSIFICATION, FEATURES, ZERO_SHOT
from scripts.models import reference as models_reference
from scripts.models import table as models_table
from scripts.models.tiny_models import MODELS, save

pytestmark = pytest.mark.slow

FIGURES = json.loads(models_table.FIGURES.read_text())


def measured(published):
    return [row for row in FIGURES["rows"] if bool(row["published"]) is published]


def test_every_family_has_a_model_and_every_model_three_rows_per_task():
    assert {name.partition(" ")[0] for name in MODELS} == set(FAMILIES)
    found = {(row["model"], row["task"], row["precision"]) for row in measured(False)}
    assert found == {
        (name, task, precision)
        for name in MODELS
        for task in models_table.tasks(name)
        for precision in models_table.PRECISIONS
    }
    assert {row["commit"] for row in measured(False)} == {measured(False)[0]["commit"]}
    large = {(row["model"], row["task"]) for row in measured(True)}  # --full takes long
    assert large and len(measured(True)) == 3 * len(large)


def test_every_row_of_the_table_agrees_and_compiles():
    least = {"fp32": 90, "fp16": 40, "int8": 15}
    for row in measured(False):
        assert row["sqnr_db"] > least[row["precision"]], row
    for row in FIGURES["rows"]:
        assert isinstance(row["plan_mb"], float), row
        assert row["precision"] != "fp32" or row["max_error"] < 1e-4 * max(1, row["largest"])
        if row["task"] == FEATURES and row["precision"] == "fp32":
            assert row["cosine"] >= 0.9999
        assert bool(row["quantised"]) is (row["precision"] == "int8")
        never = {"convolution"} if row["task"] == FEATURES else {"convolution", "classifier"}
        assert never <= set(row["not_quantised"])


def test_the_page_is_made_from_the_figures():
    assert models_table.TABLE.read_text() == models_table.table(FIGURES)


def test_a_row_has_the_figures_that_were_measured(monkeypatch):
    original = models_reference.outputs

    def shifted(*given):
        return original(*given) + 5e-5

    # The error moves with the reference, which must be transformers' and no network of edge.
    monkeypatch.setattr(models_reference, "outputs", shifted)
    fp32, fp16, int8 = models_table.measure("vit_mae", full=False)
    assert fp32["max_error"] > 4.5e-5
    assert (fp32["family"], fp32["task"]) == ("ViTMAE", FEATURES)
    assert fp32["pooling"] == "cls"  # it has no pooler
    assert fp32["max_error"] < 1e-4 < fp16["max_error"] < int8["max_error"]
    assert 0.9 < int8["cosine"] < fp16["cosine"] <= fp32["cosine"] <= 1
    assert int8["quantised"] == "2 of 2 qkv, 2 of 2 proj, 2 of 2 fc1, 2 of 2 fc2"
    assert int8["not_quantised"] == {"convolution": 1, "attention": 4}


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("vit", CLASSIFICATION),
        ("deit distilled", FEATURES),
        ("clip", ZERO_SHOT),
        ("siglip", ZERO_SHOT),
        ("clip_vision_model", FEATURES),
        ("siglip classifier", FEATURES),
        ("timm_wrapper patch16", FEATURES),
    ],
)
def test_the_reference_agrees_and_does_not_use_edges_networks(name, task, tmp_path, monkeypatch):
    import torch

    folder = save(name, tmp_path / "checkpoint", models_table.LABELS)
    found = models_table._read(folder, task)
    side = found.preprocess.height
    pictures = np.random.default_rng(0).standard_normal((2, 3, side, side)).astype(np.float32)
    with network.quiet(), torch.inference_mode():
        ours = network.load(found)(torch.from_numpy(pictures)).numpy()
    monkeypatch.setattr(network, "load", None)
    reference = models_reference.outputs(folder, MODELS[name].architecture, found.head, pictures)
    assert reference == pytest.approx(ours, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_model_of_published_size_agrees_and_compiles(name):
    for row in models_table.measure(name, full=True):
        assert isinstance(row["plan_mb"], float), row
        assert row["precision"] != "fp32" or row["max_error"] < 1e-4 * max(1, row["largest"])
