"""`Preprocess` on the GPU: `preprocess.cu` reads the images in place and writes the tensor.

One launch prepares a batch. Its images may differ in size, format and colour. The tables for an
image size are uploaded at its first use; after that nothing is allocated or copied.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge.errors import ImageError
from edge.gpu.device import Device, Memory, Stream
from edge.gpu.kernels import kernel_image
from edge.preprocess.resample import Taps, taps
from edge.preprocess.spec import Placement, Preprocess
from edge.preprocess.surface import FORMATS, DeviceSurface, rgb_weights

__all__ = [
    "IMAGE",
    "KERNELS",
    "SOURCE",
    "CudaPreprocessor",
    "Geometry",
    "describe",
    "geometry",
    "grid",
    "tables",
]

SOURCE = Path(__file__).with_name("preprocess.cu")
KERNELS = {"float16": "preprocess_fp16", "float32": "preprocess_fp32"}
BLOCK = (32, 8, 1)
SHARED = 48 * 1024  # bytes of shared memory per block that every GPU has, without opting in
TILE_HEIGHT, TILE_WIDTH = 16, 32  # as in preprocess.cu; a block computes one tile
_ROWS = 16  # most source rows that a block reads at a time
_KEPT = 32  # image sizes whose tables stay on the GPU
_KIND = {"rgb": 0, "yuv": 1, "grey": 2}

_AXIS = np.dtype([("first", "u8"), ("count", "u8"), ("weights", "u8")])
# The kernel's `struct Image`; a test compares the two member by member.
IMAGE = np.dtype(
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
        ("staged", "i4"),
        ("span", "i4"),
        ("stored_width", "i4"),
        ("stored_height", "i4"),
        ("transposed", "i4"),
        ("mirrored_across", "i4"),
        ("mirrored_down", "i4"),
    ],
    align=True,
)


@dataclass(frozen=True, eq=False)
class Geometry:
    """The placement and the resampling tables for images of one size."""

    placement: Placement
    columns: Taps
    rows: Taps
    span: int  # most source pixels of a row that a tile needs

    @property
    def staged(self) -> int:
        """Source rows that a block reads at a time, limited by its shared memory."""
        return min(_ROWS, (SHARED // 4 - 3 * TILE_HEIGHT * TILE_WIDTH) // (self.span + TILE_WIDTH))

    @property
    def shared(self) -> int:
        """Bytes of shared memory that a block needs."""
        return 4 * (self.staged * (self.span + TILE_WIDTH) + 3 * TILE_HEIGHT * TILE_WIDTH)

    def pack(self) -> tuple[npt.NDArray[np.int32], tuple[int, ...]]:
        """All tables in one int32 array, and the offset of each in bytes."""
        return self._packed

    @cached_property
    def _packed(self) -> tuple[npt.NDArray[np.int32], tuple[int, ...]]:
        parts = [
            part.ravel()
            for axis in (self.columns, self.rows)
            for part in (axis.first, axis.count, axis.weights)
        ]
        ends = np.cumsum([0, *(part.nbytes for part in parts)])
        return np.concatenate(parts), tuple(int(end) for end in ends[:-1])


def geometry(spec: Preprocess, width: int, height: int) -> Geometry:
    """The geometry for upright images of width x height pixels.

    Raises `ImageError` if they are too elongated to be resized, or too wide for a block's shared
    memory.
    """
    placement = spec.place(height, width)
    (rows, columns), (top, left, used_rows, used_columns) = placement.resized, placement.window
    across = taps(width, columns, spec.resample, left, used_columns)
    down = taps(height, rows, spec.resample, top, used_rows)
    made = Geometry(placement, across, down, _span(across, placement.at[1], spec.width))
    if made.staged < 1:
        raise ImageError(
            f"an image {width} pixels wide does not fit the GPU's shared memory",
            "use a smaller image, or use the CPU: --backend onnxruntime",
        )
    return made


def _span(columns: Taps, left: int, width: int) -> int:
    """Most source pixels of a row that a tile needs; tiles start at the tensor's left edge."""
    starts = np.arange(0, width, TILE_WIDTH) - left
    first = np.maximum(starts, 0)
    last = np.minimum(starts + TILE_WIDTH, len(columns.first)) - 1
    first, last = first[first <= last], last[first <= last]
    return int((columns.first[last] + columns.count[last] - columns.first[first]).max())


