"""`Preprocess` on the CPU: Pillow resizes, a table normalises; byte for byte what training saw.

The reference is transformers' PIL backend (`image_processing_backends.PilBackend`): resize in
uint8 with Pillow, crop at floor((n - c) / 2), rescale in float64 rounded to float32, normalise in
float32.
"""

from __future__ import annotations

from math import ceil
from os import PathLike
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from edge.errors import ImageError
from edge.preprocess.spec import Preprocess

__all__ = ["Picture", "Preprocessor", "as_pixels", "load_image"]

Pixels = npt.NDArray[np.uint8]
Tensor = npt.NDArray[np.float32]
Picture: TypeAlias = "str | PathLike[str] | Image.Image | Pixels"


def load_image(path: str | PathLike[str]) -> Pixels:
    """Decode a picture as transformers' `load_image` does: EXIF rotation applied, RGB.

    Returns uint8 [H, W, 3]. Raises `ImageError` for a file that is missing or is no picture.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except UnidentifiedImageError:
        raise ImageError(f"{path} is not a picture", "give a JPEG, PNG, WebP or BMP file") from None
    except IsADirectoryError:
        raise ImageError(f"{path} is a folder", f"name its pictures: {path}/*") from None
    except FileNotFoundError:
        raise ImageError(f"{path} does not exist", "check the path") from None
    except Exception as error:  # Pillow raises many kinds, struct.error for damaged EXIF among them
        raise ImageError(f"{path} cannot be decoded ({error})", "replace the file") from None


def as_pixels(picture: Picture) -> Pixels:
    """A path, a PIL image or an array as uint8 RGB [H, W, 3]. Raises `ImageError`."""
    if isinstance(picture, np.ndarray):
        return picture
    if isinstance(picture, Image.Image):
        return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    return load_image(picture)


class Preprocessor:
    """A `Preprocess` made ready: call it with pixels and the tensor to fill."""

    def __init__(self, spec: Preprocess):
        self.spec = spec
        self.table = _table(spec)

    def __call__(self, pixels: Pixels, out: Tensor | None = None) -> Tensor:
        """Prepare RGB pixels uint8 [H, W, 3]; fills and returns `out`, float32 [3, height, width].

        Raises `ImageError` when the pixels are not 8-bit RGB or have no area.
        """
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or not pixels.size:
            raise ImageError(
                f"the picture is {pixels.dtype} {list(pixels.shape)}",
                "give uint8 RGB [height, width, 3]",
            )
        spec = self.spec
        if out is None:
            out = np.empty((3, spec.height, spec.width), np.float32)
        size = self._resized(pixels.shape[0], pixels.shape[1])
        if size != pixels.shape[:2]:
            image = Image.fromarray(np.ascontiguousarray(pixels))
            pixels = np.asarray(image.resize(size[::-1], Image.Resampling(spec.resample)))
        if spec.crop:
            pixels = _centre_crop(pixels, spec.crop)
        for channel in range(3):
            np.take(self.table[channel], pixels[..., channel], out=out[channel], mode="clip")
        return out

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        """The (height, width) after the resize."""
        if self.spec.resize:
            return self.spec.resize
        edge = self.spec.shortest_edge
        if edge is None:
            return height, width
        if width <= height:
            return int(edge * height / width), edge
        return edge, int(edge * width / height)


def _table(spec: Preprocess) -> Tensor:
    """What each of the 256 byte values becomes in each channel: float32 [3, 256]."""
    values = np.arange(256, dtype=np.uint8)
    if spec.scale is not None:
        scaled = (values.astype(np.float64) * spec.scale).astype(np.float32)
    else:
        scaled = values.astype(np.float32)
    table = np.repeat(scaled[None], 3, axis=0)
    if spec.mean is not None and spec.std is not None:
        mean = np.array(spec.mean, np.float32)[:, None]
        std = np.array(spec.std, np.float32)[:, None]
        table = (table - mean) / std
    return table


def _centre_crop(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """The centre of a picture; what lies outside it is 0 (transformers' `center_crop`)."""
    for axis, want in enumerate(size):
        have = pixels.shape[axis]
        if have < want:
            before = ceil((want - have) / 2)
            # transformers crops the padded picture at (have - want) // 2 + before, which is 0.
            padding = [(0, 0)] * 3
            padding[axis] = (before, want - have - before)
            pixels = np.pad(pixels, padding)
        else:
            start = (have - want) // 2
            window = slice(start, start + want)
            pixels = pixels[:, window] if axis else pixels[window]
    return pixels
