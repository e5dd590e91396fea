"""Witnesses give the very inputs of the build, and travel with the engine as two checked files."""

from __future__ import annotations

import io
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge.engine.passport import File, Passport, Witnessed
from edge.engine.witnesses import Witnesses, network_images, nv12, witness
from edge.errors import EngineError
from edge.preprocess.colour import to_rgb
from edge.preprocess.cpu import Preprocessor
from edge.preprocess.spec import Preprocess
from tests.preprocess.test_kernel import SPECS

SIZES = ((101, 77), (48, 64), (40, 40), (150, 33), (9, 17))


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_the_network_s_input_is_that_of_the_whole_image_to_the_byte(spec: Preprocess) -> None:
    for number, size in enumerate(SIZES):
        pixels = picture(*size, number)
        found = witness(spec, pixels)
        assert found is not None
        assert found.dtype == np.uint8
        assert found.shape[0] <= spec.height and found.shape[1] <= spec.width
        for compiled in (False, True):
            again = Preprocessor(network_images(spec), compiled=compiled)(found)
            assert np.array_equal(again, Preprocessor(spec)(pixels))


def test_an_image_that_bytes_cannot_give_back_is_left_out() -> None:
    """Padded before and after normalising: the outer border is 0, the inner one is not."""
    padded = replace(SPECS["padded by the crop"], height=60, width=60, pad=(60, 60))
    assert witness(padded, picture(20, 20)) is None


@pytest.fixture
def engine(built_engine: Path, tmp_path: Path) -> Path:
    return shutil.copytree(built_engine, tmp_path / "engine")


def listed(folder: Path, witnesses: Witnesses) -> Passport:
    """The passport of an engine with other witnesses."""
    passport = Passport.read(folder)
    files = {path.name: File.of(path) for path in witnesses.save(folder)}
    about = Witnessed(len(witnesses), "a test", {})
    return replace(passport, files={**passport.files, **files}, witnesses=about)


def test_they_are_the_same_after_a_round_trip(engine: Path) -> None:
    images = [picture(*size, seed) for seed, size in enumerate(((32, 32), (20, 31), (1, 1)))]
    outputs = np.random.default_rng(1).standard_normal((3, 5)).astype(np.float32)
    outputs[0, :2] = np.float32(1e-42), np.float32(-0.0)
    passport = listed(engine, Witnesses(images, outputs))
    found = Witnesses.load(engine, passport)
    assert len(found) == 3
    assert all(np.array_equal(*pair) for pair in zip(found.images, images, strict=True))
    assert found.outputs.tobytes() == outputs.tobytes()


@pytest.mark.parametrize("name", ["witnesses.png", "witnesses.npz"])
def test_a_damaged_or_missing_file_is_named(name: str, engine: Path) -> None:
    passport = Passport.read(engine)
    path = engine / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(EngineError, match=rf"{name} is damaged"):
        Witnesses.load(engine, passport)
    path.unlink()
    with pytest.raises(EngineError, match=rf"{name} is missing"):
        Witnesses.load(engine, passport)


def npz(**arrays: object) -> bytes:
    memory = io.BytesIO()
    np.savez(memory, **arrays)  # type: ignore[arg-type]
    return memory.getvalue()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("witnesses.png", b"no image"),
        ("witnesses.npz", b"no arrays"),
        ("witnesses.npz", npz(sizes=np.ones((8, 2), int))),
        ("witnesses.npz", npz(sizes=np.ones((8, 2), int), outputs=np.ones((8, 5)))),
        ("witnesses.npz", npz(sizes=np.ones((7, 2), int), outputs=np.ones((7, 5), np.float32))),
        ("witnesses.npz", npz(sizes=np.ones((8, 2), int), outputs=np.ones((8, 4), np.float32))),
        ("witnesses.npz", npz(sizes=np.ones(8, int), outputs=np.array([{}] * 8))),
    ],
)
def test_intact_files_with_wrong_contents_are_an_error(
    name: str, data: bytes, engine: Path
) -> None:
    passport = Passport.read(engine)
    (engine / name).write_bytes(data)
    files = {**passport.files, name: File.of(engine / name)}
    with pytest.raises(EngineError, match=r"the witnesses of .* cannot be used"):
        Witnesses.load(engine, replace(passport, files=files))


def test_an_engine_of_before_has_none(engine: Path) -> None:
    passport = replace(Passport.read(engine), witnesses=None)
    with pytest.raises(EngineError, match="has no witnesses"):
        Witnesses.load(engine, passport)


@pytest.mark.parametrize("size", [(48, 64), (33, 47), (1, 1)])
def test_an_nv12_frame_shows_the_image(size: tuple[int, int]) -> None:
    smooth = np.add.outer(np.arange(size[0]), np.arange(size[1]))[..., None] + [0, 40, 90]
    image = smooth.astype(np.uint8)
    frame = nv12(image)
    assert (frame.layout.format, frame.layout.width, frame.layout.height) == ("NV12", *size[::-1])
    assert np.abs(to_rgb(frame).astype(int) - image).max() <= 4
