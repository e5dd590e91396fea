"""NVIDIA's libnvbufsurface: where a picture in NVMM memory says what it is and where it lies.

Two layouts of its structures are in use. A: L4T R35 and R36, DeepStream up to 7. B: L4T R38 and
later, DeepStream 8. The structures here have the fields that are read; the tests compare every
offset with a C compiler's.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import c_bool, c_int32, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.errors import SourceError
from edge.gpu import nvidia

__all__ = [
    "BLOCK_LINEAR",
    "CUDA_MEMORY",
    "PITCH",
    "SURFACE_ARRAY",
    "A",
    "Abi",
    "B",
    "NvBufSurface",
    "Picture",
    "abi_here",
]

# NvBufSurfaceMemType
_DEFAULT, CUDA_PINNED, CUDA_DEVICE, CUDA_UNIFIED, SURFACE_ARRAY = range(5)
CUDA_MEMORY = (CUDA_PINNED, CUDA_DEVICE, CUDA_UNIFIED)
# NvBufSurfaceLayout
PITCH, BLOCK_LINEAR = 0, 1

_PLANES = 4
_DEEPSTREAM = Path("/opt/nvidia/deepstream")


class PlaneParams(ctypes.Structure):
    """NvBufSurfacePlaneParams, the same in both."""

    _fields_ = [
        ("num_planes", c_uint32),
        ("width", c_uint32 * _PLANES),
        ("height", c_uint32 * _PLANES),
        ("pitch", c_uint32 * _PLANES),
        ("offset", c_uint32 * _PLANES),
        ("psize", c_uint32 * _PLANES),
        ("bytesPerPix", c_uint32 * _PLANES),
        ("_reserved", c_void_p * 16),
    ]


class CudaBuffer(ctypes.Structure):
    """NvBufSurfaceCudaBuffer."""

    _fields_ = [
        ("basePtr", c_void_p),
        ("dataPtr", c_void_p),
        ("extMem", c_void_p),
        ("mipmap", c_void_p),
        ("_reserved", ctypes.c_uint8 * 64),
    ]


_MAPPED: list[tuple[str, Any]] = [("addr", c_void_p * _PLANES), ("eglImage", c_void_p)]
_PARAMS: list[tuple[str, Any]] = [
    ("width", c_uint32),
    ("height", c_uint32),
    ("pitch", c_uint32),
    ("colorFormat", c_int32),
    ("layout", c_int32),
    ("bufferDesc", c_uint64),
    ("dataSize", c_uint32),
    ("dataPtr", c_void_p),
    ("planeParams", PlaneParams),
]
_SURFACE: list[tuple[str, Any]] = [
    ("gpuId", c_uint32),
    ("batchSize", c_uint32),
    ("numFilled", c_uint32),
    ("isContiguous", c_bool),
    ("memType", c_int32),
]


class MappedAddrA(ctypes.Structure):
    """NvBufSurfaceMappedAddr."""

    _fields_ = [*_MAPPED, ("_reserved", c_void_p * 4)]


class MappedAddrB(ctypes.Structure):
    """NvBufSurfaceMappedAddr."""

    _fields_ = [
        *_MAPPED,
        ("nvmmPtr", c_void_p),
        ("cudaPtr", c_void_p),
        ("_reserved", c_void_p * 4),
    ]


class ParamsA(ctypes.Structure):
    """NvBufSurfaceParams."""

    _fields_ = [
        *_PARAMS,
        ("mappedAddr", MappedAddrA),
        ("paramex", c_void_p),
        ("_reserved", c_void_p * 3),
    ]


class ParamsB(ctypes.Structure):
    """NvBufSurfaceParams."""

    _fields_ = [
        *_PARAMS,
        ("mappedAddr", MappedAddrB),
        ("paramex", c_void_p),
        ("cudaBuffer", ctypes.POINTER(CudaBuffer)),
        ("_reserved", c_void_p * 4),
    ]


class SurfaceA(ctypes.Structure):
    """NvBufSurface."""

    _fields_ = [
        *_SURFACE,
        ("surfaceList", ctypes.POINTER(ParamsA)),
        ("_reserved", c_void_p * 4),
    ]


class SurfaceB(ctypes.Structure):
    """NvBufSurface."""

    _fields_ = [
        *_SURFACE,
        ("surfaceList", ctypes.POINTER(ParamsB)),
        ("isImportedBuf", c_bool),
        ("_reserved", c_void_p * 4),
    ]


@dataclass(frozen=True)
class Abi:
    """One layout of the structures."""

    name: str
    surface: type[ctypes.Structure]
    params: type[ctypes.Structure]
    mapped_addr: type[ctypes.Structure]


A = Abi("A", SurfaceA, ParamsA, MappedAddrA)
B = Abi("B", SurfaceB, ParamsB, MappedAddrB)


def abi_here() -> Abi:
    """The layout that this machine's libraries use, by its L4T release or its DeepStream.

    Raises SourceError where neither tells.
    """
    if l4t := nvidia.l4t_version():
        number = l4t.partition(".")[0].removeprefix("R")
        if number.isdigit():
            return B if int(number) >= 38 else A
    versions = [
        folder.name.removeprefix("deepstream-").partition(".")[0]
        for folder in _DEEPSTREAM.glob("deepstream-*")
    ]
    if versions:
        return B if max(int(version) for version in versions if version.isdigit()) >= 8 else A
    raise SourceError(
        "nothing here tells which NvBufSurface this is",
        "in a container: docker run -v /etc/nv_tegra_release:/etc/nv_tegra_release:ro ...",
    )


@dataclass(frozen=True)
class Picture:
    """The first surface of a batch, as it describes itself.

    address    of its NvBufSurface
    memory     NvBufSurfaceMemType, never DEFAULT
    fd         the dmabuf's file descriptor
    data       CUDA's pointer to it, or 0
    egl_image  or 0
    pitches    of its planes, and `offsets` likewise
    """

    address: int
    memory: int
    layout: int
    colour_format: int
    width: int
    height: int
    fd: int
    data: int
    egl_image: int
    pitches: tuple[int, ...]
    offsets: tuple[int, ...]


class NvBufSurface:
    """The library, and its structures in memory."""

    def __init__(self, abi: Abi, *, path: str = "libnvbufsurface.so", jetson: bool = True) -> None:
        """`jetson` tells what memory DEFAULT means. Raises SourceError without the library."""
        self._abi = abi
        self._default = SURFACE_ARRAY if jetson else CUDA_DEVICE
        try:
            library = ctypes.CDLL(path)
        except OSError as error:
            raise SourceError(
                f"NVMM memory needs libnvbufsurface.so ({error})",
                "install JetPack's nvidia-l4t-multimedia; in a container: --runtime nvidia",
            ) from error
        self._map: Callable[..., int] = library.NvBufSurfaceMapEglImage
        self._unmap: Callable[..., int] = library.NvBufSurfaceUnMapEglImage
        for function in (library.NvBufSurfaceMapEglImage, library.NvBufSurfaceUnMapEglImage):
            function.argtypes = [c_void_p, ctypes.c_int]
            function.restype = ctypes.c_int

    @classmethod
    def here(cls) -> NvBufSurface:
        """The one of this machine. Raises SourceError."""
        return cls(abi_here(), jetson=nvidia.l4t_version() is not None)

    def read(self, address: int, size: int) -> Picture:
        """The picture at `address`, in `size` bytes. Raises SourceError where there is none."""
        surface: Any = self._abi.surface
        if size < ctypes.sizeof(surface):
            raise SourceError(
                f"a buffer of {size} bytes holds no NvBufSurface of {ctypes.sizeof(surface)}",
                "check that L4T and the GStreamer plugins come from one JetPack",
            )
        batch = surface.from_address(address)
        if batch.numFilled < 1 or not batch.surfaceList:
            raise SourceError(
                f"an NvBufSurface with {batch.numFilled} pictures in it",
                "check the element that produces the frames",
            )
        params = batch.surfaceList[0]
        planes = params.planeParams
        data = params.dataPtr or 0
        if not data and self._abi is B and params.cudaBuffer:
            data = params.cudaBuffer[0].dataPtr or 0
        count = min(planes.num_planes, _PLANES)
        return Picture(
            address=address,
            memory=batch.memType or self._default,
            layout=params.layout,
            colour_format=params.colorFormat,
            width=params.width,
            height=params.height,
            fd=params.bufferDesc,
            data=data,
            egl_image=params.mappedAddr.eglImage or 0,
            pitches=tuple(planes.pitch[:count]),
            offsets=tuple(planes.offset[:count]),
        )

    def map_egl_image(self, address: int) -> int:
        """Give the first picture an EGL image. Raises SourceError."""
        _checked("NvBufSurfaceMapEglImage", self._map(address, 0))
        surface: Any = self._abi.surface
        image: int = surface.from_address(address).surfaceList[0].mappedAddr.eglImage or 0
        # "No EGLDisplay" is printed; that a code comes with it is not promised.
        _checked("NvBufSurfaceMapEglImage", 0 if image else -1)
        return image

    def unmap_egl_image(self, address: int) -> None:
        """Take it away again. Raises SourceError."""
        _checked("NvBufSurfaceUnMapEglImage", self._unmap(address, 0))


def _checked(name: str, code: int) -> None:
    if code:
        raise SourceError(
            f"{name} failed ({code})",
            "when headless: env -u DISPLAY -u WAYLAND_DISPLAY edge run ...; else see: dmesg",
        )
