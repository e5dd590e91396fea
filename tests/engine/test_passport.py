import json
import shutil
from pathlib import Path

import pytest

import edge
from edge.engine.heads import Head
from edge.engine.passport import Passport
from edge.errors import EngineError


@pytest.fixture
def copy(built_engine, tmp_path):
    return shutil.copytree(built_engine, tmp_path / "engine")


def test_a_passport_is_unchanged_after_write_and_read(copy):
    passport = Passport.read(copy)
    (copy / "passport.json").unlink()
    passport.write(copy)
    assert Passport.read(copy) == passport


def test_the_file_s_keys_are_the_schema(copy):
    """Other programs read this file: a change of its keys is a change of its schema."""
    data = json.loads((copy / "passport.json").read_text())
    assert data["schema"] == 4
    assert list(data) == [
        "schema",
        "name",
        "fingerprint",
        "precision",
        "checkpoint",
        "head",
        "outputs",
        "preprocess",
        "max_batch",
        "tools",
        "calibration",
        "judged",
        "accuracy",
        "verdict",
        "kept_fp16",
        "candidates",
        "files",
        "plan",
        "gate",
        "timing",
        "heldout",
        "witnesses",
        "plan_accuracy",
    ]
    assert list(data["witnesses"]) == ["images", "origin", "accuracy"]
    assert list(data["timing"]) == ["backend", "machine", "rounds", "speed"]
    assert list(data["gate"]) == ["min_agreement", "max_drop"]
    assert list(data["accuracy"]["portable"]) == [
        "images",
        "agreement",
        "sqnr_db",
        "max_error",
        "top1",
        "top1_fp32",
        "cosine",
        "labels",
    ]


@pytest.mark.parametrize("keep", [0, 1, 40, 400, -3])
def test_a_truncated_passport_is_reported_as_damaged(copy, keep):
    text = (copy / "passport.json").read_text()
    (copy / "passport.json").write_text(text[:keep])
    with pytest.raises(EngineError, match=r"passport\.json is damaged"):
        Passport.read(copy)


@pytest.mark.parametrize(
    "change",
    [
        {"head": None},
        {"head": {"labels": [1, 2]}},
        {"head": {"labels": []}},
        {"outputs": 6},
        {"files": []},
        {"files": {}},
        {"preprocess": {}},
        {"max_batch": "four"},
        {"max_batch": 0},
        {"judged": None},
        {"plan": {"backend": 1}},
        {"checkpoint": {}},
        {"calibration": {"images": 1}},
        {
            "accuracy": {
                "portable": {
                    "images": 1,
                    "agreement": 1,
                    "sqnr_db": 1,
                    "max_error": 1,
                    "top1": 1,
                    "top1_fp32": None,
                }
            }
        },
    ],
)
def test_a_passport_with_invalid_contents_is_reported_as_damaged(copy, change):
    path = copy / "passport.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(EngineError, match="is damaged"):
        Passport.read(copy)


@pytest.mark.parametrize(("schema", "hint"), [(9, "upgrade"), (2, "edge build")])
def test_an_unsupported_schema_is_reported(copy, schema, hint):
    path = copy / "passport.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": schema}))
    with pytest.raises(EngineError, match=rf"schema {schema}.*{hint}"):
        Passport.read(copy)


def test_the_passport_of_a_schema_3_engine_is_read(tmp_path):
    """passports/schema-3.json was written by the last version with that schema."""
    shutil.copy(Path(__file__).with_name("passports") / "schema-3.json", tmp_path / "passport.json")
    passport = Passport.read(tmp_path)
    assert passport.head == Head(labels=("cat", "dog", "fox", "owl", "bee"))
    assert (passport.outputs, passport.precision, passport.max_batch) == (5, "int8", 4)
    passport.write(tmp_path)
    assert json.loads((tmp_path / "passport.json").read_text())["schema"] == 4
    assert Passport.read(tmp_path) == passport


def test_an_engine_with_a_schema_3_passport_runs(copy, built_engine, pictures):
    path = copy / "passport.json"
    data = json.loads(path.read_text())
    del data["outputs"]
    path.write_text(json.dumps({**data, "schema": 3, "labels": data.pop("head")["labels"]}))
    image = next(pictures.rglob("*.png"))
    with (
        edge.load(copy, backend="onnxruntime") as old,
        edge.load(built_engine, backend="onnxruntime") as new,
    ):
        assert old(image).top(5) == new(image).top(5)


@pytest.mark.parametrize("labels", [None, "cat", 5])
def test_a_schema_3_passport_without_labels_is_damaged(copy, labels):
    path = copy / "passport.json"
    data = json.loads(path.read_text())
    del data["head"], data["outputs"]
    path.write_text(json.dumps({**data, "schema": 3, "labels": labels}))
    with pytest.raises(EngineError, match="is damaged"):
        Passport.read(copy)


def test_a_folder_that_is_not_an_engine_is_refused(tmp_path):
    with pytest.raises(EngineError, match="there is no engine at"):
        Passport.read(tmp_path / "absent")
    with pytest.raises(EngineError, match="is not an engine"):
        Passport.read(tmp_path)


def test_a_damaged_or_missing_file_is_reported(copy):
    passport = Passport.read(copy)
    path = copy / "model.onnx"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(EngineError, match=r"model\.onnx is damaged: it has \d+ bytes"):
        passport.check_file(copy, "model.onnx")
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(EngineError, match="SHA-256"):
        passport.check_file(copy, "model.onnx")
    path.unlink()
    with pytest.raises(EngineError, match="is missing"):
        passport.check_file(copy, "model.onnx")


def test_a_path_close_to_an_engine_folder_gets_a_hint(copy, tmp_path, monkeypatch):
    (tmp_path / "engines").mkdir()
    copy.rename(tmp_path / "engines/mine-1.5")
    (tmp_path / "engines/mine-1.5.toml").touch()
    monkeypatch.chdir(tmp_path)
    named = "mine-1.5", "mine-1.5.toml", "engines/mine-1.5.toml", "engines/mine-1.5/model.onnx"
    for path in (*named, "elsewhere/mine-1.5"):
        with pytest.raises(EngineError, match=r"did you mean engines/mine-1\.5\?$"):
            Passport.read(Path(path))


def test_for_a_file_the_error_says_that_engines_are_folders(tmp_path):
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(EngineError, match=r"photo\.jpg is a file, not an engine folder; .*\(ls"):
        Passport.read(tmp_path / "photo.jpg")
