"""Stages that are taken from the cache while what they depend on is unchanged, and only then."""

import dataclasses
import json
import shutil

import pytest

from edge.builder.cache import keep
from edge.builder.pipeline import build
from edge.engine.heads import CLASSIFICATION, FEATURES
from edge.errors import CalibrationError, GraphError
from tests.conftest import Recorder, save_checkpoint


@pytest.mark.parametrize(
    "change",
    [
        {"method": "minmax"},
        pytest.param({"max_batch": 2}, marks=pytest.mark.slow),
        pytest.param({"min_agreement": 40}, marks=pytest.mark.slow),
    ],
)
def test_another_setting_builds_again_from_the_cached_graph(recipe, change):
    build(recipe, Recorder())
    observer = Recorder()
    assert build(dataclasses.replace(recipe, **change), observer).fresh
    assert observer.stages[1] == "export, simplify"
    assert "export" not in observer.stages


def test_naming_a_default_reuses_the_same_graph(recipe):
    """The command for an audit's reference engine names the defaults."""
    observer = Recorder()
    named = dataclasses.replace(recipe, task=CLASSIFICATION, image_size=32, name="named")
    build(named, observer)
    assert "export" not in observer.stages


@pytest.mark.slow
def test_the_same_checkpoint_for_another_task_is_exported_again(recipe):
    observer = Recorder()
    asked = {"task": FEATURES, "pooling": "cls", "precision": "fp32", "name": "features"}
    build(dataclasses.replace(recipe, **asked), observer)
    assert "export" in observer.stages


@pytest.mark.slow
def test_another_checkpoint_is_exported_again(recipe, checkpoint, tmp_path):
    copy = shutil.copytree(checkpoint, tmp_path / "vit")
    config = json.loads((copy / "config.json").read_text())
    config["id2label"]["0"] = "lynx"
    (copy / "config.json").write_text(json.dumps(config))
    observer = Recorder()
    changed = dataclasses.replace(recipe, checkpoint=str(copy), name="lynx")
    assert build(changed, observer).passport.labels[0] == "lynx"
    assert "export" in observer.stages


@pytest.mark.parametrize("pattern", ["simplified-*.onnx", "ranges-*.json"])
def test_a_damaged_cached_stage_runs_again(recipe, warm, pattern):
    """Whatever the damage: see test_cache.py."""
    whole = build(recipe, Recorder()).passport
    (path,) = (warm / ".cache").glob(pattern)
    path.write_bytes(path.read_bytes()[:100])
    observer = Recorder()
    made = build(dataclasses.replace(recipe, engines=warm), observer).passport
    assert made.files["model.onnx"] == whole.files["model.onnx"]
    assert any("runs again" in text for text in observer.warnings)


def ten_times(data):
    for one in data["ranges"].values():
        one["amax"] *= 10
    return {**data, "graph_sha256": "of another graph"}


@pytest.mark.parametrize(
    ("pattern", "change"),
    [
        ("ranges-*.json", ten_times),
        ("ranges-*.json", lambda data: []),
        ("sensitivity-*.json", lambda data: {}),
        ("sensitivity-*.json", lambda data: {**data, "no Linear": 1.0}),
        ("sensitivity-*.json", lambda data: [[[1]]]),
        ("peaks-*.json", lambda data: {"no tensor": 1.0}),
        ("peaks-*.json", lambda data: dict.fromkeys(data, "large")),
    ],
)
def test_a_cached_table_that_does_not_fit_its_graph_runs_again(recipe, warm, pattern, change):
    """Its note is intact: it was written by another program, or for another graph."""
    whole = build(recipe, Recorder()).passport
    (path,) = (warm / ".cache").glob(pattern)
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    keep([path])
    observer = Recorder()
    made = build(dataclasses.replace(recipe, engines=warm), observer).passport
    assert made.files["model.onnx"] == whole.files["model.onnx"]
    assert any(f"{path} " in text and "runs again" in text for text in observer.warnings)


def test_a_range_table_is_used_and_one_of_another_graph_refused(recipe, warm, tmp_path):
    expected = build(recipe, Recorder()).passport.accuracy
    (table,) = (warm / ".cache").glob("ranges-*.json")
    copy = tmp_path / "table.json"
    copy.write_text(table.read_text())
    observer = Recorder()
    again = build(dataclasses.replace(recipe, ranges=copy, name="again"), observer)
    assert f"ranges of {copy}" in observer.texts
    assert again.passport.accuracy == expected
    other = save_checkpoint(tmp_path / "other", initializer_range=0.1)
    with pytest.raises(CalibrationError, match="belongs to another graph, or to other weights"):
        build(dataclasses.replace(recipe, checkpoint=str(other), ranges=copy), Recorder())
    copy.write_text(copy.read_text().replace('"layer_norm"', '"other_norm"'))
    with pytest.raises(GraphError, match="no range for layer_norm"):
        build(dataclasses.replace(recipe, ranges=copy, name="again"), Recorder())
    data = json.loads(table.read_text())
    data["ranges"]["layer_norm"]["mean"] = [0.0] * 5
    copy.write_text(json.dumps(data))
    with pytest.raises(GraphError, match="layer_norm needs 64 numbers of mean"):
        build(dataclasses.replace(recipe, ranges=copy, name="again"), Recorder())
