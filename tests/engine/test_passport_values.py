"""A passport is believed only if every value has a meaning, and every file is in the folder."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from edge.engine.describe import describe
from edge.engine.engine import Engine
from edge.engine.passport import File, Passport
from edge.errors import EdgeError, EngineError, ImageError
from edge.preprocess.cpu import Preprocessor

PICTURE = np.arange(40 * 30 * 3, dtype=np.uint8).reshape(40, 30, 3)
Place = tuple[str | int, ...]


@pytest.fixture
def copy(built_engine: Path, tmp_path: Path) -> Path:
    return shutil.copytree(built_engine, tmp_path / "engine")


@pytest.fixture(scope="module")
def data(built_engine: Path) -> dict[str, Any]:
    """A real passport with everything that one can hold."""
    found = json.loads((built_engine / "passport.json").read_text())
    plan = {
        **{"backend": "tensorrt", "graph": "model.onnx", "version": "10.3.0", "gpu": "Orin"},
        **{"compute_capability": "8.7", "max_batch": 4, "ms": 1.5, "why": "it is the fastest"},
        "model_sha256": found["files"]["model.onnx"]["sha256"],
    }
    carried = {"accuracy": found["accuracy"], "ms": 2.5, "kept_fp16": ["fc1"]}
    found |= {"plan": plan, "candidates": {"int8": {"graph": "model.onnx", **carried}}}
    assert found["timing"] and found["gate"] and found["calibration"]
    return found


def put(data: Any, place: Place, value: Any) -> Any:
    """A copy with another value at a place."""
    changed = deepcopy(data)
    within = changed
    for key in place[:-1]:
        within = within[key]
    within[place[-1]] = value
    return changed


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "0", "1e-60", "1e60", "1e999"])
@pytest.mark.parametrize("field", ["scale", "std", "mean"])
def test_a_preprocessing_that_leaves_no_image_is_damaged(
    copy: Path, data: dict[str, Any], field: str, value: str
) -> None:
    path = copy / "passport.json"
    marked = "@" if field == "scale" else ["@", 0.5, 0.5]
    text = json.dumps(put(data, ("preprocess", field), marked)).replace('"@"', value)
    path.write_text(text)
    if field == "mean" and float(value) in (0.0, 1e-60):  # these are means of real checkpoints
        assert Passport.read(copy).preprocess.mean
        return
    with pytest.raises(EngineError, match=r"passport\.json is damaged"):
        Passport.read(copy)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("precision",), "int4"),
        (("schema",), "4"),
        (("schema",), None),
        (("schema",), True),
        (("max_batch",), 10**18),
        (("outputs",), 10**18),
        (("name",), "\ud800"),
        (("files", "\udce9.onnx"), {"sha256": "0" * 64, "bytes": 0}),
        (("files", "../model.onnx"), {"sha256": "0" * 64, "bytes": 0}),
        (("files", "/etc/hostname"), {"sha256": "0" * 64, "bytes": 0}),
        (("files", "n" * 5000), {"sha256": "0" * 64, "bytes": 0}),
        (("files", "model.onnx", "sha256"), "0" * 63),
        (("preprocess", "fill"), [300, 0, 0]),
        (("preprocess", "fill"), [-1, 0, 0]),
        (("preprocess", "mean"), None),
        (("preprocess", "resize", "longest_edge"), 0),
        (("candidates", "int4"), {}),
        (("candidates", "int8", "graph"), "../model.onnx"),
        (("candidates", "int8", "graph"), "/etc/hostname"),
        (("candidates", "int8", "accuracy", "other"), {}),
        (("plan", "backend"), "onnxruntime"),
        (("plan", "graph"), "../model.onnx"),
        (("plan", "ms"), -1.0),
        (("gate", "min_agreement"), 101.0),
        (("gate", "max_drop"), -1.0),
        (("accuracy", "portable", "agreement"), 101.0),
        (("accuracy", "portable", "images"), 0),
        (("accuracy", "portable", "max_error"), -1.0),
        (("accuracy", "portable", "cosine"), 2.0),
        (("timing", "rounds"), 0),
    ],
)
def test_a_value_without_a_meaning_is_damage(
    copy: Path, data: dict[str, Any], place: Place, value: Any
) -> None:
    (copy / "passport.json").write_text(json.dumps(put(data, place, value)))
    with pytest.raises(EngineError, match="is damaged"):
        Passport.read(copy)


def test_an_accuracy_of_an_unknown_form_is_damage(copy: Path, data: dict[str, Any]) -> None:
    measured = data["accuracy"]["portable"]
    changed = put(data, ("accuracy", "elsewhere"), measured)
    (copy / "passport.json").write_text(json.dumps(changed))
    with pytest.raises(EngineError, match="accuracy of elsewhere"):
        Passport.read(copy)


def test_a_passport_without_a_schema_is_damaged(copy: Path, data: dict[str, Any]) -> None:
    del (changed := deepcopy(data))["schema"]
    (copy / "passport.json").write_text(json.dumps(changed))
    with pytest.raises(EngineError, match="its schema is None"):
        Passport.read(copy)


def places(data: Any, here: Place = ()) -> list[Place]:
    """Every place in JSON data, outer ones first."""
    items = data.items() if isinstance(data, dict) else enumerate(data)
    found = []
    for key, value in items:
        found.append((*here, key))
        if isinstance(value, (dict, list)):
            found += places(value, (*here, key))
    return found


_NUMBERS = st.integers() | st.floats() | st.sampled_from([-1, 0, 1, 255, 10**18, 10**400, 1e-45])
_TEXTS = st.text(st.characters(), max_size=8) | st.sampled_from(
    ["../model.onnx", "/etc/hostname", "", ".", "\ud800", "\x00", "int4", "stretch", "NaN"]
)
_VALUES = st.recursive(
    st.none() | st.booleans() | _NUMBERS | _TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXTS, inner, max_size=3),
    max_leaves=5,
)


@given(st.data())
def test_a_changed_passport_is_refused_or_can_be_used(
    built_engine: Path,
    data: dict[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
    random: st.DataObject,
) -> None:
    """Whatever is changed, in one place or several, nothing but an `EngineError` is raised."""
    changed = data
    for _ in range(random.draw(st.integers(1, 3))):
        place = random.draw(st.sampled_from(places(changed)))
        if random.draw(st.booleans()):
            place = (*place[:-1], random.draw(_TEXTS)) if isinstance(place[-1], str) else place
        changed = put(changed, place, random.draw(_VALUES))
    folder = tmp_path_factory.getbasetemp() / "mutated"
    folder.mkdir(exist_ok=True)
    for name in ("model.onnx", "report.html"):
        if not (folder / name).exists():
            shutil.copy(built_engine / name, folder)
    (folder / "passport.json").write_text(json.dumps(changed))
    use(folder)


@given(st.binary(max_size=40))
@example(b"[" * 100_000)
@example(b"1" * 5000)
def test_what_is_no_passport_is_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    folder = tmp_path_factory.getbasetemp() / "no-passport"
    folder.mkdir(exist_ok=True)
    (folder / "passport.json").write_bytes(content)
    with pytest.raises(EngineError):
        Passport.read(folder)


def use(folder: Path) -> None:
    """Do with a passport what the commands do."""
    try:
        passport = Passport.read(folder)
    except EngineError:
        return
    assert describe(folder, passport).encode()
    passport.write(folder)
    assert Passport.read(folder) == passport
    with suppress(EngineError):
        passport.check_files(folder)
    spec = passport.preprocess
    try:
        place = spec.place(*PICTURE.shape[:2])
    except ImageError:
        return
    if max(*place.resized, spec.height, spec.width) <= 512:  # no gigabytes for a test
        assert np.isfinite(Preprocessor(spec)(PICTURE)).all()


def listed(folder: Path, *names: str) -> None:
    """Write what the files are now into the passport."""
    path = folder / "passport.json"
    found = json.loads(path.read_text())
    for name in names:
        file = File.of(folder / name)
        found["files"][name] = {"sha256": file.sha256, "bytes": file.bytes}
    path.write_text(json.dumps({**found, "plan": None}))


@pytest.fixture
def split(copy: Path) -> Path:
    """The engine with its weights in a second file, as those beyond 2 GB are."""
    model = onnx.load(copy / "model.onnx")
    onnx.save(
        model,
        copy / "model.onnx",
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=1024,
    )
    listed(copy, "model.onnx")
    return copy


def test_external_weights_that_the_passport_does_not_list_are_refused(split: Path) -> None:
    """They were not hashed: the label changed, and `edge inspect` said that all was intact."""
    with pytest.raises(EngineError, match=r"weights\.bin is no file of the engine"):
        Passport.read(split).check_files(split)
    with pytest.raises(EngineError, match=r"weights\.bin is no file of the engine"):
        Engine.open(split, "onnxruntime")


def test_external_weights_are_hashed_with_the_graph(split: Path) -> None:
    listed(split, "weights.bin")
    Engine.open(split, "onnxruntime").close()
    weights = bytearray((split / "weights.bin").read_bytes())
    weights[-1] ^= 1
    (split / "weights.bin").write_bytes(weights)
    with pytest.raises(EngineError, match=r"weights\.bin is damaged: its SHA-256"):
        Engine.open(split, "onnxruntime")


def test_a_file_with_a_right_checksum_that_is_no_graph_is_damaged(copy: Path) -> None:
    (copy / "model.onnx").write_bytes(b"\xff" * 50)
    listed(copy, "model.onnx")
    with pytest.raises(EngineError, match=r"model\.onnx is damaged"):
        Engine.open(copy, "onnxruntime")


def test_a_file_that_cannot_be_read_is_an_error(copy: Path, monkeypatch: Any) -> None:
    def refuse(path: Path) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("edge.engine.passport.digest", refuse)
    with pytest.raises(EngineError, match=r"model\.onnx cannot be read \(Permission denied"):
        Engine.open(copy, "onnxruntime")


@pytest.mark.parametrize("output", [[], ["batch"], ["batch", 3], ["batch", 5, 1], [1, 5]])
def test_a_graph_with_other_outputs_is_an_error(copy: Path, output: list[str | int]) -> None:
    """A scalar gave a traceback."""
    zeros = {"batch": 2}
    shape = [zeros.get(str(side), side) for side in output]
    value = helper.make_tensor("v", TensorProto.FLOAT, shape, np.zeros(shape).ravel())
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("Constant", [], ["logits"], value=value)],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 32, 32])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)],
        ),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    onnx.save(model, copy / "model.onnx")
    listed(copy, "model.onnx")
    with (
        Engine.open(copy, "onnxruntime") as opened,
        pytest.raises(EdgeError, match=r"the graph of .* returns"),
    ):
        opened.infer(np.zeros((2, 3, 32, 32), np.float32))
