"""Surfaces: images and frames in memory, with their pixel format and colour encoding.

The numbers are those of ITU-R BT.601, BT.709 and BT.2020; the formats are GStreamer's, by name.
Conversion to RGB is one integer formula, the same on the CPU and in `preprocess.cu`:

    chroma U, V in 1/16 levels: bilinear between the four nearest samples, at the stream's siting
    c = (luma * y + u_weight * U + v_weight * V + offset) >> 20, clipped to 0..255, for R, G and B
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from edge.errors import ImageError

__all__ = [
    "FORMATS",
    "Colour",
    "DeviceSurface",
    "Format",
    "Layout",
    "Samples",
    "Surface",
    "Turn",
    "rgb_weights",
]

Matrix = Literal["bt601", "bt709", "bt2020"]

# Kr and Kb: the weights of red and blue in luma.
_LUMA = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722), "bt2020": (0.2627, 0.0593)}
SHIFT = 20  # fractional bits of the sum; chroma is in 1/16 levels, so its weights have 16 bits


class Samples(NamedTuple):
    """The place of one component: every `step` bytes of a row of `plane`, from byte `start` on."""

    plane: int
    start: int
    step: int


class Format(NamedTuple):
    """A pixel format of 8-bit samples: (R, G, B), (Y, U, V), or Y alone for grey.

    across, down: the pixels that one chroma sample covers, horizontally and vertically.
    """

    samples: tuple[Samples, ...]
    is_rgb: bool
    across: int = 1
    down: int = 1

    @property
    def planes(self) -> int:
        """The number of planes."""
        return 1 + max(sample.plane for sample in self.samples)

    def plane_size(self, plane: int, width: int, height: int) -> tuple[int, int]:
        """(rows, bytes per row) of a plane; the last group of samples is always complete."""
        rows = columns = 0
        for index, (where, start, step) in enumerate(self.samples):
            if where == plane:
                chroma = index > 0 and not self.is_rgb
                rows = max(rows, -(-height // self.down) if chroma else height)
                count = -(-width // self.across) if chroma else width
                columns = max(columns, step * -(-(start + step * (count - 1) + 1) // step))
        return rows, columns


def _packed(step: int, *starts: int) -> Format:
    return Format(tuple(Samples(0, start, step) for start in starts), is_rgb=True)


FORMATS: dict[str, Format] = {
    "RGB": _packed(3, 0, 1, 2),
    "BGR": _packed(3, 2, 1, 0),
    "RGBA": _packed(4, 0, 1, 2),
    "RGBx": _packed(4, 0, 1, 2),
    "BGRA": _packed(4, 2, 1, 0),
    "BGRx": _packed(4, 2, 1, 0),
    "GRAY8": Format((Samples(0, 0, 1),), is_rgb=False),
    "NV12": Format((Samples(0, 0, 1), Samples(1, 0, 2), Samples(1, 1, 2)), False, 2, 2),
    "NV21": Format((Samples(0, 0, 1), Samples(1, 1, 2), Samples(1, 0, 2)), False, 2, 2),
    "I420": Format((Samples(0, 0, 1), Samples(1, 0, 1), Samples(2, 0, 1)), False, 2, 2),
    "Y42B": Format((Samples(0, 0, 1), Samples(1, 0, 1), Samples(2, 0, 1)), False, 2, 1),
    "Y444": Format((Samples(0, 0, 1), Samples(1, 0, 1), Samples(2, 0, 1)), False, 1, 1),
    "YUY2": Format((Samples(0, 0, 2), Samples(0, 1, 4), Samples(0, 3, 4)), False, 2, 1),
    "UYVY": Format((Samples(0, 1, 2), Samples(0, 0, 4), Samples(0, 2, 4)), False, 2, 1),
}


@dataclass(frozen=True)
class Colour:
    """The colour encoding of YUV samples.

    full_range        luma and chroma use 0..255 instead of 16..235 and 16..240
    cosited_across    a chroma sample is at the left pixel of its pair, not between the two
    cosited_down      a chroma sample is at the upper pixel of its pair, not between the two
    """

    matrix: Matrix = "bt709"
    full_range: bool = False
    cosited_across: bool = True
    cosited_down: bool = False


class Turn(NamedTuple):
    """Where an image stores its upright pixel (x, y): `mirrored` of (y, x) if it is `transposed`.

    transposed       x and y are exchanged first
    mirrored_across  then x counts from the right end of the stored rows
    mirrored_down    and y from the last stored row
    """

    transposed: bool
    mirrored_across: bool
    mirrored_down: bool


@dataclass(frozen=True)
class Layout:
    """The pixel format, size in pixels and colours of an image; RGB formats ignore `colour`.

    width, height  of the stored image, in pixels
    orientation    of EXIF, 1 to 8: how to turn the stored image upright; 1: it is upright
    """

    format: str
    width: int
    height: int
    colour: Colour = Colour()
    orientation: int = 1

    @property
    def turn(self) -> Turn:
        """How the stored image is turned, from its orientation."""
        return Turn(
            transposed=self.orientation in (5, 6, 7, 8),
            mirrored_across=self.orientation in (2, 3, 7, 8),
            mirrored_down=self.orientation in (3, 4, 6, 7),
        )

    @property
    def upright(self) -> tuple[int, int]:
        """(width, height) of the upright image.

        >>> Layout("NV12", 1920, 1080, orientation=6).upright
        (1080, 1920)
        """
        size = self.width, self.height
        return size[::-1] if self.turn.transposed else size

    def __post_init__(self) -> None:
        """Raises `ImageError` for a format that is not in `FORMATS`, and for an empty image."""
        if self.format not in FORMATS:
            raise ImageError(
                f"unsupported pixel format {self.format}",
                f"convert it to one of: {', '.join(FORMATS)}",
            )
        if self.width < 1 or self.height < 1:
            raise ImageError(
                f"an image of {self.width}x{self.height} pixels is empty", "use a larger image"
            )


@dataclass(frozen=True, eq=False)
class Surface:
    """An image or a frame in system memory.

    planes  uint8 [rows, bytes per row]; rows may be padded, so they need not be contiguous. The
            arrays keep the memory alive on which they are a view.
    """

    layout: Layout
    planes: tuple[npt.NDArray[np.uint8], ...]

    def __post_init__(self) -> None:
        """Raises `ImageError` if a plane is smaller than the layout needs."""
        layout, form = self.layout, FORMATS[self.layout.format]
        for index in range(form.planes):
            rows, columns = form.plane_size(index, layout.width, layout.height)
            shape = self.planes[index].shape if index < len(self.planes) else (0, 0)
            if len(shape) != 2 or shape[0] < rows or shape[1] < columns:
                raise ImageError(
                    f"plane {index} of a {layout.width}x{layout.height} {layout.format} image has "
                    f"shape {list(shape)}, and needs {[rows, columns]}",
                    "check what produces the image",
                )

    @staticmethod
    def from_rgb(pixels: npt.NDArray[Any]) -> Surface:
        """A view on RGB pixels, uint8 [H, W, 3], with any row stride. Raises `ImageError`."""
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or not pixels.size:
            raise ImageError(
                f"the image is {pixels.dtype} {list(pixels.shape)}",
                "give uint8 RGB [height, width, 3]",
            )
        height, width = pixels.shape[:2]
        if pixels.strides[1:] != (3, 1) or pixels.strides[0] < 3 * width:
            pixels = np.ascontiguousarray(pixels)
        rows = np.lib.stride_tricks.as_strided(
            pixels, (height, 3 * width), (pixels.strides[0], 1), writeable=False
        )
        return Surface(Layout("RGB", width, height), (rows,))


@dataclass(frozen=True, eq=False)
class DeviceSurface:
    """An image or a frame in memory that the GPU reads. Its creator owns it: see `Frame.owner`.

    planes    the address of each plane's first byte; with `textures` its texture object instead
    pitches   bytes from one row of a plane to the next; not used for textures
    textures  planes are block-linear, read as textures: one channel for luma, two for NV12's chroma
    """

    layout: Layout
    planes: tuple[int, ...]
    pitches: tuple[int, ...]
    textures: bool = False


@lru_cache(maxsize=16)
def rgb_weights(colour: Colour) -> npt.NDArray[np.int32]:
    """The weights of the integer formula: int32 [3, 4], (y, u, v, offset) for each of R, G and B.

    They are the standard's matrix in float64, rounded; the offset includes 1/2 for rounding. The
    sums stay below 2^31. A resulting level is within 0.502 of the standard's real-valued result.
    """
    red, blue = _LUMA[colour.matrix]
    green = 1 - red - blue
    black, luma, chroma = (0, 1.0, 1.0) if colour.full_range else (16, 255 / 219, 255 / 224)
    matrix = chroma * np.array(
        [
            [0, 2 * (1 - red)],
            [-2 * blue * (1 - blue) / green, -2 * red * (1 - red) / green],
            [2 * (1 - blue), 0],
        ]
    )
    weights = np.empty((3, 4), np.int64)
    weights[:, 0] = round(luma * 2**SHIFT)
    weights[:, 1:3] = np.rint(matrix * 2 ** (SHIFT - 4))
    weights[:, 3] = (
        2 ** (SHIFT - 1) - black * weights[:, 0] - 16 * 128 * weights[:, 1:3].sum(axis=1)
    )
    return weights.astype(np.int32)
