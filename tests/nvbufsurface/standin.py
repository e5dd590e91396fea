"""What stands in for a Jetson: the C library of this folder, and CUDA's side of EGL images."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from edge.errors import BackendError
from edge.sources.memory.nvbufsurface import Abi, NvBufSurface
from edge.sources.memory.nvmm import ARRAY_FRAME, PITCH_FRAME, READ_ONLY

SOURCE = Path(__file__).with_name("nvbufsurface.c")


def compile_library(abi: Abi, folder: Path) -> Path:
    """The stand-in with this ABI's structures; without a compiler the test fails."""
    library = folder / f"libnvbufsurface-{abi.name}.so"
    command = ["gcc", "-std=c11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    command += [f"-DABI={abi.name}", "-o", str(library), str(SOURCE)]
    subprocess.run(command, check=True)
    return library


class StandIn:
    """The C library: makes surfaces, counts calls, makes calls fail."""

    def __init__(self, abi: Abi, path: Path):
        self.abi = abi
        self.path = path
        self._c: Any = ctypes.CDLL(str(path))
        pointer, number, words = ctypes.c_void_p, ctypes.c_uint32, ctypes.POINTER(ctypes.c_uint32)
        self._c.standin_create.argtypes = [
            ctypes.c_uint64,
            *[ctypes.c_int] * 3,
            *[number] * 3,
            words,
            words,
            pointer,
            pointer,
        ]
        self._c.standin_create.restype = pointer
        self._c.standin_destroy.argtypes = [pointer]
        self._before = {name: self.total(name) for name in ("misuse", *_CALLS)}

    def total(self, name: str) -> int:
        return int(self._c.standin_calls(name.encode()))

    def calls(self, name: str) -> int:
        """How often a function was called since this object was made."""
        return self.total(name) - self._before[name]

    def mapped(self) -> int:
        """How many EGL images there are."""
        return int(self._c.standin_mapped())

    def fail(self, name: str, times: int = 1) -> None:
        self._c.standin_fail(name.encode(), times)

    def offset_of(self, name: str) -> int:
        return int(self._c.abi_offsetof(name.encode()))

    def library(self, *, jetson: bool = True) -> NvBufSurface:
        """The project's own access to this library."""
        return NvBufSurface(self.abi, path=str(self.path), jetson=jetson)

    def create(
        self,
        *,
        memory: int = 4,
        layout: int = 0,
        colour_format: int = 6,
        size: tuple[int, int] = (64, 36),
        pitches: Sequence[int] = (256, 512),
        offsets: Sequence[int] = (0, 12288),
        fd: int = 40,
        data: int = 0,
        cuda_data: int = 0,
    ) -> Any:
        """An NvBufSurface, as a ctypes structure at its own address."""
        words = ctypes.c_uint32 * len(pitches)
        address = self._c.standin_create(
            fd,
            memory,
            layout,
            colour_format,
            *size,
            len(pitches),
            words(*pitches),
            words(*offsets),
            data or None,
            cuda_data or None,
        )
        assert address
        surface: Any = self.abi.surface
        return surface.from_address(address)

    def destroy(self, surface: Any) -> None:
        self._c.standin_destroy(ctypes.addressof(surface))


_CALLS = ("NvBufSurfaceMapEglImage", "NvBufSurfaceUnMapEglImage")


class StandInFrame(NamedTuple):
    planes: tuple[int, ...]
    pitch: int
    frame_type: int


class StandInInterop:
    """CUDA's side, on paper: hands out numbers, and fails the test when one is misused.

    arrays       frames are arrays, not pointers
    writes_only  refuses to register read-only, as a TX2 does
    """

    def __init__(self, *, arrays: bool = False, writes_only: bool = False, pitch: int = 256):
        self.arrays, self.writes_only, self.pitch = arrays, writes_only, pitch
        self.frame_type = ARRAY_FRAME if arrays else PITCH_FRAME
        self.failing = ""
        self.registered: list[tuple[int, int]] = []
        self.unregistered: list[int] = []
        self.images: dict[int, int] = {}
        self.textures: dict[int, tuple[int, int]] = {}
        self.destroyed = 0

    def _call(self, name: str) -> None:
        if name == self.failing:
            raise BackendError(f"{name} failed (999)", "see edge doctor")

    def register(self, image: int, flags: int) -> int:
        self._call("register")
        assert image and image not in self.images.values(), "an image is registered twice"
        if self.writes_only and flags == READ_ONLY:
            raise BackendError("cuGraphicsEGLRegisterImage failed (1)", "see edge doctor")
        self.registered.append((image, flags))
        resource = 1000 + len(self.registered)
        self.images[resource] = image
        return resource

    def mapped_frame(self, resource: int) -> StandInFrame:
        self._call("mapped_frame")
        image = self.images[resource]
        return StandInFrame((image + 1, image + 2, image + 3), self.pitch, self.frame_type)

    def unregister(self, resource: int) -> None:
        self._call("unregister")
        del self.images[resource]
        self.unregistered.append(resource)

    def texture(self, array: int, channels: int) -> int:
        self._call("texture")
        number = 5000 + self.destroyed + len(self.textures)
        self.textures[number] = (array, channels)
        return number

    def destroy_texture(self, texture: int) -> None:
        self._call("destroy_texture")
        assert self.images, "a texture outlived the frame it reads"
        del self.textures[texture]
        self.destroyed += 1
