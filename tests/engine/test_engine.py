import dataclasses
import shutil

import numpy as np
import pytest
from PIL import Image

import edge
from edge.engine.engine import Engine, Prediction
from edge.engine.passport import Passport
from edge.errors import BackendError, EngineError, ImageError
from edge.sources.frame import Frame
from tests.preprocess.picture_files import CLEAR
from tests.preprocess.pictures import noise


@pytest.fixture
def copy(built_engine, tmp_path):
    return shutil.copytree(built_engine, tmp_path / "tiny")


def test_a_loaded_engine_predicts_like_its_checkpoint(built_engine, checkpoint, pictures):
    import torch
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    model = AutoModelForImageClassification.from_pretrained(checkpoint).eval()
    processor = AutoImageProcessor.from_pretrained(checkpoint, backend="pil")
    path = sorted(pictures.rglob("*.png"))[0]
    inputs = processor(Image.open(path).convert("RGB"), return_tensors="pt")
    with torch.inference_mode():
        expected = model(**inputs).logits.softmax(-1)[0].numpy()
    with edge.load(built_engine, backend="onnxruntime") as loaded:
        prediction = loaded(path)
        assert prediction.probabilities == pytest.approx(expected, abs=0.05)  # INT8
        assert prediction.class_names == ("cat", "dog", "fox", "owl", "bee")
        assert (loaded(Image.open(path)).probabilities == prediction.probabilities).all()
        pixels = np.asarray(Image.open(path).convert("RGB"))
        assert (loaded(pixels).probabilities == prediction.probabilities).all()


def test_a_prediction_ranks_its_classes():
    prediction = Prediction(np.array([0.1, 0.6, 0.3], np.float32), ("a", "b", "c"))
    assert (prediction.class_id, prediction.label) == (1, "b")
    assert prediction.confidence == pytest.approx(0.6)
    assert [(i, label) for i, label, _ in prediction.top(2)] == [(1, "b"), (2, "c")]
    assert len(prediction.top(9)) == 3
    with pytest.raises(ValueError, match="k is 0, and must be at least 1"):
        prediction.top(0)


def test_probabilities_are_a_softmax_that_does_not_overflow(built_engine):
    with Engine.open(built_engine, backend="onnxruntime") as opened:
        sure = opened.predict(np.array([1000, 0, 0, 0, 0], np.float32))
    assert sure.confidence == 1.0
    assert sure.probabilities.sum() == pytest.approx(1)


@pytest.mark.parametrize(
    ("picture", "named"),
    [
        ("absent.png", "absent.png does not exist; check the path"),
        (None, "an image cannot be a NoneType; give a path, a PIL image or uint8 RGB"),
        (b"\xff\xd8\xff", "an image cannot be a bytes"),
        (Image.new("La", (4, 4)), "cannot convert a PIL image of mode La to RGB"),
        (Image.new("RGB", (4, 0)), "the image is uint8 [0, 4, 3]"),
        (np.zeros((4, 4), np.uint8), "the image is uint8 [4, 4]; give uint8 RGB [height"),
        (np.zeros((4, 4, 4), np.uint8), "the image is uint8 [4, 4, 4]"),
        (np.zeros((3, 4, 4), np.uint8), "the image is uint8 [3, 4, 4]"),
        (np.zeros((2, 4, 4, 3), np.uint8), "the image is uint8 [2, 4, 4, 3]"),
        (np.zeros((4, 4, 3), np.float32), "the image is float32 [4, 4, 3]"),
        (np.zeros((4, 4, 3), np.uint16), "the image is uint16 [4, 4, 3]"),
        (np.zeros((4, 4, 3), bool), "the image is bool [4, 4, 3]"),
        (np.zeros((4, 4, 3), object), "the image is object [4, 4, 3]"),
        (np.zeros((0, 4, 3), np.uint8), "the image is uint8 [0, 4, 3]"),
        (np.uint8(7) * np.ones((), np.uint8), "an image cannot be a uint8"),
    ],
)
def test_an_invalid_image_is_refused(built_engine, picture, named):
    with Engine.open(built_engine, backend="onnxruntime") as opened:
        with pytest.raises(ImageError) as caught:
            opened(picture)
        assert str(caught.value).startswith(named)


def test_a_transparent_colour_is_refused_if_the_processor_may_paint_it(copy, tmp_path):
    CLEAR["rgb.png"].make(tmp_path / "clear.png")
    passport = Passport.read(copy)
    with Engine.open(copy, backend="onnxruntime") as opened:
        assert opened(tmp_path / "clear.png").label
    preprocess = dataclasses.replace(passport.preprocess, opaque=True)
    dataclasses.replace(passport, preprocess=preprocess).write(copy)
    with Engine.open(copy, backend="onnxruntime") as opened:
        for picture in (tmp_path / "clear.png", Image.open(tmp_path / "clear.png")):
            with pytest.raises(ImageError, match="has a transparent colour"):
                opened(picture)


def test_a_batch_of_another_shape_is_a_backend_error(built_engine):
    with Engine.open(built_engine, backend="onnxruntime") as opened:
        assert opened.infer(np.zeros((3, 3, 32, 32), np.float32)).shape == (3, 5)
        with pytest.raises(BackendError, match="batch of"):
            opened.infer(np.zeros((1, 3, 16, 16), np.float32))


def test_a_damaged_graph_is_found_before_it_is_loaded(copy):
    (copy / "model.onnx").write_bytes((copy / "model.onnx").read_bytes()[:100])
    with pytest.raises(EngineError, match="is damaged"):
        Engine.open(copy, backend="onnxruntime")


def test_the_network_input_of_each_frame_can_be_read(built_engine):
    frames = [noise("I420", 50, 40, seed=seed) for seed in range(3)]
    with Engine.open(built_engine, backend="onnxruntime") as opened:
        slots = [opened.slot() for _ in frames]
        for slot, surface in zip(slots, frames, strict=True):
            slot.put(Frame("test", 0, None, 0.0, "system", surface))
        for batch in (slice(0, 1), slice(1, 3)):
            opened.start(slots[batch])
            opened.finish()
            for index, surface in enumerate(frames[batch]):
                seen = opened.network_input(index)
                assert np.array_equal(seen, opened.preprocess(surface))
                assert not np.shares_memory(seen, slots[batch][index].tensor)


def test_closing_twice_is_harmless_and_a_closed_engine_cannot_be_used(built_engine, pictures):
    engine = Engine.open(built_engine, backend="onnxruntime")
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="the engine tiny-int8 is closed"):
        engine(next(pictures.rglob("*.png")))
    assert engine.backend == "onnxruntime"
