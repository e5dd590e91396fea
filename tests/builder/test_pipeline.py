import dataclasses
import shutil

import pytest

from edge.builder import evaluator, graph, image_sets, pipeline, publish
from edge.builder.pipeline import build
from edge.engine.compare import accuracy_of
from edge.engine.passport import Passport
from edge.engine.timing import Timing
from edge.errors import (
    CalibrationError,
    CheckpointError,
    EngineError,
    GateError,
    GraphError,
    OptionError,
    StorageError,
)
from edge.files.storage import alone
from tests.conftest import Recorder


@pytest.fixture(scope="module", params=["fp32", "fp16", "int8"])
def built(recipe, request):
    name = f"a-{request.param}"
    return build(dataclasses.replace(recipe, precision=request.param, name=name), Recorder())


def test_an_engine_is_complete_and_its_passport_describes_it(built):
    passport = Passport.read(built.folder)
    assert passport == built.passport
    assert built.fresh
    assert passport.labels == ("cat", "dog", "fox", "owl", "bee")
    assert passport.judged
    assert passport.checkpoint.architecture == "ViTForImageClassification"
    for name in passport.files:
        passport.check_file(built.folder, name)
    names = {path.name for path in built.folder.iterdir()}
    assert names == {"passport.json", *passport.files}
    report = (built.folder / "report.html").read_text()
    assert passport.name in report and passport.verdict.partition(":")[0] in report


def test_every_form_is_evaluated_on_held_out_images(built):
    passport = built.passport
    forms = {"portable", "device"} if passport.precision == "int8" else {"portable"}
    assert set(passport.accuracy) == forms
    assert all(measured.images == 8 for measured in passport.accuracy.values())
    assert all(measured.top1 is not None for measured in passport.accuracy.values())
    if passport.precision == "int8":
        assert passport.calibration.images == 32
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


def test_a_damaged_engine_is_built_again(recipe):
    folder = build(recipe, Recorder()).folder
    (folder / "model.onnx").write_bytes(b"cut")
    assert build(recipe, Recorder()).fresh
    Passport.read(folder).check_file(folder, "model.onnx")


def test_stages_come_in_order_and_report(recipe, tmp_path):
    observer = Recorder()
    build(dataclasses.replace(recipe, engines=tmp_path), observer)
    names = [name.partition(" ")[0] for name in observer.stages]
    stages = [
        "compare",
        "export",
        "simplify",
        "FP16",
        "reference",
        "calibrate",
        "sensitivity",
        "quantize,",
        "choose",
    ]
    assert names[:9] == stages
    assert names[-1] == "report"
    assert len(observer.texts) == len(observer.stages)
    assert "8 activations on 32 images" in observer.texts[5]
    assert ("images", 32, 32) in observer.steps


def engines_of(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != ".cache")


def test_below_the_gate_nothing_is_published(recipe, warm, monkeypatch):
    def bad(*arguments):
        return dataclasses.replace(accuracy_of(*arguments), agreement=80.0)

    monkeypatch.setattr(evaluator, "accuracy_of", bad)
    strict = dataclasses.replace(recipe, engines=warm, min_agreement=90)
    report = warm / ".cache/a-refused.html"
    with pytest.raises(GateError, match=r"80\.00 % of 8 images, the gate is 90 %") as caught:
        build(strict, Recorder())
    assert engines_of(warm) == []
    assert f"see {report}" in str(caught.value)
    assert "the gate refuses it: model.onnx agrees" in report.read_text()
    without_gate = build(dataclasses.replace(strict, gate=False), Recorder())
    assert without_gate.passport.judged is False
    assert not report.exists()  # the report of a refusal is out of date now


