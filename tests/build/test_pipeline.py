import dataclasses
import json
import shutil

import pytest

from edge.build import images, pipeline
from edge.build import verify as verifying
from edge.build.pipeline import Recipe, build
from edge.errors import CalibrationError, CheckpointError, EngineError, GateError, StorageError
from edge.passport import Passport
from tests.conftest import Recorder


@pytest.fixture(scope="module")
def recipe(checkpoint, pictures, tmp_path_factory):
    """A recipe whose graph is in the cache after the first build."""
    engines = tmp_path_factory.mktemp("engines")
    return Recipe(str(checkpoint), pictures, name="a", engines=engines, min_agreement=50)


@pytest.fixture(scope="module", params=["fp32", "fp16", "int8"])
def built(recipe, request):
    name = f"a-{request.param}"
    return build(dataclasses.replace(recipe, precision=request.param, name=name), Recorder())


def test_an_engine_is_whole_and_its_passport_says_what_it_is(built):
    passport = Passport.read(built.folder)
    assert passport == built.passport
    assert built.fresh
    assert passport.labels == ("cat", "dog", "fox", "owl", "bee")
    assert passport.judged
    assert passport.checkpoint["architecture"] == "ViTForImageClassification"
    for name in passport.files:
        passport.check_file(built.folder, name)
    names = {path.name for path in built.folder.iterdir()}
    assert names == {"passport.json", *passport.files}


def test_every_form_that_can_run_is_judged_on_images_it_was_not_calibrated_with(built):
    passport = built.passport
    forms = {"portable", "device"} if passport.precision == "int8" else {"portable"}
    assert set(passport.accuracy) == forms
    assert all(measured.images == 8 for measured in passport.accuracy.values())
    assert all(measured.top1 is not None for measured in passport.accuracy.values())
    if passport.precision == "int8":
        assert passport.calibration["images"] == 32
    else:
        assert passport.calibration is None


def test_precision_shows_in_the_figures(recipe):
    figures = {}
    for precision in ("fp32", "fp16", "int8"):
        changed = dataclasses.replace(recipe, precision=precision, name=f"p-{precision}")
        figures[precision] = build(changed, Recorder()).passport.accuracy["portable"].sqnr_db
    assert figures["fp32"] > 900 > figures["fp16"] > 45 > figures["int8"] > 15


def test_a_second_build_does_nothing(recipe):
    first = build(recipe, Recorder())
    observer = Recorder()
    again = build(recipe, observer)
    assert not again.fresh
    assert observer.stages == []
    assert again.passport == first.passport


@pytest.mark.parametrize("change", [{"max_batch": 2}, {"method": "minmax"}, {"min_agreement": 40}])
def test_another_setting_builds_again_from_the_cached_graph(recipe, change):
    build(recipe, Recorder())
    observer = Recorder()
    assert build(dataclasses.replace(recipe, **change), observer).fresh
    assert observer.stages[0] == "export, simplify"
    assert "export" not in observer.stages


def test_a_damaged_engine_is_built_again(recipe):
    folder = build(recipe, Recorder()).folder
    (folder / "model.onnx").write_bytes(b"cut")
    assert build(recipe, Recorder()).fresh
    Passport.read(folder).check_file(folder, "model.onnx")


def test_another_checkpoint_is_exported_again(recipe, checkpoint, tmp_path):
    copy = shutil.copytree(checkpoint, tmp_path / "vit")
    config = json.loads((copy / "config.json").read_text())
    config["id2label"]["0"] = "lynx"
    (copy / "config.json").write_text(json.dumps(config))
    observer = Recorder()
    changed = dataclasses.replace(recipe, checkpoint=str(copy), name="lynx")
    assert build(changed, observer).passport.labels[0] == "lynx"
    assert "export" in observer.stages


def test_stages_come_in_order_and_report(recipe, tmp_path):
    observer = Recorder()
    build(dataclasses.replace(recipe, engines=tmp_path), observer)
    names = [name.partition(" ")[0] for name in observer.stages]
    stages = ["export", "simplify", "calibrate", "quantize", "verify"]
    assert names[:5] == stages
    assert len(observer.texts) == len(observer.stages)
    assert "32 activations" not in observer.texts[2]
    assert "8 activations on 32 images" in observer.texts[2]
    assert ("images", 32, 32) in observer.steps


