"""preprocess.cu compiled as plain C++, with or without a sanitizer, and launched from Python."""

import ctypes
import hashlib
import os
import subprocess
from pathlib import Path

import numpy as np

from edge.preprocess.cuda import IMAGE, KERNELS, SOURCE, describe, geometry, grid, tables
from edge.preprocess.spec import Preprocess
from edge.preprocess.surface import FORMATS, DeviceSurface, Surface

HERE = Path(__file__).parent
PARAMETERS = np.dtype(  # of the kernels
    [(name, "u8") for name in ("pictures", "table", "outside", "out")]
    + [("height", "i4"), ("width", "i4")]
)
FLAGS = ["-std=c++20", "-O1", "-g", "-shared", "-fPIC", "-pthread", "-Wall", "-Werror"]


def compiled(folder: Path, *sanitizers: str, source: Path = SOURCE) -> Path:
    """The host library of a kernel source, made once for each content of it."""
    texts = [path.read_bytes() for path in (source, HERE / "shim.h", HERE / "host.cpp")]
    digest = hashlib.sha256(b"".join(texts) + " ".join([*FLAGS, *sanitizers]).encode()).hexdigest()
    library = folder / f"preprocess-{digest[:16]}.so"
    if not library.exists():
        scratch = library.with_suffix(f".{os.getpid()}")
        command = ["g++", *FLAGS, *sanitizers, f'-DKERNEL_SOURCE="{source}"', "-x", "c++"]
        subprocess.run([*command, str(HERE / "host.cpp"), "-o", str(scratch)], check=True)
        scratch.replace(library)
    return library


def channels_of(surface: Surface) -> list[int]:
    """How many samples each plane has at a place, as a texture reads them."""
    form = FORMATS[surface.layout.format]
    return [
        max(sample.step for sample in form.samples if sample.plane == index)
        for index in range(form.planes)
    ]


class HostKernel:
    """The kernels of a host library, launched the way cuda.py launches them."""

    def __init__(self, library: Path):
        self.library = ctypes.CDLL(str(library))
        self.library.make_texture.restype = ctypes.c_void_p

    def __call__(
        self,
        spec: Preprocess,
        surfaces: list[Surface],
        number: str = "float32",
        *,
        textures: bool = False,
        block: tuple[int, int, int] = (1, 1, 1),
    ) -> np.ndarray:
        """A batch of surfaces -> [N, 3, height, width] of `number`."""
        made = [geometry(spec, *s.layout.upright) for s in surfaces]
        table, outside = tables(spec, number)
        pictures = np.zeros(len(surfaces), IMAGE)
        keep = []
        for record, surface, geometry_ in zip(pictures, surfaces, made, strict=True):
            packed, starts = geometry_.pack()
            keep.append(packed)
            device = self._device(surface, textures)
            addresses = [packed.ctypes.data + start for start in starts]
            describe(spec, device, geometry_, addresses, record)
        out = np.full((len(surfaces), 3, spec.height, spec.width), np.nan, number)
        parameters = np.zeros((), PARAMETERS)
        for name, array in zip(PARAMETERS.names, (pictures, table, outside, out), strict=False):
            parameters[name] = array.ctypes.data
        parameters["height"], parameters["width"] = spec.height, spec.width
        run = getattr(self.library, KERNELS[number] + "_threads")
        three = ctypes.c_uint * 3
        shared = max(one.shared for one in made)
        run(
            three(*grid(spec, len(surfaces))),
            three(*block),
            shared,
            ctypes.c_void_p(parameters.ctypes.data),
        )
        return out

    def _device(self, surface: Surface, textures: bool) -> DeviceSurface:
        pitches = tuple(plane.strides[0] for plane in surface.planes)
        if not textures:
            addresses = tuple(plane.ctypes.data for plane in surface.planes)
            return DeviceSurface(surface.layout, addresses, pitches)
        objects = []
        for plane, channels in zip(surface.planes, channels_of(surface), strict=True):
            rows, columns = plane.shape
            start = ctypes.c_void_p(plane.ctypes.data)
            size = plane.strides[0], channels, columns // channels, rows
            objects.append(self.library.make_texture(start, *size))
        return DeviceSurface(surface.layout, tuple(objects), (), textures=True)
