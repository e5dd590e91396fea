"""The evaluator: its warnings about image folders, and the disagreements that it reports."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from onnx import ModelProto, helper, numpy_helper

from edge.builder import evaluator as evaluating
from edge.builder import graph, image_sets
from edge.builder.evaluator import Evaluator
from edge.builder.models.checkpoint import read_checkpoint
from edge.engine.heads import Head
from edge.errors import CalibrationError
from tests.conftest import Recorder


@pytest.fixture(scope="module")
def model(fp32_graph):
    return graph.load(fp32_graph)


@pytest.fixture(scope="module")
def evaluator(model, checkpoint, pictures):
    files = image_sets.find(pictures)
    return Evaluator(model, files, read_checkpoint(str(checkpoint)), Recorder())


@pytest.fixture(scope="module")
def contrary(model):
    """A graph whose most probable class is FP32's least probable one, for every picture."""
    return negated(model)


def outputs_of(evaluator, model):
    return evaluator.outputs({"engine": model})


def reviewed(evaluator, model):
    return evaluator.review(outputs_of(evaluator, model)["engine"])


def measured(evaluator, model):
    return evaluator.accuracy(outputs_of(evaluator, model))["engine"]


def negated(model):
    changed = ModelProto()
    changed.CopyFrom(model)
    name = changed.graph.output[0].name
    for node in changed.graph.node:
        for at, output in enumerate(node.output):
            if output == name:
                node.output[at] = "before"
    changed.graph.initializer.append(numpy_helper.from_array(np.float32(-1), "minus"))
    changed.graph.node.append(helper.make_node("Mul", ["before", "minus"], [name], "contrary"))
    return changed


def test_the_most_confident_disagreements_are_kept_and_all_are_counted(
    evaluator, contrary, monkeypatch
):
    monkeypatch.setattr(evaluating, "SHOWN", 40)
    review = reviewed(evaluator, contrary)
    everything = review.disagreements
    assert len(everything) == review.differing == 40
    sure = [one.fp32[1] for one in everything]
    assert sure == sorted(sure, reverse=True) and sure[0] > sure[-1]
    monkeypatch.setattr(evaluating, "SHOWN", 3)
    few = reviewed(evaluator, contrary)
    assert few.differing == 40
    assert [one.image for one in few.disagreements] == [one.image for one in everything[:3]]


def test_a_disagreement_names_the_image_and_both_answers(evaluator, contrary, pictures):
    for one in reviewed(evaluator, contrary).disagreements:
        assert one.fp32[0] != one.engine[0]
        assert one.truth == one.image.split("/")[0]
        assert (pictures / one.image).is_file()
        assert one.pixels.shape[1:] == (60, 3)


def test_equal_graphs_agree(evaluator, model):
    review = reviewed(evaluator, model)
    assert (review.disagreements, review.differing) == ([], 0)


def test_images_that_fp32_gets_wrong_are_shown_with_their_truth(evaluator, model, monkeypatch):
    monkeypatch.setattr(evaluating, "SHOWN", 40)
    review = reviewed(evaluator, model)
    assert review.wrong == len(review.mistakes) == round(40 * (1 - evaluator.fp32.top1 / 100)) > 0
    for one in review.mistakes:
        assert one.fp32[0] == one.engine[0] != one.truth == one.image.split("/")[0]
    sure = [one.fp32[1] for one in review.mistakes]
    assert sure == sorted(sure, reverse=True)
    monkeypatch.setattr(evaluating, "SHOWN", 2)
    few = reviewed(evaluator, model)
    assert (few.wrong, few.mistakes[0].image) == (review.wrong, review.mistakes[0].image)
    assert len(few.mistakes) == 2


def test_without_classes_fp32_has_no_mistakes_to_show(model, checkpoint, pictures, tmp_path):
    shutil.copytree(pictures / "cat", tmp_path / "monday")
    files = image_sets.find(tmp_path)
    evaluator = Evaluator(model, files, read_checkpoint(str(checkpoint)), Recorder())
    review = reviewed(evaluator, model)
    assert (review.wrong, review.mistakes) == (None, [])


def test_classes_that_share_a_label_give_one_warning_and_no_top_1(model, checkpoint, pictures):
    found, observer = read_checkpoint(str(checkpoint)), Recorder()
    head = replace(found.head, labels=("cat", "dog", "fox", "owl", "dog"))
    files = [path for path in image_sets.find(pictures) if path.parent.name != "bee"]
    evaluator = Evaluator(model, files, replace(found, head=head), observer)
    assert evaluator.fp32.top1 is None
    (warning,) = observer.warnings
    assert warning == (
        "folder 'dog' matches several classes with the same label; top-1 not measured"
    )
    assert Evaluator(model, files, found, Recorder()).fp32.top1 is not None