def engines_of(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != ".cache")


def test_below_the_gate_nothing_is_published(recipe, tmp_path, monkeypatch):
    compare = verifying.compare

    def bad(*arguments):
        return dataclasses.replace(compare(*arguments), agreement=80.0)

    monkeypatch.setattr(verifying, "compare", bad)
    strict = dataclasses.replace(recipe, engines=tmp_path, min_agreement=90)
    with pytest.raises(GateError, match=r"80\.00 % of 8 images, the gate is 90 %"):
        build(strict, Recorder())
    assert engines_of(tmp_path) == []
    unjudged = build(dataclasses.replace(strict, gate=False), Recorder())
    assert unjudged.passport.judged is False


def test_the_old_engine_survives_a_failed_build(recipe, monkeypatch):
    before = build(recipe, Recorder()).passport

    def fail(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "add_plan", fail)
    monkeypatch.setattr(pipeline.compiling, "available", lambda: ("tensorrt-rtx", "test"))
    with pytest.raises(KeyboardInterrupt):
        build(dataclasses.replace(recipe, max_batch=7), Recorder())
    assert Passport.read(recipe.engines / "a") == before
    assert not [name for name in engines_of(recipe.engines) if name.startswith(".")]


def test_without_tensorrt_the_engine_is_portable_and_says_so(recipe, monkeypatch, tmp_path):
    monkeypatch.setattr(pipeline.compiling.nvidia, "installed", lambda: [])
    observer = Recorder()
    built = build(dataclasses.replace(recipe, engines=tmp_path), observer)
    assert built.passport.plan is None
    assert not (built.folder / "model.plan").exists()
    assert any("portable" in text for text in observer.warnings)


def test_too_few_images(recipe, pictures, tmp_path):
    few = tmp_path / "few"
    few.mkdir()
    for path in images.find(pictures)[:18]:
        shutil.copy(path, few)
    with pytest.raises(CalibrationError, match="leaves 14 images"):
        build(dataclasses.replace(recipe, calibration=few), Recorder())
    judging = shutil.copytree(pictures, tmp_path / "judging")
    apart = dataclasses.replace(recipe, calibration=few, heldout=judging, name="apart")
    assert build(apart, Recorder()).passport.accuracy["portable"].images == 40


def test_a_folder_that_is_no_engine_is_never_replaced(recipe, tmp_path):
    mine = tmp_path / "photos"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    with pytest.raises(EngineError, match="is no engine"):
        build(dataclasses.replace(recipe, engines=tmp_path, name="photos"), Recorder())
    assert (mine / "thesis.txt").read_text() == "years of work"


def test_images_that_calibrated_do_not_judge(recipe, pictures):
    with pytest.raises(CalibrationError, match="did not calibrate"):
        build(dataclasses.replace(recipe, heldout=pictures), Recorder())


def test_a_verdict_of_few_images_is_called_so(recipe):
    observer = Recorder()
    build(dataclasses.replace(recipe, max_batch=5), observer)
    assert any("judged on 8 images only" in text for text in observer.warnings)


def test_an_engines_folder_that_cannot_be_written_is_found_first(recipe, tmp_path):
    (tmp_path / "engines").write_text("a file")
    with pytest.raises(StorageError, match="cannot write"):
        build(dataclasses.replace(recipe, engines=tmp_path / "engines"), Recorder())


def test_a_missing_checkpoint(recipe):
    with pytest.raises(CheckpointError, match="no checkpoint"):
        build(dataclasses.replace(recipe, checkpoint="./absent"), Recorder())


@pytest.mark.parametrize("name", ["../out", "a/b", "", ".hidden"])
def test_a_name_stays_in_the_engines_folder(recipe, name):
    with pytest.raises(EngineError, match="name"):
        build(dataclasses.replace(recipe, name=name or " "), Recorder())
