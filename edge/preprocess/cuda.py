"""`Preprocess` on the GPU: `preprocess.cu` reads the pictures where they lie and writes the tensor.

One launch prepares a batch whose pictures may differ in size, format and colour. The tables of a
picture's geometry are uploaded when it is first seen; after that nothing is allocated or copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edge.errors import ImageError
from edge.preprocess.resample import Taps, taps
from edge.preprocess.spec import Placement, Preprocess
from edge.preprocess.surface import FORMATS, DeviceSurface, rgb_weights

__all__ = [
    "KERNELS",
    "PICTURE",
    "SOURCE",
    "Geometry",
    "Tiles",
    "describe",
    "geometry",
    "tables",
    "tiles",
]

SOURCE = Path(__file__).with_name("preprocess.cu")
KERNELS = {"float16": "preprocess_fp16", "float32": "preprocess_fp32"}
BLOCK = (32, 8, 1)
SHARED = 48 * 1024  # bytes of shared memory that a block may use on every GPU, unasked
_TILE_HEIGHT, _TILE_WIDTH, _ROWS = 16, 32, 16
_KIND = {"rgb": 0, "yuv": 1, "grey": 2}

_AXIS = np.dtype([("first", "u8"), ("count", "u8"), ("weights", "u8")])
# The kernel's `struct Picture`; a test compares the two member by member.
PICTURE = np.dtype(
    [
        ("planes", "u8", 3),
        ("columns", _AXIS),
        ("rows", _AXIS),
        ("pitches", "i4", 3),
        ("steps", "i4", 3),
        ("channels", "i4", 3),
        ("textures", "i4"),
        ("kind", "i4"),
        ("chroma_width", "i4"),
        ("chroma_height", "i4"),
        ("across", "i4"),
        ("down", "i4"),
        ("cosited_across", "i4"),
        ("cosited_down", "i4"),
        ("matrix", "i4", (3, 4)),
        ("column_taps", "i4"),
        ("row_taps", "i4"),
        ("top", "i4"),
        ("left", "i4"),
        ("height", "i4"),
        ("width", "i4"),
        ("order", "i4", 3),
    ],
    align=True,
)


@dataclass(frozen=True, eq=False)
class Geometry:
    """How pictures of one size become the tensor: where they go, and the tables of both axes."""

    placement: Placement
    columns: Taps
    rows: Taps

    def pack(self) -> tuple[npt.NDArray[np.int32], tuple[int, ...]]:
        """All tables in one array, int32, and where in it each begins, in bytes."""
        parts = [
            part.ravel()
            for axis in (self.columns, self.rows)
            for part in (axis.first, axis.count, axis.weights)
        ]
        ends = np.cumsum([0, *(part.nbytes for part in parts)])
        return np.concatenate(parts), tuple(int(end) for end in ends[:-1])


def geometry(spec: Preprocess, width: int, height: int) -> Geometry:
    """The tables for pictures of width x height. Raises `ImageError` for one too long."""
    placement = spec.place(height, width)
    (rows, columns), (top, left, used_rows, used_columns) = placement.resized, placement.window
    return Geometry(
        placement,
        taps(width, columns, spec.resample, left, used_columns),
        taps(height, rows, spec.resample, top, used_rows),
    )


class Tiles(NamedTuple):
    """How a launch is cut up: a block makes a tile, and reads `rows` source rows at a time."""

    height: int
    width: int
    rows: int
    span: int  # source pixels of a row that a tile needs at most

    @property
    def shared(self) -> int:
        """Bytes of shared memory of a block."""
        return 4 * (self.rows * (self.span + self.width) + 3 * self.height * self.width)


def tiles(spec: Preprocess, batch: Sequence[Geometry]) -> Tiles:
    """The largest tiles whose source rows fit the shared memory of a block.

    Raises `ImageError` for a picture so wide that not even one pixel's do.
    """
    width = _TILE_WIDTH
    while width:
        span = max(_span(spec, made, width) for made in batch)
        free = SHARED // 4 - 3 * _TILE_HEIGHT * width
        rows = min(_ROWS, free // (span + width))
        if rows:
            return Tiles(_TILE_HEIGHT, width, rows, span)
        width //= 2
    raise ImageError("a picture is too wide to be resized on the GPU", "give a smaller one")


def _span(spec: Preprocess, made: Geometry, tile: int) -> int:
    """Source pixels of a row that any tile of the tensor needs: tiles start at its left edge."""
    left, columns = made.placement.at[1], made.columns
    length = len(columns.first)
    starts = np.maximum(np.arange(0, spec.width, tile) - left, 0)
    ends = np.minimum(np.arange(0, spec.width, tile) + tile - left, length)
    used = starts < ends
    first, last = starts[used], ends[used] - 1
    return int((columns.first[last] + columns.count[last] - columns.first[first]).max())


def describe(
    spec: Preprocess,
    surface: DeviceSurface,
    made: Geometry,
    addresses: Sequence[int],
    out: np.ndarray[Any, Any],
) -> None:
    """Fill `out`, one record of PICTURE.

    addresses: of the geometry's six tables on the device, in the order of `Geometry.pack`.
    """
    layout, form, colour = surface.layout, FORMATS[surface.layout.format], surface.layout.colour
    samples = form.samples if len(form.samples) == 3 else form.samples * 3
    for index, (plane, start, step) in enumerate(samples):
        out["planes"][index] = surface.planes[plane] + (0 if surface.textures else start)
        out["pitches"][index] = 0 if surface.textures else surface.pitches[plane]
        out["steps"][index] = step
        out["channels"][index] = start
    out["textures"] = surface.textures
    out["kind"] = _KIND["rgb" if form.is_rgb else "yuv" if len(form.samples) == 3 else "grey"]
    out["across"], out["down"] = form.across, form.down
    out["chroma_width"] = -(-layout.width // form.across)
    out["chroma_height"] = -(-layout.height // form.down)
    out["cosited_across"], out["cosited_down"] = colour.cosited_across, colour.cosited_down
    out["matrix"] = rgb_weights(colour)
    for name, at in (("columns", 0), ("rows", 3)):
        for index, part in enumerate(("first", "count", "weights")):
            out[name][part] = addresses[at + index]
    out["column_taps"] = made.columns.weights.shape[1]
    out["row_taps"] = made.rows.weights.shape[1]
    out["top"], out["left"] = made.placement.at
    out["height"], out["width"] = made.placement.window[2:]
    out["order"] = [2, 1, 0] if spec.bgr else [0, 1, 2]


def tables(spec: Preprocess, number: npt.DTypeLike) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """What a byte becomes, [3, 256], and what lies beside a picture, [3]; float16 or float32.

    FP16 is FP32 rounded to nearest, as TensorRT and torch round it.
    """
    return spec.table().astype(number), spec.outside().astype(number)
