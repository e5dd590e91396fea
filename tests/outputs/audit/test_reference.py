"""What an engine may be audited against, and what it must not be."""

import dataclasses
import shlex
import shutil
from pathlib import Path

import pytest

from edge.builder.pipeline import build
from edge.builder.recipes import Recipe
from edge.engine.heads import FEATURES, ZERO_SHOT, Head
from edge.engine.passport import Carried, Origin, Passport
from edge.errors import EngineError
from edge.outputs.audit.reference import Reference
from scripts.models.tiny_models import save
from tests.conftest import Recorder


@pytest.fixture
def engine(built_engine):
    return Passport.read(built_engine)


@pytest.fixture
def copy(fp32_engine, tmp_path):
    """Copies the reference, with another passport."""

    def change(**changes):
        folder = shutil.copytree(fp32_engine, tmp_path / "reference")
        dataclasses.replace(Passport.read(folder), **changes).write(folder)
        return folder

    return change


def test_the_fp32_engine_of_the_same_checkpoint_is_one(engine, fp32_engine):
    assert Reference.find(engine, fp32_engine) == Reference(fp32_engine, "model.onnx")


def test_an_engine_may_be_held_against_itself(fp32_engine):
    assert Reference.find(Passport.read(fp32_engine), fp32_engine).graph == "model.onnx"


def test_a_relative_folder_is_found_from_anywhere(engine, fp32_engine, monkeypatch):
    monkeypatch.chdir(fp32_engine.parent)
    assert Reference.find(engine, Path(fp32_engine.name)).folder == fp32_engine


def test_an_engine_that_carries_an_fp32_graph_is_one(engine, fp32_engine, copy):
    files = Passport.read(fp32_engine).files
    folder = copy(
        precision="int8",
        files={**files, "fp32.onnx": files["model.onnx"]},
        candidates={"fp32": Carried("fp32.onnx", {}, None)},
    )
    with pytest.raises(EngineError, match=r"fp32\.onnx is missing"):
        Reference.find(engine, folder)
    shutil.copy(folder / "model.onnx", folder / "fp32.onnx")
    assert Reference.find(engine, folder) == Reference(folder, "fp32.onnx")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"checkpoint": Origin("other", "ViT", {})}, "built from another checkpoint, other"),
        (
            {"head": Head(labels=("a", "b")), "outputs": 2},
            "reads the checkpoint otherwise than tiny-int8",
        ),
        ({"precision": "int8"}, "is in int8, which is no reference"),
    ],
)
def test_others_are_refused_with_the_command_that_builds_one(engine, copy, changes, words):
    with pytest.raises(EngineError, match=words) as caught:
        Reference.find(engine, copy(**changes))
    assert f"edge build {engine.checkpoint.name} " in caught.value.hint
    assert "--precision fp32 --name tiny-int8-fp32" in caught.value.hint


def test_one_with_another_preprocessing_is_refused(engine, copy):
    changed = dataclasses.replace(engine.preprocess, bgr=True)
    with pytest.raises(EngineError, match="reads the checkpoint otherwise"):
        Reference.find(engine, copy(preprocess=changed))


def test_one_that_is_not_there_is_to_be_built(engine, tmp_path):
    with pytest.raises(EngineError, match="there is no reference at") as caught:
        Reference.find(engine, tmp_path / "absent")
    assert "edge build" in caught.value.hint


TEMPLATES = ("a photo of {}.", "{} at night")


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (Head(labels=("cat", "dog")), []),
        (Head(FEATURES, (), "none", "own"), ["--task", FEATURES]),
        (
            Head(FEATURES, (), "none", "mean", normalised=True),
            ["--task", FEATURES, "--pooling", "mean", "--normalise"],
        ),
        (
            Head(ZERO_SHOT, ("a cat", "it's"), "softmax", templates=TEMPLATES),
            ["--task", ZERO_SHOT, "--labels", "a cat,it's"],
        ),
    ],
)
def test_the_command_asks_the_same_of_the_checkpoint(engine, tmp_path, head, words):
    engine = dataclasses.replace(engine, head=head, outputs=len(head.labels) or 64)
    asked = words + [word for one in head.templates for word in ("--template", one)]
    assert command(engine, tmp_path)[3:-6] == asked


@pytest.mark.parametrize("labels", [("a cat, asleep", "a dog"), tuple(map(str, range(1000)))])
def test_labels_that_cannot_be_typed_go_into_a_file(engine, tmp_path, labels):
    head = Head(ZERO_SHOT, labels, "softmax", templates=TEMPLATES)
    engine = dataclasses.replace(engine, head=head, outputs=len(labels))
    words = command(engine, tmp_path, "with the engine's labels in labels.txt, one per line")
    assert words[words.index("--labels") + 1] == "labels.txt"


def command(engine, tmp_path, remark="build one"):
    """The command that a missing reference is answered with, in words."""
    with pytest.raises(EngineError) as caught:
        Reference.find(engine, tmp_path / "absent")
    before, _, after = caught.value.hint.partition(": ")
    assert remark in before
    return shlex.split(after)


def test_the_command_builds_a_reference_that_fits(pictures, tmp_path, edge_command):
    recipe = Recipe(
        str(save("clip", tmp_path / "a clip")),
        pictures,
        name="pets",
        labels=("a cat", "a dog"),
        templates=TEMPLATES,
        image_size=48,
        precision="fp16",
        gate=False,
        engines=tmp_path / "engines",
    )
    engine = build(recipe, Recorder()).passport
    assert engine.checkpoint.image_size == 48
    said = command(engine, tmp_path)
    assert said[0] == "edge"
    said[said.index("DIR")] = str(pictures)
    edge_command(*said[1:], cwd=tmp_path, check=True)
    found = Reference.find(engine, tmp_path / "engines/pets-fp32")
    assert found == Reference(tmp_path / "engines/pets-fp32", "model.onnx")


def test_a_damaged_graph_is_named(engine, copy):
    folder = copy()
    with (folder / "model.onnx").open("r+b") as file:
        file.seek(1000)
        file.write(b"damage")
    with pytest.raises(EngineError, match=r"model\.onnx is damaged"):
        Reference.find(engine, folder)
