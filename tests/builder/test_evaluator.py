"""The held-out images as a judge: what is said of them, and what is shown of it."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from onnx import ModelProto, helper, numpy_helper

from edge.builder import evaluator as judging
from edge.builder import graph, image_sets
from edge.builder.evaluator import Evaluator
from edge.builder.models.checkpoint import read_checkpoint
from edge.engine.heads import Head
from tests.conftest import Recorder


@pytest.fixture(scope="module")
def model(fp32_graph):
    return graph.load(fp32_graph)


@pytest.fixture(scope="module")
def judge(model, checkpoint, pictures):
    files = image_sets.find(pictures)
    return Evaluator(model, files, read_checkpoint(str(checkpoint)), Recorder())


@pytest.fixture(scope="module")
def contrary(model):
    """A graph that says of every picture what FP32 holds for the least likely."""
    return negated(model)


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


def test_of_many_disagreements_the_surest_are_kept_and_all_are_counted(
    judge, contrary, monkeypatch
):
    monkeypatch.setattr(judging, "SHOWN", 40)
    everything, differing = judge.disagreements(contrary)
    assert len(everything) == differing == 40
    sure = [one.fp32[1] for one in everything]
    assert sure == sorted(sure, reverse=True) and sure[0] > sure[-1]
    monkeypatch.setattr(judging, "SHOWN", 3)
    few, differing = judge.disagreements(contrary)
    assert differing == 40
    assert [one.image for one in few] == [one.image for one in everything[:3]]


def test_a_disagreement_says_what_either_says_of_which_picture(judge, contrary, pictures):
    shown, _ = judge.disagreements(contrary)
    for one in shown:
        assert one.fp32[0] != one.engine[0]
        assert (pictures / one.image).is_file()
        assert one.pixels.shape[1:] == (60, 3)


def test_equal_graphs_agree(judge, model):
    assert judge.disagreements(model) == ([], 0)


def test_classes_that_share_a_label_are_told_of_once_and_not_guessed(model, checkpoint, pictures):
    found, observer = read_checkpoint(str(checkpoint)), Recorder()
    head = replace(found.head, labels=("cat", "dog", "fox", "owl", "dog"))
    files = [path for path in image_sets.find(pictures) if path.parent.name != "bee"]
    told = Evaluator(model, files, replace(found, head=head), observer)
    assert told.fp32.top1 is None
    (warning,) = observer.warnings
    assert warning.startswith("dog is the label of several classes")
    assert Evaluator(model, files, found, Recorder()).fp32.top1 is not None


def test_a_folder_that_is_no_class_is_named_once_and_top_1_is_not_measured(
    model, checkpoint, pictures, tmp_path
):
    found = read_checkpoint(str(checkpoint))
    odd = shutil.copytree(pictures, tmp_path / "odd")
    told = []
    for name in ("Cat", "misc"):
        shutil.copytree(pictures / "cat", odd / name)
        observer = Recorder()
        assert Evaluator(model, image_sets.find(odd), found, observer).fp32.top1 is None
        told += observer.warnings
        shutil.rmtree(odd / name)
    assert told[0].startswith(
        "no class of the model is called Cat, as folders of images are: top-1"
    )
    assert told[0].endswith("(did you mean cat?)")
    assert told[1].endswith("called misc, as folders of images are: top-1 is not measured")
    assert len(told) == 2


def test_folders_that_are_all_almost_classes_are_named(model, checkpoint, pictures, tmp_path):
    for wrong, right in {"Cat": "cat", "DOGS": "dog"}.items():
        shutil.copytree(pictures / right, tmp_path / wrong)
    observer, found = Recorder(), read_checkpoint(str(checkpoint))
    assert Evaluator(model, image_sets.find(tmp_path), found, observer).fp32.top1 is None
    (warning,) = observer.warnings
    assert warning.startswith("no class of the model is called Cat, DOGS")
    assert warning.endswith("(did you mean cat?)")


def test_folders_that_are_no_classes_at_all_are_nothing_to_tell_of(
    model, checkpoint, pictures, tmp_path
):
    """Pictures of one's own domain may lie by date, or in one folder."""
    shutil.copytree(pictures / "cat", tmp_path / "monday")
    observer, found = Recorder(), read_checkpoint(str(checkpoint))
    assert Evaluator(model, image_sets.find(tmp_path), found, observer).fp32.top1 is None
    assert observer.warnings == []


def judging_alone(model, checkpoint, pictures, observer, labels):
    """A judge of a head whose labels each have a probability of their own."""
    found = replace(
        read_checkpoint(str(checkpoint)), head=Head(labels=labels, activation="sigmoid")
    )
    return Evaluator(model, image_sets.find(pictures), found, observer)


def test_of_labels_each_by_itself_the_one_is_shown_that_differs_most(
    model, contrary, checkpoint, pictures
):
    labels = ("cat", "dog", "fox", "owl", "bee")
    judge = judging_alone(model, checkpoint, pictures, Recorder(), labels)
    assert judge({"same": model})["same"].labels == 100
    assert judge({"contrary": contrary})["contrary"].labels < 50
    shown, differing = judge.disagreements(contrary)
    assert differing == 40
    for one in shown:
        assert one.fp32[0] == one.engine[0]
        assert one.fp32[1] + one.engine[1] == pytest.approx(1, abs=1e-5)
        assert abs(one.fp32[1] - one.engine[1]) > 0.1
    sure = [max(one.fp32[1], 1 - one.fp32[1]) for one in shown]
    assert sure == sorted(sure, reverse=True)


def test_one_label_that_no_image_shows_is_said_to_be_no_test(model, checkpoint, pictures, recorder):
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
    judging_alone(one, checkpoint, pictures, recorder, ("a cat",))
    assert recorder.warnings == [
        "FP32 says yes to 'a cat' on every held-out image: judge with images of both, --heldout DIR"
    ]
