"""`CudaReader`: frames in GStreamer's CUDA memory, such as those of nvh264dec on a PC, uncopied.

GStreamer creates its own CUDA context unless it is given one. `share_context` gives it the context
of this program, so that its pointers are valid here.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from edge.errors import SourceError
from edge.preprocess.surface import FORMATS, DeviceSurface
from edge.sources.frame import FramePath
from edge.sources.memory.colour import layout_of
from edge.sources.memory.mapping import READ, Mapped, planes_of

__all__ = ["ContextSharer", "CudaReader", "gst_cuda", "share_context"]

_MAP_CUDA = 0x20000  # GST_MAP_CUDA
_CONTEXT = "gst.cuda.context"  # GST_CUDA_CONTEXT_TYPE
_FEATURE = "memory:CUDAMemory"
_TO_CUDA = "end the pipeline with: cudaupload"
_TO_NV12 = "convert it: cudaconvert ! video/x-raw(memory:CUDAMemory),format=NV12"


class CudaReader:
    """Reads the samples of one source."""

    def __init__(self, synchronise: Callable[[], None]) -> None:
        """synchronise: waits for all work of the shared context.

        GStreamer before 1.24 needs it, since it cannot wait for one memory. Raises SourceError
        without GStreamer's CUDA library.
        """
        self._synchronise = synchronise
        self._memory_sync = getattr(gst_cuda(), "gst_cuda_memory_sync", None)

    def surface(self, sample: Any) -> tuple[DeviceSurface, FramePath, object]:
        """The surface, its memory path, and the owner to hold while the GPU may read it.

        Raises SourceError.
        """
        buffer, caps = sample.get_buffer(), sample.get_caps()
        if not caps.get_features(0).contains(_FEATURE):
            raise SourceError(f"{caps.to_string()} is not in CUDA memory", _TO_CUDA)
        format = caps.get_structure(0).get_string("format")
        if format not in FORMATS:
            raise SourceError(f"the format {format} in CUDA memory is not supported", _TO_NV12)
        if buffer.n_memory() != 1:
            raise SourceError(
                f"a frame in {buffer.n_memory()} CUDA memories is not supported", _TO_NV12
            )
        planes = planes_of(buffer, caps, "a frame in CUDA memory")
        mapped = Mapped(buffer, 0, 1, READ | _MAP_CUDA)
        # The decoder may still write when the map returns.
        if self._memory_sync is not None:
            self._memory_sync(ctypes.c_void_p(mapped.memory))
        else:
            self._synchronise()
        surface = DeviceSurface(
            layout_of(caps, "the source"),
            tuple(mapped.data + plane.offset for plane in planes),
            tuple(plane.pitch for plane in planes),
        )
        return surface, "cuda", mapped


def share_context(pipeline: Any, context_handle: int, device: int) -> ContextSharer:
    """Give this CUcontext to the elements of a pipeline that ask for one. Call it before the start.

    The context must outlive the pipeline. If it fails, `error` of the returned object is set.
    """
    sharer = ContextSharer(context_handle, device)
    bus = pipeline.get_bus()
    # On the thread that asks: it continues without an answer once the message is posted.
    bus.enable_sync_message_emission()
    bus.connect("sync-message::need-context", sharer.answer)
    return sharer


class ContextSharer:
    """Answers elements that ask for a CUDA context. GstCuda is loaded when the first one does.

    error  why an element got no answer; it then uses its own context, whose memory this program
           cannot use
    """

    def __init__(self, handle: int, device: int) -> None:
        self._handle, self._device = handle, device
        self._shared: _SharedContext | None = None
        self.error: SourceError | None = None

    def answer(self, _bus: Any, message: Any) -> None:
        known, kind = message.parse_context_type()
        if not known or kind != _CONTEXT or self.error is not None:
            return
        try:
            self._shared = self._shared or _SharedContext(self._handle, self._device)
        except SourceError as error:
            self.error = error
        else:
            self._shared.give(message.src)


class _SharedContext:
    """A GstContext around a CUcontext."""

    def __init__(self, handle: int, device: int) -> None:
        library = gst_cuda()
        # Without this call the next one ends the process.
        _checked("gst_cuda_load_library", library.gst_cuda_load_library())
        wrapped = _checked(
            "gst_cuda_context_new_wrapped", library.gst_cuda_context_new_wrapped(handle, device)
        )
        self._context = _checked(
            "gst_context_new_cuda_context", library.gst_context_new_cuda_context(wrapped)
        )
        library.gst_object_unref(wrapped)  # the GstContext holds a reference

    def give(self, element: Any) -> None:
        # hash() of a PyGObject object is the pointer it wraps: here, the GstElement*.
        gst_cuda().gst_element_set_context(hash(element), self._context)

    def __del__(self) -> None:
        if hasattr(self, "_context"):
            gst_cuda().gst_mini_object_unref(self._context)


def _checked(name: str, result: int | None) -> int:
    if not result:
        raise SourceError(
            f"{name} failed", "install NVIDIA's driver, or decode on the CPU: avdec_h264"
        )
    return result


@lru_cache(maxsize=1)
def gst_cuda() -> Any:
    """GstCuda, with the GStreamer functions that it is linked to. Raises SourceError without it."""
    try:
        library = ctypes.CDLL("libgstcuda-1.0.so.0")
    except OSError as error:
        raise SourceError(
            f"GStreamer's CUDA library is missing ({error})",
            "run sudo apt install libgstreamer-plugins-bad1.0-0",
        ) from error
    pointer, none = ctypes.c_void_p, None
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "gst_cuda_load_library": (ctypes.c_int, []),
        "gst_cuda_context_new_wrapped": (pointer, [pointer, ctypes.c_uint]),
        "gst_context_new_cuda_context": (pointer, [pointer]),
        "gst_element_set_context": (none, [pointer, pointer]),
        "gst_object_unref": (none, [pointer]),
        "gst_mini_object_unref": (none, [pointer]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
