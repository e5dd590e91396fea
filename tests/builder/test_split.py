"""Images that trained a checkpoint never evaluate its engine; near-copies are counted."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge.builder import image_sets, split
from edge.builder.split import NAME, Sets
from edge.errors import CalibrationError, CheckpointError


def scene(path: Path, seed: int, side: int = 40) -> Path:
    """An image with a scene of its own, smooth enough to survive resizing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), np.uint8)
    Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).save(path)
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty photos."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(40):
        scene(folder / f"class{number % 2}/{number:02}.png", number)
    return folder


@pytest.fixture(scope="module")
def checkpoint(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a checkpoint that trained on the first 30 of them."""
    folder = tmp_path_factory.mktemp("checkpoint")
    files = image_sets.find(photos)
    split.write(folder, photos, files[:30], files[30:])
    return folder


@pytest.fixture
def copied(photos: Path, tmp_path: Path) -> Callable[..., Path]:
    """Copies some of the photos, with other names: copied("name", slice) -> their folder."""

    def copy(name: str, part: slice) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for path in image_sets.find(photos)[part]:
            shutil.copy(path, folder / f"copy-{path.name}")
        return folder

    return copy


def test_a_split_is_read_as_it_was_written(checkpoint: Path, photos: Path) -> None:
    found = split.read(checkpoint)
    assert found is not None
    files = image_sets.find(photos)
    assert [one.file for one in found.images] == [str(path.relative_to(photos)) for path in files]
    assert [one.use for one in found.images] == ["train"] * 30 + ["heldout"] * 10
    assert [one.sha256 for one in found.images] == image_sets.contents(files)
    assert all(len(one.near) == 64 for one in found.images)


def test_what_the_training_held_out_is_held_out(checkpoint: Path, photos: Path) -> None:
    """Every fifth image of the same folder mostly trained: 42 of 60 in a real case."""
    sets = split.choose(photos, None, split.read(checkpoint))
    assert sets.heldout == image_sets.find(photos)[30:]
    assert sets.calibration == image_sets.find(photos)[:30]
    assert sets.origin == f"the images of {photos} that the training held out (split.json)"


def test_images_that_trained_never_evaluate_whatever_their_names(
    checkpoint: Path, copied: Callable[..., Path]
) -> None:
    trained = split.read(checkpoint)
    mixed = copied("mixed", slice(29, 40))
    with pytest.raises(CalibrationError) as caught:
        split.choose(copied("other", slice(0, 20)), mixed, trained)
    assert "1 of the 11 images" in caught.value.problem
    assert "trained the checkpoint (split.json), such as" in caught.value.problem
    with pytest.raises(CalibrationError, match=r"all 25 images of .* trained the checkpoint"):
        split.choose(copied("seen", slice(0, 25)), None, trained)


def test_new_images_are_split_and_those_that_trained_calibrate(
    checkpoint: Path, copied: Callable[..., Path]
) -> None:
    folder = copied("more", slice(0, 20))
    new = [scene(folder / f"new{number:02}.png", 100 + number) for number in range(20)]
    sets = split.choose(folder, None, split.read(checkpoint))
    assert sets.heldout == new[2::5]
    assert len(sets.calibration) == 36
    assert "that did not train (split.json)" in sets.origin


def test_without_a_split_the_images_may_have_trained(photos: Path) -> None:
    sets = split.choose(photos, None, None)
    assert sets.heldout == image_sets.find(photos)[2::5]
    assert sets.origin == (
        f"every fifth image of {photos}; the checkpoint has no split.json, so some of them may "
        "have trained it"
    )


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", '{"images": []}', '{"schema": 2, "images": []}'),
        *('{"schema": 1, "images": [{"file": "a"}]}', '{"schema": 1, "images": 3}'),
        '{"schema": 1, "images": [{"file": "a", "use": "test", "sha256": "", "near": ""}]}',
    ],
)
def test_a_damaged_split_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / NAME).write_text(text)
    with pytest.raises(CheckpointError, match=r"split.json cannot be read"):
        split.read(tmp_path)


def test_a_checkpoint_without_a_split(tmp_path: Path) -> None:
    assert split.read(tmp_path) is None


def test_near_copies_across_the_sets_are_counted(tmp_path: Path, checkpoint: Path) -> None:
    calibration = [scene(tmp_path / f"calibration/{number}.png", 200 + number) for number in (1, 2)]
    twin = scene(tmp_path / "heldout/twin.png", 201, side=80)  # of a calibration image
    seen = scene(tmp_path / "heldout/seen.jpg", 7)  # of an image that trained
    own = scene(tmp_path / "heldout/own.png", 300)
    said: list[str] = []
    sets = Sets(calibration, [twin, seen, own], "")
    split.say_near_copies(sets, split.read(checkpoint), said.append)
    trained, calibrates = said
    assert trained.startswith("1 of 3 held-out images have a near-copy that trained the checkpoint")
    assert f"such as {seen} and class1/07.png" in trained
    assert calibrates.startswith("1 of 3 held-out images have a near-copy that calibrates")
    assert f"such as {twin} and {calibration[0]}" in calibrates
    said.clear()
    split.say_near_copies(Sets(calibration, [own], ""), None, said.append)
    assert said == []
