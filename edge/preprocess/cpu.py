"""`Preprocess` on the CPU, from any surface: the same bytes as in training.

Columns are resized first and rows second, rounded to 8 bits in between, as in Pillow from 2016 to
12.1, with which the published checkpoints were trained. Later versions of Pillow resize the rows
first for some shapes (pull requests 9524 and 9549), which changes single levels. Two calls, each
for one axis, keep the old order.
"""

from __future__ import annotations

import importlib.util
import threading
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from edge.files.npy import check_npy, write_npy
from edge.preprocess.colour import to_rgb, upright
from edge.preprocess.images import load_image
from edge.preprocess.resample import NEAREST, taps
from edge.preprocess.spec import Placement, Preprocess
from edge.preprocess.surface import Layout, Surface

__all__ = ["Preprocessor", "to_rgb", "write_tensor"]

Pixels = npt.NDArray[np.uint8]
Tensor = npt.NDArray[np.float32]


def write_tensor(spec: Preprocess, image: Path, out: Path) -> None:
    """Prepare an image and write it as .npy, float32 [3, H, W], atomically.

    Raises `ImageError` for the image, `StorageError` for the file.
    """
    check_npy(out)
    write_npy(out, Preprocessor(spec)(load_image(image, opaque=spec.opaque)))


class Preprocessor:
    """The CPU implementation of a `Preprocess`: call it with an image, from any thread.

    compiled  whether numba resizes, which is faster, or Pillow; both give the same bytes
    """

    def __init__(self, spec: Preprocess, *, compiled: bool | None = None):
        """compiled: whether to use numba; by default, if it is installed."""
        self.spec = spec
        self.compiled = (
            importlib.util.find_spec("numba") is not None if compiled is None else compiled
        )
        self.table = spec.table()
        self._outside = spec.outside()[:, None, None]
        self._order = np.array([2, 1, 0] if spec.bgr else [0, 1, 2])
        self._place = lru_cache(maxsize=64)(spec.place)
        self._local = threading.local()

    @property
    def resizer(self) -> str:
        """What resizes images, as text for people."""
        if not self.compiled:
            return "Pillow; faster with numba"
        from edge.preprocess import compiled

        return "numba" if compiled.CACHED else f"numba, {compiled.NOT_CACHED}"

    def __call__(self, image: Surface | Pixels, out: Tensor | None = None) -> Tensor:
        """Prepare a surface, or RGB pixels uint8 [H, W, 3].

        Fills and returns `out`, float32 [3, height, width], C-contiguous; without it, a new array.
        Raises `ImageError` if the pixels are not 8-bit RGB, the image is empty, or it is too
        elongated to be resized.
        """
        surface = upright(image) if isinstance(image, Surface) else Surface.from_rgb(image)
        spec, layout = self.spec, surface.layout
        placement = self._place(layout.height, layout.width)
        if out is None:
            out = np.empty((3, spec.height, spec.width), np.float32)
        (_, _, height, width), (top, left) = placement.window, placement.at
        inside = out
        if (height, width) != (spec.height, spec.width):
            out[:] = self._outside
            inside = out[:, top : top + height, left : left + width]
        if self.compiled:
            self._workspace(layout, placement).run(surface, self.table, self._order, inside)
        else:
            pixels = self._resized(to_rgb(surface), placement)
            for channel, source in enumerate(self._order):
                np.take(self.table[channel], pixels[..., source], out=inside[channel], mode="clip")
        return out

    def _workspace(self, layout: Layout, placement: Placement) -> Any:
        """This thread's tables and scratch memory for this layout; only the last one is kept."""
        from edge.preprocess.compiled import Workspace

        key, workspace = getattr(self._local, "workspace", (None, None))
        if key != layout:
            (rows, columns), (top, left, height, width) = placement.resized, placement.window
            workspace = Workspace(
                layout,
                taps(layout.width, columns, self.spec.resample, left, width),
                taps(layout.height, rows, self.spec.resample, top, height),
            )
            self._local.workspace = (layout, workspace)
        return workspace

    def _resized(self, pixels: Pixels, placement: Placement) -> Pixels:
        """The placement's window of the resized image, by Pillow: uint8 [height, width, 3]."""
        (rows, columns), (top, left, height, width) = placement.resized, placement.window
        filter_ = Image.Resampling(self.spec.resample)
        if (rows, columns) != pixels.shape[:2]:
            image = Image.fromarray(np.ascontiguousarray(pixels))
            if filter_ == NEAREST:  # is not computed axis by axis
                return np.asarray(image.resize((columns, rows), filter_).crop(_box(placement)))
            image = image.resize((columns, image.height), filter_)
            image = image.crop((left, 0, left + width, image.height))
            pixels, left = np.asarray(image.resize((width, rows), filter_)), 0
        return pixels[top : top + height, left : left + width]


def _box(placement: Placement) -> tuple[int, int, int, int]:
    top, left, height, width = placement.window
    return left, top, left + width, top + height
