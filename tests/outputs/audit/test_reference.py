"""Reference: which engines are accepted as the reference of another engine."""

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
    """Copies the reference and changes its passport."""

    def change(**changes):
        folder = shutil.copytree(fp32_engine, tmp_path / "reference")
        dataclasses.replace(Passport.read(folder), **changes).write(folder)
        return folder

    return change


def test_the_fp32_engine_of_the_same_checkpoint_is_accepted(engine, fp32_engine):
    assert Reference.find(engine, fp32_engine) == Reference(fp32_engine, "model.onnx")


def test_an_fp32_engine_is_its_own_reference(fp32_engine):
    assert Reference.find(Passport.read(fp32_engine), fp32_engine).graph == "model.onnx"


def test_a_relative_folder_becomes_absolute(engine, fp32_engine, monkeypatch):
    monkeypatch.chdir(fp32_engine.parent)
    assert Reference.find(engine, Path(fp32_engine.name)).folder == fp32_engine


def test_an_engine_that_contains_an_fp32_graph_is_accepted(engine, fp32_engine, copy):
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
        (
            {"checkpoint": Origin("other", "ViT", {})},
            r"were built from different checkpoints \(other\)",
        ),
        (
            {"head": Head(labels=("a", "b")), "outputs": 2},
            "and tiny-int8 differ in task, labels or preprocessing",
        ),
        ({"precision": "int8"}, "is int8; a reference must have an FP32 graph"),
    ],
)
def test_other_engines_are_refused_with_the_command_that_builds_a_reference(
    engine, copy, changes, words
):
    with pytest.raises(EngineError, match=words) as caught:
        Reference.find(engine, copy(**changes))
    assert f"edge build {engine.checkpoint.name} " in caught.value.hint
    assert "--precision fp32 --name tiny-int8-fp32" in caught.value.hint


def test_an_engine_with_different_preprocessing_is_refused(engine, copy):
    changed = dataclasses.replace(engine.preprocess, bgr=True)
    with pytest.raises(EngineError, match="differ in task, labels or preprocessing"):
        Reference.find(engine, copy(preprocess=changed))


def test_a_missing_reference_is_refused_with_the_command_that_builds_it(engine, tmp_path):
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
def test_the_command_has_the_task_and_labels_of_the_engine(engine, tmp_path, head, words):
    engine = dataclasses.replace(engine, head=head, outputs=len(head.labels) or 64)
    expected = words + [word for one in head.templates for word in ("--template", one)]
    assert command(engine, tmp_path)[3:-6] == expected


@pytest.mark.parametrize("labels", [("a cat, asleep", "a dog"), tuple(map(str, range(1000)))])
def test_long_or_comma_separated_labels_go_into_a_file(engine, tmp_path, labels):
    head = Head(ZERO_SHOT, labels, "softmax", templates=TEMPLATES)
    engine = dataclasses.replace(engine, head=head, outputs=len(labels))
    words = command(engine, tmp_path, "with the engine's labels in labels.txt, one per line")
    assert words[words.index("--labels") + 1] == "labels.txt"


def command(engine, tmp_path, introduction="build one"):
    """The words of the command in the hint about a missing reference."""
    with pytest.raises(EngineError) as caught:
        Reference.find(engine, tmp_path / "absent")
    before, _, after = caught.value.hint.partition(": ")
    assert introduction in before
    return shlex.split(after)


@pytest.mark.slow
def test_the_command_builds_a_reference_that_is_accepted(pictures, tmp_path, edge_command):
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
    arguments = command(engine, tmp_path)
    assert arguments[0] == "edge"
    arguments[arguments.index("DIR")] = str(pictures)
    edge_command(*arguments[1:], cwd=tmp_path, check=True)
    found = Reference.find(engine, tmp_path / "engines/pets-fp32")
    assert found == Reference(tmp_path / "engines/pets-fp32", "model.onnx")


def test_a_damaged_graph_is_refused(engine, copy):
    folder = copy()
    with (folder / "model.onnx").open("r+b") as file:
        file.seek(1000)
        file.write(b"damage")
    with pytest.raises(EngineError, match=r"model\.onnx is damaged"):
        Reference.find(engine, folder)