def test_the_old_engine_survives_a_failed_build(recipe, monkeypatch):
    before = build(recipe, Recorder()).passport

    def fail(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(publish, "add_plan", fail)
    monkeypatch.setattr(pipeline.compiling, "available", lambda: ("tensorrt-rtx", "test"))
    with pytest.raises(KeyboardInterrupt):
        build(dataclasses.replace(recipe, max_batch=7), Recorder())
    assert Passport.read(recipe.engines / "a") == before
    assert not [name for name in engines_of(recipe.engines) if name.startswith(".")]


def test_without_tensorrt_the_engine_is_portable_and_says_so(recipe, monkeypatch, warm):
    monkeypatch.setattr(pipeline.compiling.nvidia, "installed", lambda: [])
    observer = Recorder()
    built = build(dataclasses.replace(recipe, engines=warm), observer)
    assert built.passport.plan is None
    assert not (built.folder / "model.plan").exists()
    assert any(f"edge compile {built.folder}" in text for text in observer.warnings)


def test_too_few_images(recipe, pictures, tmp_path):
    few = tmp_path / "few"
    few.mkdir()
    for path in image_sets.find(pictures)[:18]:
        shutil.copy(path, few)
    message = "few: 4 are held out, 14 remain; 16 are needed for calibration; put at least 20 diff"
    with pytest.raises(CalibrationError, match=f"18 images found in .*{message}"):
        build(dataclasses.replace(recipe, calibration=few), Recorder())
    for number in range(5):
        shutil.copy(image_sets.find(few)[2], few / f"0-{number}.png")
    message = "few: 5 are held out, 4 are copies of these, 14 remain; 16 are needed"
    with pytest.raises(CalibrationError, match=f"23 images found in .*{message}"):
        build(dataclasses.replace(recipe, calibration=few), Recorder())
    for path in few.glob("0-*"):
        path.unlink()
    heldout = shutil.copytree(pictures, tmp_path / "heldout")
    for path in few.iterdir():
        next(heldout.rglob(path.name)).unlink()
    separate = dataclasses.replace(recipe, calibration=few, heldout=heldout, name="separate")
    assert build(separate, Recorder()).passport.accuracy["portable"].images == 22
    for path in image_sets.find(few)[:3]:
        path.unlink()
    message = "15 images found in .*few; 16 are needed for calibration; add 1"
    with pytest.raises(CalibrationError, match=message):
        build(separate, Recorder())


@pytest.mark.slow
def test_replacing_an_engine_of_another_kind_is_announced(recipe, warm):
    recipe = dataclasses.replace(recipe, engines=warm)

    def warnings_of(**changes):
        observer = Recorder()
        build(dataclasses.replace(recipe, **changes), observer)
        return [text for text in observer.warnings if "will replace" in text]

    fp32 = {"precision": "fp32"}
    assert warnings_of() == warnings_of() == warnings_of(max_batch=3) == []
    (warning,) = warnings_of(**fp32)
    was = f"{recipe.checkpoint}, image-classification, 32x32, INT8"
    assert warning == (
        f"this will replace {warm / 'a'} ({was}); to keep both, choose another --name"
    )
    (warning,) = warnings_of(**fp32, image_size=64, task="image-feature-extraction", pooling="cls")
    assert "image-classification, 32x32, FP32" in warning
    (warning,) = warnings_of(**fp32)
    assert "image-feature-extraction, cls, 64x64" in warning
    copy = shutil.copytree(recipe.checkpoint, warm.parent / "another-vit")
    (warning,) = warnings_of(**fp32, checkpoint=str(copy), max_batch=2)
    assert warning.startswith(f"this will replace {warm / 'a'} ({recipe.checkpoint}, ")


def test_a_folder_that_is_not_an_engine_is_never_replaced(recipe, tmp_path):
    mine = tmp_path / "photos"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    with pytest.raises(EngineError, match="is not an engine"):
        build(dataclasses.replace(recipe, engines=tmp_path, name="photos"), Recorder())
    assert (mine / "thesis.txt").read_text() == "years of work"


def test_calibration_images_cannot_be_held_out(recipe, pictures, tmp_path):
    copied = shutil.copytree(pictures / "cat", tmp_path / "copied")
    for heldout in (pictures, copied):
        with pytest.raises(CalibrationError, match="not used for calibration"):
            build(dataclasses.replace(recipe, heldout=heldout), Recorder())


def test_two_copies_of_an_image_are_never_calibration_and_held_out(recipe, pictures, tmp_path):
    twice = shutil.copytree(pictures, tmp_path / "twice")
    heldout = image_sets.hold_out(image_sets.find(twice))[1]
    for path in heldout[:3]:
        shutil.copy(path, path.with_name(f"z-{path.name}"))
    built = build(dataclasses.replace(recipe, calibration=twice, name="twice"), Recorder())
    passport = built.passport
    assert passport.calibration.images + passport.accuracy["portable"].images < 43


def test_another_gpu_or_tensorrt_compiles_again(recipe, monkeypatch):
    build(recipe, Recorder())
    monkeypatch.setattr(pipeline.compiling.nvidia, "version", lambda _: "99.0")
    assert build(recipe, Recorder()).fresh
    gpu = pipeline.compiling.nvidia.Gpu("Orin", "8.7")
    monkeypatch.setattr(pipeline.compiling.nvidia, "gpu", lambda: gpu)
    monkeypatch.setattr(pipeline.compiling.nvidia, "installed", lambda: ["tensorrt-rtx"])
    assert build(recipe, Recorder()).fresh


@pytest.mark.slow
def test_a_model_beyond_2_gb_is_built_with_its_weights_beside_the_graph(
    recipe, tmp_path, monkeypatch
):
    monkeypatch.setattr(graph, "INLINE_LIMIT", 10_000)
    fresh = dataclasses.replace(recipe, engines=tmp_path)
    built = build(fresh, Recorder())
    assert {"model.onnx", "model.onnx.data"} <= set(built.passport.files)
    assert built.passport.files["model.onnx"].bytes < built.passport.files["model.onnx.data"].bytes
    shutil.rmtree(built.folder)
    again = build(fresh, Recorder())
    assert again.passport.accuracy == built.passport.accuracy
    assert not [path for path in (tmp_path / ".cache").iterdir() if path.name.startswith(".")]


def test_one_build_of_an_engine_at_a_time(recipe):
    cache = recipe.engines / ".cache"
    build(recipe, Recorder())
    taken = pytest.raises(StorageError, match="another vit-edge process is using a")
    with alone(cache / "a.lock"), taken:
        build(recipe, Recorder())


@pytest.mark.parametrize(
    "change",
    [{"max_batch": 10**20}, {"max_batch": 0}, {"min_agreement": 500}, {"min_agreement": -1}],
)
def test_settings_out_of_range_are_refused(recipe, change):
    with pytest.raises(OptionError, match=next(iter(change))):
        dataclasses.replace(recipe, **change)


def test_files_that_are_left_out_are_counted_and_named(recipe, tmp_path):
    photos = shutil.copytree(recipe.calibration, tmp_path / "photos")
    (photos / "list.csv").write_text("a list")
    observer = Recorder()
    build(dataclasses.replace(recipe, calibration=photos, precision="fp32", name="b"), observer)
    assert (
        f"1 files of {photos} are left out, as their names are not those of images, such as "
        f"{photos / 'list.csv'}"
    ) in observer.warnings


def test_too_few_held_out_images_to_show_the_gates_agreement_give_a_warning(recipe):
    observer = Recorder()
    build(dataclasses.replace(recipe, max_batch=5, min_agreement=90), observer)
    few = [text for text in observer.warnings if "8 held-out images are too few" in text]
    assert few == [
        "8 held-out images are too few to show an agreement of 90 %: when all agree, it is 67.6 % "
        "or more with 95 % confidence; use 35 or more (--heldout)"
    ]
    observer = Recorder()
    build(dataclasses.replace(recipe, max_batch=5, gate=False), observer)
    assert not [text for text in observer.warnings if "held-out" in text]


def test_an_engines_folder_that_cannot_be_written_fails_first(recipe, tmp_path):
    (tmp_path / "engines").write_text("a file")
    with pytest.raises(StorageError, match="cannot write"):
        build(dataclasses.replace(recipe, engines=tmp_path / "engines"), Recorder())


def test_a_missing_checkpoint(recipe):
    with pytest.raises(CheckpointError, match="no checkpoint"):
        build(dataclasses.replace(recipe, checkpoint="./absent"), Recorder())


@pytest.mark.parametrize("name", ["../out", "a/b", "", ".hidden"])
def test_a_name_stays_in_the_engines_folder(recipe, name):
    with pytest.raises(OptionError, match="name"):
        build(dataclasses.replace(recipe, name=name or " "), Recorder())


@pytest.mark.parametrize("fastest", ["fp32", "fp16", "int8"])
def test_auto_carries_every_candidate_that_passed_and_says_why_one_was_chosen(
    recipe, monkeypatch, fastest
):
    clock = {"fp32": 9.0, "fp16": 5.0, "int8": 6.0, fastest: 1.25}
    timing = Timing({name: [ms] * 20 for name, ms in clock.items()}, "a CPU")
    monkeypatch.setattr(pipeline.candidates, "timed", lambda _: timing)
    built = build(dataclasses.replace(recipe, precision="auto", name=fastest), Recorder())
    passport = built.passport
    assert set(passport.candidates) == {"fp32", "fp16", "int8"}
    assert passport.precision == fastest
    assert passport.candidates[fastest].graph == "model.onnx"
    assert {name: carried.ms for name, carried in passport.candidates.items()} == clock
    assert passport.verdict.startswith(f"{fastest.upper()}: ")
    for carried in passport.candidates.values():
        passport.check_file(built.folder, carried.graph)
    assert Passport.read(built.folder) == passport


def test_a_graph_quantised_in_training_is_used_unchanged(recipe, tmp_path):
    first = build(dataclasses.replace(recipe, name="first"), Recorder())
    taken = dataclasses.replace(recipe, graph=first.folder / "model.onnx", name="taken")
    observer = Recorder()
    built = build(taken, observer)
    assert "calibrate" not in observer.stages
    assert built.passport.accuracy == first.passport.accuracy
    assert built.passport.precision == "int8"
    fp32 = build(dataclasses.replace(recipe, precision="fp32", name="fp32"), Recorder())
    observer = Recorder()
    with pytest.raises(GraphError, match="has no quantised Linear"):
        build(dataclasses.replace(taken, graph=fp32.folder / "model.onnx"), observer)
    assert observer.stages == []  # nothing ran before it


def test_settings_that_contradict_each_other_are_refused(recipe, tmp_path):
    (tmp_path / "a.onnx").touch()
    for change in (
        {"graph": tmp_path / "a.onnx", "also": ("head",)},
        {"graph": tmp_path / "a.onnx", "precision": "fp16"},
        {"also": ("head",), "precision": "fp16"},
        {"ranges": tmp_path / "a.onnx", "precision": "fp32"},
        {"also": ("window",)},
        {"ranges": tmp_path / "absent.json"},
    ):
        with pytest.raises(OptionError):
            dataclasses.replace(recipe, **change)


def test_max_drop_needs_the_classes_of_the_held_out_images(recipe, pictures, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in image_sets.find(pictures):
        shutil.copy(path, flat)
    with pytest.raises(CalibrationError, match="--max-drop needs the classes"):
        build(dataclasses.replace(recipe, calibration=flat, max_drop=1.0), Recorder())


def test_under_auto_a_candidate_may_fail(recipe, monkeypatch):
    def fail(*_):
        raise GraphError("a weight is too large", "train it again")

    monkeypatch.setattr(pipeline.candidates, "make_quantised", fail)
    built = build(dataclasses.replace(recipe, precision="auto", name="less"), Recorder())
    assert "; not INT8: a weight is too large" in built.passport.verdict
    assert set(built.passport.candidates) == {"fp32", "fp16"}