def describe(
    spec: Preprocess,
    surface: DeviceSurface,
    made: Geometry,
    addresses: Sequence[int],
    out: np.ndarray[Any, Any],
) -> None:
    """Fill `out`, one record of dtype IMAGE.

    addresses: of the six tables on the GPU, in the order of `Geometry.pack`.
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
    out["staged"], out["span"] = made.staged, made.span
    out["stored_width"], out["stored_height"] = layout.width, layout.height
    out["transposed"], out["mirrored_across"], out["mirrored_down"] = layout.turn


def grid(spec: Preprocess, batch: int) -> tuple[int, int, int]:
    """Blocks of a launch: (tiles across, tiles down, images)."""
    return -(-spec.width // TILE_WIDTH), -(-spec.height // TILE_HEIGHT), batch


def tables(spec: Preprocess, number: npt.DTypeLike) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """`Preprocess.table`, [3, 256], and `Preprocess.outside`, [3], as float16 or float32.

    FP16 is FP32 rounded to nearest, as in TensorRT and torch.
    """
    return spec.table().astype(number), spec.outside().astype(number)


class CudaPreprocessor:
    """The kernel, loaded on one GPU. It manages its tables; the device owns the memory.

    Call `fill` on one thread only. A launch reads the records when the GPU executes it.
    """

    def __init__(
        self,
        spec: Preprocess,
        device: Device,
        number: str = "float32",
        info: Callable[[str], None] = lambda text: None,
    ):
        """number: dtype of the tensor, float16 or float32. info: called with a text when the kernel
        is compiled.

        Raises `BackendError` or `MissingPackage` if the kernel cannot be compiled or loaded.
        """
        self.spec = spec
        self._device = device
        image = kernel_image(SOURCE, device.compute_capability, info)
        with device:
            self._kernel = device.load(image).function(KERNELS[number])
        table, outside = tables(spec, number)
        self._table, self._outside = self._upload(table), self._upload(outside)
        self._kept: OrderedDict[tuple[int, int], tuple[Geometry, Memory]] = OrderedDict()
        self._limit = _KEPT

    def records(self, batch: int) -> tuple[npt.NDArray[Any], int]:
        """Memory for the records of a batch, IMAGE [batch], and its address for `launch`."""
        self._limit = max(self._limit, batch)  # otherwise a batch could release its own tables
        memory, address = self._device.mapped(batch * IMAGE.itemsize)
        return memory.view(IMAGE), address

    def fill(self, record: np.ndarray[Any, Any], surface: DeviceSurface) -> int:
        """Fill the record of an image. Returns the bytes of shared memory that its launch needs.

        Raises `ImageError` if the image cannot be resized on this GPU.
        """
        made, memory = self._geometry(*surface.layout.upright)
        addresses = [memory.address + start for start in made.pack()[1]]
        describe(self.spec, surface, made, addresses, record)
        return made.shared

    def launch(self, stream: Stream, records: int, batch: int, shared: int, out: int) -> None:
        """Enqueue in the stream: prepare `batch` images into the tensor at address `out`.

        records: the address from `records`. shared: bytes of shared memory, the largest that `fill`
        returned for the batch. The images must stay in place until the stream has finished.
        """
        stream.launch(
            self._kernel,
            grid(self.spec, batch),
            BLOCK,
            shared,
            *(np.uint64(int(at)) for at in (records, self._table, self._outside, out)),
            np.int32(self.spec.height),
            np.int32(self.spec.width),
        )

    def _geometry(self, width: int, height: int) -> tuple[Geometry, Memory]:
        """The tables for an image size, on the GPU; the most recently used sizes are kept."""
        key = (width, height)
        if key not in self._kept:
            made = geometry(self.spec, width, height)
            if len(self._kept) >= self._limit:
                self._device.synchronize()  # a launch may still read them
                self._device.free(self._kept.popitem(last=False)[1][1])
            self._kept[key] = made, self._upload(made.pack()[0])
        self._kept.move_to_end(key)
        return self._kept[key]

    def _upload(self, array: npt.NDArray[Any]) -> Memory:
        """Copy to the GPU's memory; the copy is done on return."""
        with self._device as device:
            memory, pinned = device.allocate(array.nbytes), device.pinned(array.shape, array.dtype)
            pinned[...] = array
            device.stream.upload(memory, pinned)
            device.stream.wait()
            device.free(pinned)
        return memory