def test_a_folder_that_matches_no_label_gives_one_warning_and_no_top_1(
    model, checkpoint, pictures, tmp_path
):
    found = read_checkpoint(str(checkpoint))
    images = shutil.copytree(pictures, tmp_path / "images")
    warnings = []
    for name in ("Cat", "misc"):
        shutil.copytree(pictures / "cat", images / name)
        observer = Recorder()
        assert Evaluator(model, image_sets.find(images), found, observer).fp32.top1 is None
        warnings += observer.warnings
        shutil.rmtree(images / name)
    assert warnings == [
        "folder 'Cat' matches no label (did you mean 'cat'?); top-1 not measured",
        "folder 'misc' matches no label; top-1 not measured",
    ]


def test_folders_that_almost_match_labels_are_named(model, checkpoint, pictures, tmp_path):
    for wrong, right in {"Cat": "cat", "DOGS": "dog"}.items():
        shutil.copytree(pictures / right, tmp_path / wrong)
    observer, found = Recorder(), read_checkpoint(str(checkpoint))
    assert Evaluator(model, image_sets.find(tmp_path), found, observer).fp32.top1 is None
    (warning,) = observer.warnings
    assert warning.startswith("folders 'Cat', 'DOGS' match no label")
    assert warning.endswith("(did you mean 'cat'?); top-1 not measured")


def test_a_class_of_which_no_image_can_be_read_is_an_error(model, checkpoint, pictures, tmp_path):
    """Otherwise top-1 would be that of the other classes."""
    shutil.copytree(pictures / "cat", tmp_path / "cat")
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog/1.png").write_text("no picture")
    found, files = read_checkpoint(str(checkpoint)), image_sets.find(tmp_path)
    with pytest.raises(CalibrationError, match=r"none of the held-out images in .*dog can be read"):
        Evaluator(model, files, found, Recorder())


def test_folders_that_are_numbers_of_classes_are_said(model, checkpoint, pictures, tmp_path):
    for number, name in enumerate(("cat", "dog")):
        shutil.copytree(pictures / name, tmp_path / str(number))
    observer, found = Recorder(), read_checkpoint(str(checkpoint))
    assert Evaluator(model, image_sets.find(tmp_path), found, observer).fp32.top1 is None
    assert observer.warnings == [
        "the folders of the held-out images are numbers; top-1 not measured: name them like the "
        "labels, such as 'cat' for 0"
    ]


def test_folders_that_are_not_classes_at_all_give_no_warning(model, checkpoint, pictures, tmp_path):
    """A user's images may be sorted by date, or be in one folder."""
    shutil.copytree(pictures / "cat", tmp_path / "monday")
    observer, found = Recorder(), read_checkpoint(str(checkpoint))
    assert Evaluator(model, image_sets.find(tmp_path), found, observer).fp32.top1 is None
    assert observer.warnings == []


def independent(model, checkpoint, pictures, observer, labels):
    """An evaluator of a head with independent labels."""
    found = replace(
        read_checkpoint(str(checkpoint)), head=Head(labels=labels, activation="sigmoid")
    )
    return Evaluator(model, image_sets.find(pictures), found, observer)


def test_of_independent_labels_the_one_that_differs_most_is_shown(
    model, contrary, checkpoint, pictures
):
    labels = ("cat", "dog", "fox", "owl", "bee")
    evaluator = independent(model, checkpoint, pictures, Recorder(), labels)
    assert measured(evaluator, model).labels == 100
    assert measured(evaluator, contrary).labels < 50
    review = reviewed(evaluator, contrary)
    shown = review.disagreements
    assert review.differing == 40
    for one in shown:
        assert one.fp32[0] == one.engine[0]
        assert one.fp32[1] + one.engine[1] == pytest.approx(1, abs=1e-5)
        assert abs(one.fp32[1] - one.engine[1]) > 0.1
    sure = [max(one.fp32[1], 1 - one.fp32[1]) for one in shown]
    assert sure == sorted(sure, reverse=True)


def test_a_single_label_with_equal_answers_on_all_images_gives_a_warning(
    model, checkpoint, pictures, recorder
):
    one = ModelProto()
    one.CopyFrom(model)
    name = one.graph.output[0].name
    for node in one.graph.node:
        for at, output in enumerate(node.output):
            if output == name:
                node.output[at] = "before"
    one.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 1
    one.graph.initializer.append(numpy_helper.from_array(np.array([-1]), "last"))
    one.graph.node.append(helper.make_node("ReduceMax", ["before", "last"], [name], "largest"))
    independent(one, checkpoint, pictures, recorder, ("a cat",))
    assert recorder.warnings == [
        "FP32 answers yes to 'a cat' on every held-out image; hold out images of both kinds: "
        "--heldout DIR"
    ]
