"""`NvBufSurface`: NVIDIA's libnvbufsurface, which describes frames in NVMM memory.

Two layouts of its structures are in use. A: L4T R35 and R36, DeepStream up to 7. B: L4T R38 and
later, DeepStream 8. The structures here have the fields that are read; tests compare every offset
with that of a C compiler.
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
    "SurfaceInfo",
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
    """NvBufSurfacePlaneParams, the same in both layouts."""

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
    """The layout of this machine's libraries, by its release of L4T or DeepStream.

    Raises SourceError if neither is known.
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
        "the version of NvBufSurface is unknown: neither L4T nor DeepStream was found",
        "in a container: docker run -v /etc/nv_tegra_release:/etc/nv_tegra_release:ro ...",
    )


@dataclass(frozen=True)
class SurfaceInfo:
    """The description of the first surface of a batch.

    address    of its NvBufSurface
    memory     NvBufSurfaceMemType, never DEFAULT
    fd         file descriptor of the dmabuf
    data       CUDA pointer to it, or 0
    egl_image  pointer to its EGL image, or 0
    pitches    of its planes, in bytes
    offsets    of its planes, in bytes
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
        """jetson: what memory type DEFAULT means. Raises SourceError without the library."""
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
        """The library of this machine. Raises SourceError."""
        return cls(abi_here(), jetson=nvidia.l4t_version() is not None)

    def read(self, address: int, size: int) -> SurfaceInfo:
        """The surface at `address`, in `size` bytes. Raises SourceError if there is none."""
        surface: Any = self._abi.surface
        if size < ctypes.sizeof(surface):
            raise SourceError(
                f"a buffer of {size} bytes holds no NvBufSurface of {ctypes.sizeof(surface)}",
                "check that L4T and the GStreamer plugins come from one JetPack",
            )
        batch = surface.from_address(address)
        if batch.numFilled < 1 or not batch.surfaceList:
            raise SourceError(
                f"an NvBufSurface is empty (numFilled {batch.numFilled})",
                "check the element that produces the frames",
            )
        params = batch.surfaceList[0]
        planes = params.planeParams
        data = params.dataPtr or 0
        if not data and self._abi is B and params.cudaBuffer:
            data = params.cudaBuffer[0].dataPtr or 0
        count = min(planes.num_planes, _PLANES)
        return SurfaceInfo(
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
        """Create the EGL image of the first surface and return it. Raises SourceError."""
        _checked("NvBufSurfaceMapEglImage", self._map(address, 0))
        surface: Any = self._abi.surface
        image: int = surface.from_address(address).surfaceList[0].mappedAddr.eglImage or 0
        # The library prints "No EGLDisplay", but may not return an error code then.
        _checked("NvBufSurfaceMapEglImage", 0 if image else -1)
        return image

    def unmap_egl_image(self, address: int) -> None:
        """Destroy the EGL image of the first surface. Raises SourceError."""
        _checked("NvBufSurfaceUnMapEglImage", self._unmap(address, 0))


def _checked(name: str, code: int) -> None:
    if code:
        raise SourceError(
            f"{name} failed ({code})",
            "when headless: env -u DISPLAY -u WAYLAND_DISPLAY edge run ...; else see: dmesg",
        )
