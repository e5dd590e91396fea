"""`NvmmReader`: frames in a Jetson's NVMM memory, read by the GPU without copy or conversion.

A camera or a decoder uses a pool of a few buffers in turn. CUDA accesses a SURFACE_ARRAY through an
EGL image. Registering one takes long, so each buffer of the pool is registered once. A registration
ends when its buffer is freed, on `flush`, or when there are too many; if a frame still uses it, it
ends when that frame is freed.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple, Protocol

from edge.errors import EdgeError, SourceError
from edge.preprocess.surface import FORMATS, DeviceSurface, Layout
from edge.sources.frame import FramePath
from edge.sources.memory.mapping import Mapped, MemoryWatch
from edge.sources.memory.nvbufsurface import CUDA_MEMORY, SURFACE_ARRAY, NvBufSurface, SurfaceInfo
from edge.sources.memory.nvmm_layout import channels_of, in_cuda, layout_of, linear

__all__ = [
    "ARRAY_FRAME",
    "NONE",
    "PITCH_FRAME",
    "READ_ONLY",
    "EglFrame",
    "EglInterop",
    "NvmmReader",
]

NONE, READ_ONLY = 0, 1  # CUgraphicsRegisterFlags
ARRAY_FRAME, PITCH_FRAME = 0, 1  # CUeglFrameType

_LIMIT = 32  # registrations; pools have fewer buffers

_FEATURE = "memory:NVMM"
_TO_NVMM = "end the pipeline with: nvvidconv bl-output=false ! video/x-raw(memory:NVMM),format=NV12"
_TO_CUDA = "copy it into CUDA memory: nvvidconv compute-hw=1 nvbuf-memory-type=2"


class EglFrame(Protocol):
    """The members of a CUeglFrame that are read: `planes` are pArray or pPitch, by `frame_type`."""

    @property
    def planes(self) -> Sequence[int]: ...

    @property
    def pitch(self) -> int: ...

    @property
    def frame_type(self) -> int: ...


class EglInterop(Protocol):
    """CUDA's functions for EGL images and textures.

    They are called on any thread, so each makes its context current. A call that fails raises
    EdgeError.
    """

    def register(self, image: int, flags: int) -> Any:
        """cuGraphicsEGLRegisterImage: a resource."""

    def mapped_frame(self, resource: Any) -> EglFrame:
        """cuGraphicsResourceGetMappedEglFrame."""

    def unregister(self, resource: Any) -> None:
        """cuGraphicsUnregisterResource."""

    def texture(self, array: int, channels: int) -> int:
        """A texture object that reads a CUarray of 8-bit samples."""

    def destroy_texture(self, texture: int) -> None: ...


class _Key(NamedTuple):
    """Everything that the registration of a buffer depends on."""

    memory: int
    address: int
    fd: int
    width: int
    height: int
    pitches: tuple[int, ...]
    colour_format: int


class NvmmReader:
    """Reads the samples of one source; the source flushes it before its pipeline goes to NULL.

    Call `surface` on one thread. Its frames may be freed on any thread, also after `close`.
    """

    def __init__(
        self, interop: EglInterop, library: NvBufSurface | None = None, *, limit: int = _LIMIT
    ) -> None:
        """library: by default this machine's. Raises SourceError if it is missing."""
        self._interop = interop
        self._library = library or NvBufSurface.here()
        self._limit = limit
        self._flags = READ_ONLY
        self._caps: Any = None
        # Reentrant: while it is held, Python may free a frame, which takes it too.
        self._lock = threading.RLock()
        self._registered: OrderedDict[int, _Registration] = OrderedDict()
        self._watch = MemoryWatch(self._forget)

    def __enter__(self) -> NvmmReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def surface(self, sample: Any) -> tuple[DeviceSurface, FramePath, object]:
        """The surface, its memory path, and the owner to hold while the GPU may read it.

        Raises SourceError.
        """
        caps = sample.get_caps()
        if not caps.get_features(0).contains(_FEATURE):
            raise SourceError(f"{caps.to_string()} is not in NVMM memory", _TO_NVMM)
        if self._caps is None or not caps.is_equal(self._caps):
            self.flush()
            self._caps = caps
        mapped = Mapped(sample.get_buffer(), 0, 1)
        info = self._library.read(mapped.data, mapped.size)
        layout = layout_of(info, caps)
        if info.memory in CUDA_MEMORY:
            return in_cuda(info, layout), "nvmm-cuda", mapped
        if info.memory != SURFACE_ARRAY:
            raise SourceError(f"NVMM memory of unknown type {info.memory}", _TO_CUDA)
        with self._lock:
            registration = self._registration(info, layout, mapped.memory)
            return registration.surface, registration.path, _Lease(registration, mapped)

    def _registration(self, info: SurfaceInfo, layout: Layout, memory: int) -> _Registration:
        key = _Key(
            memory,
            info.address,
            info.fd,
            info.width,
            info.height,
            info.pitches,
            info.colour_format,
        )
        found = self._registered.get(memory)
        if found is not None and found.key == key:
            self._registered.move_to_end(memory)
            return found
        self._forget(memory)
        while len(self._registered) >= self._limit:
            self._registered.popitem(last=False)[1].retire()
        surface, path, end = self._register(info, layout)
        made = self._registered[memory] = _Registration(key, surface, path, end, self._lock)
        self._watch.add(memory)
        return made

    def _register(
        self, info: SurfaceInfo, layout: Layout
    ) -> tuple[DeviceSurface, FramePath, ExitStack]:
        """The surface, its memory path, and a stack that ends the registration when closed."""
        interop, library = self._interop, self._library
        with ExitStack() as end:
            image = info.egl_image
            if not image:
                image = library.map_egl_image(info.address)
                end.callback(library.unmap_egl_image, info.address)
            try:
                resource = self._register_image(image)
                end.callback(interop.unregister, resource)
                frame = interop.mapped_frame(resource)
                planes = tuple(frame.planes[: FORMATS[layout.format].planes])
                if not all(planes) or frame.frame_type not in (ARRAY_FRAME, PITCH_FRAME):
                    raise SourceError(
                        f"unusable EGL frame: type {frame.frame_type}, planes {planes}",
                        _TO_CUDA,
                    )
                if frame.frame_type == PITCH_FRAME:
                    # An EGL frame has only the pitch of its first plane.
                    pitches = (frame.pitch, *info.pitches[1:])
                    return linear(layout, planes, pitches), "nvmm-pitch", end.pop_all()
                textures = []
                for array, channels in zip(planes, channels_of(layout), strict=True):
                    textures.append(interop.texture(array, channels))
                    end.callback(interop.destroy_texture, textures[-1])
            except SourceError:
                raise
            except EdgeError as error:
                raise SourceError(
                    f"CUDA cannot read this NVMM memory ({error.problem})", _TO_CUDA
                ) from error
            surface = DeviceSurface(layout, tuple(textures), info.pitches, textures=True)
            return surface, "nvmm-block-linear", end.pop_all()

    def _register_image(self, image: int) -> Any:
        """Register read-only if possible; a TX2 refuses, and then it is not tried again."""
        try:
            return self._interop.register(image, self._flags)
        except EdgeError:
            if self._flags == NONE:
                raise
        resource = self._interop.register(image, NONE)
        self._flags = NONE
        return resource

    def _forget(self, memory: int) -> None:
        with self._lock:
            found = self._registered.pop(memory, None)
            if found is not None:
                found.retire()

    def flush(self) -> None:
        """End all registrations: before the pipeline stops, and when the caps change."""
        with self._lock:
            self._caps = None
            with ExitStack() as ends:  # ends all, even if one of them raises
                while self._registered:
                    ends.callback(self._registered.popitem()[1].retire)

    def close(self) -> None:
        """End all registrations."""
        self.flush()


class _Registration:
    """The EGL image of a buffer in CUDA. It ends when it is retired and no frame uses it."""

    def __init__(
        self,
        key: _Key,
        surface: DeviceSurface,
        path: FramePath,
        end: ExitStack,
        lock: threading.RLock,
    ) -> None:
        self.key = key
        self.surface = surface
        self.path = path
        self._end = end
        self._lock = lock
        self._users = 0
        self._retired = False

    def enter(self) -> None:
        with self._lock:
            self._users += 1

    def leave(self) -> None:
        with self._lock:
            self._users -= 1
            self._end_unused()

    def retire(self) -> None:
        with self._lock:
            self._retired = True
            self._end_unused()

    def _end_unused(self) -> None:
        if self._retired and not self._users:
            self._end.close()


class _Lease:
    """A frame's hold on its buffer and on the buffer's registration."""

    def __init__(self, registration: _Registration, mapped: Mapped) -> None:
        self._mapped = mapped
        self._registration = registration
        registration.enter()

    def __del__(self) -> None:
        # Before the buffer is unmapped: the end of a registration needs it.
        self._registration.leave()
