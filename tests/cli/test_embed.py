"""Embeddings and zero-shot labels on the command line."""

import json
import time

import numpy as np
import pytest
import torch
from transformers import ViTImageProcessorPil, ViTModel

import edge
from edge.errors import EngineError
from scripts.models.tiny_models import save
from tests.cli.test_cli import fails

LABELS = ("a cat", "a dog", "an owl")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return save("vit backbone", tmp_path_factory.mktemp("backbone") / "vit")


@pytest.fixture(scope="module")
def embedder(backbone, pictures, tmp_path_factory):
    from edge.builder.pipeline import build
    from edge.builder.recipes import Recipe
    from tests.conftest import Recorder

    engines = tmp_path_factory.mktemp("engines")
    recipe = Recipe(
        str(backbone),
        pictures,
        name="embeds",
        task="image-feature-extraction",
        precision="fp32",
        engines=engines,
    )
    return build(recipe, Recorder()).folder


@pytest.fixture(scope="module")
def few(pictures):
    return sorted(pictures.rglob("*.png"))[:3]


def test_pictures_become_what_transformers_makes_of_them(edge_command, embedder, backbone, few):
    from PIL import Image

    model, processor = (one.from_pretrained(backbone) for one in (ViTModel, ViTImageProcessorPil))
    done = edge_command("embed", embedder, *few)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["image"] for line in lines] == [str(path) for path in few]
    for path, line in zip(few, lines, strict=True):
        inputs = processor(Image.open(path).convert("RGB"), return_tensors="pt")
        with torch.inference_mode():
            expected = model.eval()(**inputs).pooler_output[0].numpy()
        found = np.array(line["embedding"], np.float32)
        np.testing.assert_allclose(found, expected, atol=1e-4)
        with edge.load(embedder, backend="onnxruntime") as same:
            np.testing.assert_array_equal(found, same.embed(path))  # to the last bit


def test_all_in_one_file_or_none(edge_command, embedder, few, tmp_path):
    out = tmp_path / "x.npy"
    done = edge_command("embed", embedder, *few, "--out", out)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    rows = np.load(out)
    assert (rows.shape, rows.dtype) == ((3, 64), np.float32)
    with edge.load(embedder, backend="onnxruntime") as model:
        np.testing.assert_array_equal(rows[2], model.embed(few[2]))
    before = out.read_bytes()
    fails(edge_command("embed", embedder, few[0], tmp_path / "no.png", "--out", out), "no.png")
    assert out.read_bytes() == before
    fails(edge_command("embed", embedder, few[0], "--out", tmp_path / "x.csv"), ".npy")


def test_a_picture_that_cannot_be_read_is_named_and_the_others_go_on(
    edge_command, embedder, few, tmp_path
):
    done = edge_command("embed", embedder, tmp_path / "no.png", few[0])
    fails(done, "no.png")
    assert [json.loads(line)["image"] for line in done.stdout.splitlines()] == [str(few[0])]


def test_what_another_task_s_engine_cannot_do_is_refused(edge_command, embedder, built_engine, few):
    fails(edge_command("classify", embedder, few[0]), "returns embeddings", "edge embed")
    fails(edge_command("embed", built_engine, few[0]), "returns classes", "edge classify")
    with (
        edge.load(embedder, backend="onnxruntime") as model,
        pytest.raises(EngineError, match=r"model.embed\(image\)"),
    ):
        model(few[0])


def test_a_run_refuses_before_it_opens_a_camera(edge_command, embedder, tmp_path):
    """The camera is one that would be waited for."""
    start = time.monotonic()
    done = edge_command("run", embedder, "--source", "rtsp://127.0.0.1:9/x", "--wait")
    fails(done, "returns embeddings", "edge embed")
    assert "rtsp" not in done.stderr
    assert time.monotonic() - start < 60


def test_it_is_inspected_and_timed(edge_command, embedder):
    said = edge_command("inspect", embedder).stdout
    assert "image-feature-extraction" in said
    assert "embedding [N, 64] float32, pooling own" in said
    assert "lowest cosine 1.00000" in said
    row = json.loads(edge_command("bench", embedder, "--rounds", "1").stdout)
    assert row["engine"] == str(embedder)


def test_labels_on_the_command_line_make_a_classifier(edge_command, pictures, few, tmp_path):
    checkpoint = save("clip", tmp_path / "clip")
    words = ["build", checkpoint, "--calibration", pictures, "--engines", tmp_path / "engines"]
    words += ["--name", "zero", "--precision", "fp32"]
    fails(edge_command(*words), "needs labels", "--labels")
    words += ["--labels", ",".join(LABELS), "--template", "a photo of {}.", "--template", "{}"]
    built = edge_command(*words)
    assert built.returncode == 0, built.stderr
    done = edge_command("classify", built.stdout.strip(), few[0], "--top", "3")
    top = json.loads(done.stdout)["top"]
    assert {one["label"] for one in top} == {*LABELS}
    assert sum(one["confidence"] for one in top) == pytest.approx(1, abs=1e-4)
    said = edge_command("inspect", built.stdout.strip()).stdout
    assert "3 classes, softmax: a cat, a dog, an owl, prompts: a photo of {}. | {}" in said
