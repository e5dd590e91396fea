"""Which images become witnesses, and what the engine's passport says of them."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest

from edge.builder import graph, image_sets, witnesses
from edge.builder.pipeline import build
from edge.builder.recipes import Recipe
from edge.engine.compare import accuracy_of
from edge.engine.heads import Head
from edge.engine.passport import Passport
from edge.engine.witnesses import Witnesses, network_images
from edge.preprocess.cpu import Preprocessor
from edge.preprocess.images import load_image
from edge.preprocess.spec import Preprocess
from tests.conftest import Recorder
from tests.preprocess.test_kernel import SPECS

CLASSES = Head(labels=("cat", "dog", "fox"))
SURE, UNSURE = [9.0, 0.0, 0.0], [1.1, 1.0, 0.9]


def logits(rows: list[list[float]]) -> np.ndarray:
    return np.array(rows, np.float32)


def test_half_of_them_are_where_fp32_is_least_sure_or_a_candidate_disagrees() -> None:
    reference = logits([SURE] * 100)
    reference[[7, 50]] = UNSURE
    other = reference.copy()
    other[[3, 99]] = SURE[::-1]
    found = witnesses.choose(reference, [{"portable": other}], CLASSES, 8)
    assert len(found) == 8 and found == sorted(set(found))
    assert {3, 7, 50, 99} <= set(found)
    assert found == witnesses.choose(reference, [{"portable": other}], CLASSES, 8)


def test_disagreements_come_before_unsure_images() -> None:
    reference = logits([UNSURE] * 40)
    other = reference.copy()
    other[30:] = SURE[::-1]
    found = witnesses.choose(reference, [{"a": reference}, {"b": other}], CLASSES, 16)
    assert sum(at >= 30 for at in found) >= 8


def test_with_few_images_all_are_taken() -> None:
    reference = logits([SURE, UNSURE, SURE])
    assert witnesses.choose(reference, [{"portable": reference}], CLASSES, 64) == [0, 1, 2]
    assert witnesses.choose(reference[:1], [], CLASSES, 64) == [0]


def test_independent_labels_are_unsure_near_one_half() -> None:
    head = dataclasses.replace(CLASSES, activation="sigmoid")
    reference = np.full((50, 3), -6.0, np.float32)
    reference[20, 1] = 0.1
    assert 20 in witnesses.choose(reference, [{"portable": reference}], head, 2)


def test_of_embeddings_the_least_similar_ones_are_telling() -> None:
    head = Head(task="image-feature-extraction", activation="none", pooling="cls")
    reference = np.ones((50, 8), np.float32)
    other = reference.copy()
    other[33, 0] = 1.2
    assert 33 in witnesses.choose(reference, [{"portable": other}], head, 2)


def test_a_single_label_has_no_second_best() -> None:
    reference = np.arange(10, dtype=np.float32)[:, None]
    head = Head(labels=("cat",), activation="sigmoid")
    assert len(witnesses.choose(reference, [{"a": reference}], head, 4)) == 4


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_synthetic_images_are_the_same_each_time_and_differ_from_each_other(
    spec: Preprocess,
) -> None:
    images = witnesses.synthetic(spec, 64)
    assert all(image.shape == (spec.height, spec.width, 3) for image in images)
    again = witnesses.synthetic(spec, 64)
    assert all(np.array_equal(*pair) for pair in zip(images, again, strict=True))
    assert len({image.tobytes() for image in images}) == 64
    tensor = Preprocessor(network_images(spec))(images[0])
    assert tensor.shape == (3, spec.height, spec.width)


def test_an_engine_carries_held_out_images_and_fp32_s_answers(
    built_engine: Path, fp32_graph: Path, pictures: Path
) -> None:
    passport = Passport.read(built_engine)
    found = Witnesses.load(built_engine, passport)
    assert passport.witnesses is not None
    assert (passport.witnesses.images, len(found)) == (8, 8)
    assert passport.witnesses.origin == "8 of 8 held-out images"
    assert set(passport.witnesses.accuracy) == {"int8"}
    assert set(passport.witnesses.accuracy["int8"]) == {"portable", "device"}
    assert passport.accuracy["portable"].sqnr_db == pytest.approx(
        passport.witnesses.accuracy["int8"]["portable"].sqnr_db
    )  # all held-out images are witnesses here
    tensors = np.stack(
        [Preprocessor(network_images(passport.preprocess))(image) for image in found.images]
    )
    answers = graph.session(graph.load(fp32_graph)).logits(tensors)
    assert np.abs(answers - found.outputs).max() < 1e-4


def digests(tensors: list[np.ndarray]) -> set[str]:
    return {hashlib.sha256(tensor.tobytes()).hexdigest() for tensor in tensors}


def test_none_of_them_is_among_the_calibration_images(built_engine: Path, pictures: Path) -> None:
    passport = Passport.read(built_engine)
    found = Witnesses.load(built_engine, passport)
    calibration, heldout = image_sets.hold_out(image_sets.find(pictures))
    bare, whole = (
        Preprocessor(spec) for spec in (network_images(passport.preprocess), passport.preprocess)
    )
    carried = digests([bare(image) for image in found.images])
    assert carried == digests([whole(load_image(path)) for path in heldout])
    assert not carried & digests([whole(load_image(path)) for path in calibration])


def test_no_witnesses_stores_no_image_of_yours(
    checkpoint: Path, pictures: Path, warm: Path
) -> None:
    settings = {"precision": "auto", "min_agreement": 50.0, "witnesses": False}
    recipe = Recipe(str(checkpoint), pictures, name="private", engines=warm, **settings)
    passport = build(recipe, Recorder()).passport
    assert passport.witnesses is not None
    assert passport.witnesses.origin == "synthetic images (--no-witnesses)"
    found = Witnesses.load(warm / "private", passport)
    assert len(found) == 64
    spec = passport.preprocess
    expected = witnesses.synthetic(spec, 64)
    assert all(np.array_equal(*pair) for pair in zip(found.images, expected, strict=True))
    assert set(passport.witnesses.accuracy) == set(passport.candidates)
    fp32 = passport.witnesses.accuracy["fp32"]["portable"]
    assert fp32 == accuracy_of(found.outputs, found.outputs, passport.head)
    assert sum((warm / "private" / f"witnesses.{kind}").stat().st_size for kind in ("png", "npz"))
