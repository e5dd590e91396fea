"""Near-copies are the same scene again; different scenes, flat images and digits are not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from edge.builder import near_copies
from edge.builder.near_copies import perceptual_hash


@pytest.fixture(scope="module")
def photos() -> list[Image.Image]:
    """Real photos."""
    return [Image.fromarray(load_sample_image(name)) for name in ("china.jpg", "flower.jpg")]


def hashed(image: Image.Image, path: Path, **options: int) -> str:
    image.save(path, **options)
    return perceptual_hash(path)


def pairs(one: str, other: str) -> list[tuple[int, int]]:
    return list(near_copies.find([one], [other]))


@pytest.mark.parametrize(
    ("change", "suffix", "options"),
    [
        (lambda image: image, ".jpg", {"quality": 20}),
        (lambda image: image.resize((200, 150)), ".png", {}),
        (lambda image: image.resize((image.width * 2, image.height * 2)), ".jpg", {}),
        (lambda image: image.point(lambda value: value * 0.8), ".png", {}),
        # The next frame of a camera that turns by 1 % of its image.
        (lambda image: image.crop((6, 0, image.width, image.height)), ".png", {}),
    ],
)
def test_the_same_scene_is_a_near_copy(
    photos: list[Image.Image],
    tmp_path: Path,
    change: Callable[[Image.Image], Image.Image],
    suffix: str,
    options: dict[str, int],
) -> None:
    for number, photo in enumerate(photos):
        one = hashed(photo, tmp_path / f"{number}.png")
        other = hashed(change(photo), tmp_path / f"{number}-changed{suffix}", **options)
        assert pairs(one, other) == [(0, 0)]


def test_other_scenes_are_not(photos: list[Image.Image], tmp_path: Path) -> None:
    one, other = (hashed(photo, tmp_path / f"{at}.png") for at, photo in enumerate(photos))
    assert pairs(one, other) == []
    mirrored = photos[0].transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    assert pairs(one, hashed(mirrored, tmp_path / "mirrored.png")) == []


def test_images_without_texture_have_no_hash_and_no_near_copies(tmp_path: Path) -> None:
    blank = Image.new("RGB", (64, 64), (200, 10, 30))
    spot = blank.copy()
    spot.putpixel((3, 3), (0, 0, 0))
    hashes = [hashed(blank, tmp_path / "a.png"), hashed(spot, tmp_path / "b.png")]
    (tmp_path / "c.png").write_text("this is no image")
    hashes.append(perceptual_hash(tmp_path / "c.png"))
    assert hashes == ["", "", ""]
    assert list(near_copies.find(hashes, hashes)) == []


def test_the_nearest_of_many_is_found_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_copies, "_BLOCK", 7)
    rng = np.random.default_rng(0)
    known = rng.integers(0, 256, (100, 32), np.uint8)
    asked = known[::-1][:30].copy()
    asked[:, 0] ^= 0b111  # three bits of each
    asked[5] = rng.integers(0, 256, 32, np.uint8)  # a scene of its own
    found = dict(
        near_copies.find([row.tobytes().hex() for row in asked], [r.tobytes().hex() for r in known])
    )
    assert found == {at: 99 - at for at in range(30) if at != 5}


@pytest.mark.parametrize(("bits", "near"), [(24, True), (25, False)])
def test_so_many_bits_may_differ(bits: int, near: bool) -> None:
    one = np.zeros(256, np.uint8)
    other = one.copy()
    other[:bits] = 1
    texts = [np.packbits(row).tobytes().hex() for row in (one, other)]
    assert bool(pairs(*texts)) == near


def test_the_demos_digits_are_no_near_copies_of_each_other(tmp_path: Path) -> None:
    """Equal digits on equal grounds look alike, and are different images."""
    from scripts.demo.digits import HELD_OUT_PHOTO, photo, split, write_set

    write_set(tmp_path, split()[1], photo(HELD_OUT_PHOTO), seed=2, count=40)
    hashes = [perceptual_hash(path) for path in sorted(tmp_path.rglob("*.png"))]
    assert len(hashes) == 40
    for at, text in enumerate(hashes):
        assert list(near_copies.find([text], hashes[:at] + hashes[at + 1 :])) == []
