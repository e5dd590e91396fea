"""A picture as a camera or a decoder leaves it: its pixel format, its colours, its memory.

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
    "rgb_weights",
]

Matrix = Literal["bt601", "bt709", "bt2020"]

# Kr and Kb: how much red and blue weigh in luma.
_LUMA = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722), "bt2020": (0.2627, 0.0593)}
SHIFT = 20  # fractional bits of the sum; chroma comes in 1/16, so its weights have 16


class Samples(NamedTuple):
    """Where one component lies: every `step` bytes of a row of `plane`, from byte `start` on."""

    plane: int
    start: int
    step: int


class Format(NamedTuple):
    """A pixel format, 8 bits each: (R, G, B) or (Y, U, V) samples; a grey picture has Y alone.

    `across` and `down` say over how many pixels a chroma sample reaches.
    """

    samples: tuple[Samples, ...]
    is_rgb: bool
    across: int = 1
    down: int = 1

    @property
    def planes(self) -> int:
        return 1 + max(sample.plane for sample in self.samples)

    def plane_size(self, plane: int, width: int, height: int) -> tuple[int, int]:
        """(rows, bytes of a row) of a plane of a picture, its last group of samples whole."""
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
    """What the bytes of a YUV picture mean.

    full_range        luma and chroma use 0..255, not 16..235 and 16..240
    cosited_across    a chroma sample sits on the left pixel of its pair, not between the two
    cosited_down      and on the upper one
    """

    matrix: Matrix = "bt709"
    full_range: bool = False
    cosited_across: bool = True
    cosited_down: bool = False


@dataclass(frozen=True)
class Layout:
    """The format, size in pixels and colours of a picture. `colour` says nothing of an RGB one."""

    format: str
    width: int
    height: int
    colour: Colour = Colour()

    def __post_init__(self) -> None:
        """Raises `ImageError` for a format that is not in `FORMATS`, and for an empty picture."""
        if self.format not in FORMATS:
            raise ImageError(
                f"a picture in {self.format}", f"convert it to one of: {', '.join(FORMATS)}"
            )
        if self.width < 1 or self.height < 1:
            raise ImageError(f"a picture of {self.width}x{self.height} pixels", "give a larger one")


@dataclass(frozen=True, eq=False)
class Surface:
    """A picture in memory that the CPU reads.

    planes  uint8 [rows, bytes of a row]; rows may be padded, so they need not be contiguous. The
            arrays keep alive what they are a view on.
    """

    layout: Layout
    planes: tuple[npt.NDArray[np.uint8], ...]

    def __post_init__(self) -> None:
        """Raises `ImageError` when a plane is smaller than the layout needs."""
        layout, form = self.layout, FORMATS[self.layout.format]
        for index in range(form.planes):
            rows, columns = form.plane_size(index, layout.width, layout.height)
            shape = self.planes[index].shape if index < len(self.planes) else (0, 0)
            if len(shape) != 2 or shape[0] < rows or shape[1] < columns:
                raise ImageError(
                    f"plane {index} of a {layout.width}x{layout.height} {layout.format} picture is "
                    f"{list(shape)}, which is less than {[rows, columns]}",
                    "check what produces the picture",
                )

    @staticmethod
    def from_rgb(pixels: npt.NDArray[Any]) -> Surface:
        """A view on RGB pixels, uint8 [H, W, 3] of any row stride. Raises `ImageError`."""
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or not pixels.size:
            raise ImageError(
                f"the picture is {pixels.dtype} {list(pixels.shape)}",
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
    """A picture in memory that the GPU reads. Whoever made it keeps it alive; see `Frame.owner`.

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
    """The integer formula's numbers for R, G and B: int32 [3, 4], (y, u, v, offset) each.

    They are the float64 matrix of the standard, rounded; 1/2 is in the offset. The sums stay
    below 2^31. An RGB level is within 0.502 of what the standard's real numbers give.
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
