"""Pillow's resize as integer tables: the source pixels and weights of each output pixel.

The arithmetic is that of `libImaging/Resample.c` (`precompute_coeffs`, `normalize_coeffs_8bpc`)
and, for nearest, `ImagingScaleAffine` of `Geometry.c`. The CPU and the CUDA implementation use the
same tables: per axis `(2^21 + sum(weight * pixel)) >> 22`, clipped to 0..255; columns first, then
rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["BICUBIC", "BILINEAR", "LANCZOS", "NEAREST", "PRECISION", "Taps", "taps"]

NEAREST, LANCZOS, BILINEAR, BICUBIC = 0, 1, 2, 3  # the numbers of PIL.Image.Resampling
PRECISION = 22  # fractional bits of a weight

_SUPPORT = {BILINEAR: 1.0, BICUBIC: 2.0, LANCZOS: 3.0}
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Taps:
    """Output i is the sum of `weights[i, j] * source[first[i] + j]` for j below `count[i]`.

    first, count  int32 [outputs]
    weights       int32 [outputs, taps], 22 fractional bits, 0 from `count` on
    """

    first: npt.NDArray[np.int32]
    count: npt.NDArray[np.int32]
    weights: npt.NDArray[np.int32]

    @property
    def span(self) -> tuple[int, int]:
        """The first source index that any output reads, and one past the last."""
        return int(self.first.min()), int((self.first + self.count).max())


def taps(source: int, target: int, resample: int, start: int, length: int) -> Taps:
    """The table for an axis of `source` pixels resized to `target`: `length` outputs from `start`.

    resample: a number of `PIL.Image.Resampling`: nearest, lanczos, bilinear or bicubic.
    """
    if source == target:  # Pillow does not change such an axis
        first = np.arange(start, start + length, dtype=np.int32)
        return Taps(first, np.ones(length, np.int32), _quantised(np.ones((length, 1))))
    if resample == NEAREST:
        # Pillow adds up the steps; a product would round differently.
        steps = np.full(start + length, source / target)
        steps[0] *= 0.5
        first = np.cumsum(steps)[start:].astype(np.int32)
        return Taps(first, np.ones(length, np.int32), _quantised(np.ones((length, 1))))
    scale = source / target
    stretch = max(scale, 1.0)
    support = _SUPPORT[resample] * stretch
    centre = (np.arange(start, start + length) + 0.5) * scale
    first = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    end = np.minimum((centre + support + 0.5).astype(np.int64), source)
    count = end - first
    offset = np.arange(int(count.max()))
    place = (offset + first[:, None] - centre[:, None] + 0.5) * (1.0 / stretch)
    weights = np.where(offset < count[:, None], _filter(place, resample), 0.0)
    # Pillow adds sequentially; numpy's sum() adds pairwise and rounds differently.
    total = np.cumsum(weights, axis=1)[:, -1:]
    weights = np.divide(weights, total, out=weights, where=total != 0)
    return Taps(first.astype(np.int32), count.astype(np.int32), _quantised(weights))


def _quantised(weights: Doubles) -> npt.NDArray[np.int32]:
    """Weights with 22 fractional bits; halves are rounded away from zero."""
    scaled = weights * (1 << PRECISION)
    return np.trunc(np.where(scaled < 0, scaled - 0.5, scaled + 0.5)).astype(np.int32)


def _filter(x: Doubles, resample: int) -> Doubles:
    x = np.abs(x)
    if resample == BILINEAR:
        return np.where(x < 1, 1 - x, 0.0)
    if resample == BICUBIC:
        a = -0.5
        near = ((a + 2) * x - (a + 3)) * x * x + 1
        far = (((x - 5) * x + 8) * x - 4) * a
        return np.where(x < 1, near, np.where(x < 2, far, 0.0))
    return np.where(x < 3, _sinc(x) * _sinc(x / 3), 0.0)


def _sinc(x: Doubles) -> Doubles:
    # The C library's sine, as in Pillow: numpy's differs in the last bit on some CPUs.
    angle = x * math.pi
    sine = np.fromiter(map(math.sin, angle.ravel()), np.float64, x.size).reshape(x.shape)
    return np.divide(sine, angle, out=np.ones_like(x), where=x != 0)
