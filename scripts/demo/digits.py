"""The demo's data: scikit-learn's 1,797 scanned handwritten digits, drawn into images.

The scans are real (UCI "Optical recognition of handwritten digits", 8x8, 17 grey levels); position,
size, colour, background and noise are drawn at random. Training uses neither the digits nor the
background photo of the held-out set.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from sklearn.datasets import load_digits, load_sample_image

HELD_OUT = 397
TRAIN_PHOTO, HELD_OUT_PHOTO = "china.jpg", "flower.jpg"


@dataclass(frozen=True)
class Digits:
    """Scans as float32 ink in 0..1, [N, 8, 8], with their labels, [N]."""

    ink: np.ndarray
    labels: np.ndarray


@lru_cache(maxsize=1)
def split() -> tuple[Digits, Digits]:
    """The 1,400 training scans and the 397 held-out ones; the same split every time."""
    scans = load_digits()
    ink = (scans.images / 16.0).astype(np.float32)
    order = np.random.default_rng(20).permutation(len(ink))
    held, train = order[:HELD_OUT], order[HELD_OUT:]
    return Digits(ink[train], scans.target[train]), Digits(ink[held], scans.target[held])


@lru_cache(maxsize=2)
def photo(name: str) -> np.ndarray:
    """One of the two photos that scikit-learn ships, RGB uint8 [427, 640, 3]."""
    return np.ascontiguousarray(load_sample_image(name))


def paint(
    canvas: np.ndarray,
    ink: np.ndarray,
    colour: np.ndarray,
    centre: tuple[float, float],
    size: tuple[float, float],
    angle: float,
) -> np.ndarray:
    """Draw an 8x8 scan on a float RGB canvas; centre and size in pixels (x, y), angle in °."""
    turn = np.deg2rad(angle)
    cos, sin = np.cos(turn), np.sin(turn)
    sx, sy = size[0] / 8, size[1] / 8
    forward = np.array([[cos * sx, -sin * sy], [sin * sx, cos * sy]])
    shift = np.array(centre) - forward @ np.array([3.5, 3.5])
    alpha = cv2.warpAffine(
        ink, np.column_stack([forward, shift]), canvas.shape[1::-1], flags=cv2.INTER_CUBIC
    )
    alpha = np.clip(alpha * 1.25, 0, 1)[..., None]
    return canvas * (1 - alpha) + colour * alpha


def background(rng: np.random.Generator, size: int, scene: np.ndarray) -> np.ndarray:
    """A crop of a photo, or a flat colour, as float RGB [size, size, 3]."""
    if rng.random() < 0.4:
        return np.full((size, size, 3), rng.uniform(0, 120, 3))
    side = int(rng.integers(size * 2, min(scene.shape[:2])))
    top = int(rng.integers(scene.shape[0] - side + 1))
    left = int(rng.integers(scene.shape[1] - side + 1))
    crop = cv2.resize(
        scene[top : top + side, left : left + side], (size, size), interpolation=cv2.INTER_AREA
    )
    return crop.astype(np.float64)


def render(
    ink: np.ndarray,
    rng: np.random.Generator,
    scene: np.ndarray,
    size: int = 64,
    difficulty: float = 1.0,
) -> np.ndarray:
    """One scan, light on a dark plate or a darkened background: RGB uint8 [size, size, 3].

    difficulty: 0 draws large, centred digits on a flat colour; 1 draws any position and size, and
    photo backgrounds. A ViT trained from scratch on 1,400 scans learns nothing for a long time
    unless training starts with easy images.
    """
    hard = rng.random() < difficulty
    if hard:
        canvas = background(rng, size, scene)
    else:
        canvas = np.full((size, size, 3), rng.uniform(0, 120, 3))
    height = rng.uniform(0.9 - 0.3 * difficulty, 0.9) * size
    width = height * rng.uniform(1 - 0.4 * difficulty, 1.05)
    x = size / 2 + difficulty * rng.uniform(-1, 1) * (size - width) / 2
    y = size / 2 + difficulty * rng.uniform(-1, 1) * (size - height) / 2
    if hard and rng.random() < 0.6:
        x0, x1 = int(max(x - width * 0.6, 0)), int(min(x + width * 0.6, size))
        y0, y1 = int(max(y - height * 0.6, 0)), int(min(y + height * 0.6, size))
        canvas[y0:y1, x0:x1] = rng.uniform(0, 90, 3)
    else:
        canvas *= rng.uniform(0.1, 0.35)
    angle = rng.uniform(-10, 10) * difficulty
    canvas = paint(canvas, ink, rng.uniform(190, 255, 3), (x, y), (width, height), angle)
    canvas += rng.normal(0, rng.uniform(0, 10), canvas.shape)
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8)


def write_set(folder: Path, digits: Digits, scene: np.ndarray, seed: int, count: int) -> None:
    """Write `count` rendered scans as `folder/<label>/<number>.png`."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        target = folder / str(digits.labels[number])
        target.mkdir(parents=True, exist_ok=True)
        image = render(digits.ink[number], rng, scene)
        Image.fromarray(image).save(target / f"{number:04d}.png")
