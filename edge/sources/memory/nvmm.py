"""Pictures in a Jetson's NVMM memory, where the GPU reads them: no copy, no conversion.

A camera or a decoder has a pool of a few buffers and uses them in turn. A SURFACE_ARRAY reaches
CUDA through an EGL image; to register one takes long, so each buffer of the pool is registered
once. A registration ends when its buffer does, on `flush`, or when too many are there; if a frame
still uses it then, when that frame is let go.
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
from edge.sources.memory.nvbufsurface import CUDA_MEMORY, SURFACE_ARRAY, NvBufSurface, Picture
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
    """What is read of a CUeglFrame: `planes` are its pArray or pPitch, as `frame_type` says."""

    @property
    def planes(self) -> Sequence[int]: ...

    @property
    def pitch(self) -> int: ...

    @property
    def frame_type(self) -> int: ...


class EglInterop(Protocol):
    """CUDA's side of an EGL image, and textures. Called from any thread, so each call makes its
    context current; a call that fails raises EdgeError.
    """

    def register(self, image: int, flags: int) -> Any:
        """A resource, by cuGraphicsEGLRegisterImage."""

    def mapped_frame(self, resource: Any) -> EglFrame:
        """By cuGraphicsResourceGetMappedEglFrame."""

    def unregister(self, resource: Any) -> None:
        """By cuGraphicsUnregisterResource."""

    def texture(self, array: int, channels: int) -> int:
        """A texture object that reads a CUarray of 8-bit samples."""

    def destroy_texture(self, texture: int) -> None: ...


class _Key(NamedTuple):
    """All that a buffer's registration depends on."""

    memory: int
    address: int
    fd: int
    width: int
    height: int
    pitches: tuple[int, ...]
    colour_format: int


class NvmmReader:
    """Reads the samples of one source; the source flushes it before its pipeline goes to NULL.

    `surface` belongs to one thread. The frames it gave may be let go on any, after `close` too.
    """

    def __init__(
        self, interop: EglInterop, library: NvBufSurface | None = None, *, limit: int = _LIMIT
    ) -> None:
        """`library` defaults to this machine's. Raises SourceError without one."""
        self._interop = interop
        self._library = library or NvBufSurface.here()
        self._limit = limit
        self._flags = READ_ONLY
        self._caps: Any = None
        # Reentrant: with the lock held, Python may let go of a frame that needs it.
        self._lock = threading.RLock()
        self._registered: OrderedDict[int, _Registration] = OrderedDict()
        self._watch = MemoryWatch(self._forget)

    def __enter__(self) -> NvmmReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def surface(self, sample: Any) -> tuple[DeviceSurface, FramePath, object]:
        """The picture, its path, and what to hold until the GPU has read it. Raises SourceError."""
        caps = sample.get_caps()
        if not caps.get_features(0).contains(_FEATURE):
            raise SourceError(f"{caps.to_string()} has not the NVMM memory expected", _TO_NVMM)
        if self._caps is None or not caps.is_equal(self._caps):
            self.flush()
            self._caps = caps
        mapped = Mapped(sample.get_buffer(), 0, 1)
        picture = self._library.read(mapped.data, mapped.size)
        layout = layout_of(picture, caps)
        if picture.memory in CUDA_MEMORY:
            return in_cuda(picture, layout), "nvmm-cuda", mapped
        if picture.memory != SURFACE_ARRAY:
            raise SourceError(f"NVMM memory of type {picture.memory} is unknown", _TO_CUDA)
        with self._lock:
            registration = self._registration(picture, layout, mapped.memory)
            return registration.surface, registration.path, _Lease(registration, mapped)

    def _registration(self, picture: Picture, layout: Layout, memory: int) -> _Registration:
        key = _Key(
            memory,
            picture.address,
            picture.fd,
            picture.width,
            picture.height,
            picture.pitches,
            picture.colour_format,
        )
        found = self._registered.get(memory)
        if found is not None and found.key == key:
            self._registered.move_to_end(memory)
            return found
        self._forget(memory)
        while len(self._registered) >= self._limit:
            self._registered.popitem(last=False)[1].retire()
        surface, path, end = self._register(picture, layout)
        made = self._registered[memory] = _Registration(key, surface, path, end, self._lock)
        self._watch.add(memory)
        return made

    def _register(
        self, picture: Picture, layout: Layout
    ) -> tuple[DeviceSurface, FramePath, ExitStack]:
        """The surface and its path; closing the stack ends it, in the opposite order."""
        interop, library = self._interop, self._library
        with ExitStack() as end:
            image = picture.egl_image
            if not image:
                image = library.map_egl_image(picture.address)
                end.callback(library.unmap_egl_image, picture.address)
            try:
                resource = self._register_image(image)
                end.callback(interop.unregister, resource)
                frame = interop.mapped_frame(resource)
                planes = tuple(frame.planes[: FORMATS[layout.format].planes])
                if not all(planes) or frame.frame_type not in (ARRAY_FRAME, PITCH_FRAME):
                    raise SourceError(
                        f"an EGL frame of type {frame.frame_type} with planes {planes}", _TO_CUDA
                    )
                if frame.frame_type == PITCH_FRAME:
                    # An EGL frame has the pitch of its first plane alone.
                    pitches = (frame.pitch, *picture.pitches[1:])
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
            surface = DeviceSurface(layout, tuple(textures), picture.pitches, textures=True)
            return surface, "nvmm-block-linear", end.pop_all()

    def _register_image(self, image: int) -> Any:
        """A TX2 refuses to register read-only; what it refused once is not asked again."""
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
            with ExitStack() as ends:  # all of them, whatever one of them raises
                while self._registered:
                    ends.callback(self._registered.popitem()[1].retire)

    def close(self) -> None:
        """End all registrations, for good."""
        self.flush()


class _Registration:
    """A buffer's EGL image, known to CUDA. It ends once it is retired and no frame uses it."""

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
        # The buffer goes after this: a registration cannot end without it.
        self._registration.leave()
