"""The driver functions that PyCUDA lacks: CUDA graphs, events in graphs, EGL images, textures.

The only module that imports NVIDIA's cuda-bindings; every call goes through `_call`. `driver_error`
turns the driver's message into an error with a hint, for PyCUDA's calls, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

from edge.errors import BackendError, MissingPackage, require

__all__ = [
    "EglFrame",
    "EglInterop",
    "Graph",
    "Mark",
    "NoCapture",
    "OutOfMemory",
    "capture",
    "driver_error",
]

# Part of the driver's message, from cuGetErrorString -> hint.
_HINTS = {
    "out of memory": "close other programs that use the GPU, or build with a smaller --max-batch",
    "illegal memory access": "restart; if it happens again, please report it as a bug",
    "launch failure": "restart; if it happens again, please report it as a bug",
    "kernel image": "build for this GPU: edge compile ENGINE; see edge doctor",
    "busy or unavailable": "see sudo dmesg | grep -i -e nvrm -e nvgpu, and restart the machine",
    "no CUDA-capable device": "see edge doctor, and restart the machine if it had a GPU before",
    "unknown error": "see sudo dmesg | grep -i -e nvrm -e nvgpu, and restart the machine",
}


class Current(Protocol):
    """`edge.gpu.device.Device`: its context is current inside a `with` block."""

    closed: bool

    def __enter__(self) -> Any: ...

    def __exit__(self, *exc: object) -> None: ...


class NoCapture(BackendError):
    """The work cannot be captured as a CUDA graph here; it still runs without one."""


class OutOfMemory(BackendError):
    """An allocation failed for lack of memory; existing allocations are not affected."""


def driver_error(what: str) -> BackendError:
    """The error for `what`: the failed call and the driver's message."""
    hints = (hint for words, hint in _HINTS.items() if words in what)
    kind = OutOfMemory if "out of memory" in what else BackendError
    return kind(what, next(hints, "see edge doctor"))


class HasHandle(Protocol):
    """Anything with a CUstream, such as `edge.gpu.streams.Stream`."""

    @property
    def handle(self) -> int:
        """The CUstream."""


class Graph:
    """A CUDA graph: work captured from a stream, which one call enqueues."""

    def __init__(self) -> None:
        """An empty graph, which `capture` fills."""
        self._driver: Any = None
        self._executable: Any = None

    def fill(self, driver: Any, captured: Any) -> None:
        """Instantiate the captured work. Raises `BackendError`."""
        self._driver = driver
        (self._executable,) = _call(driver, "cuGraphInstantiate", captured, 0)

    def launch(self, stream: HasHandle) -> None:
        """Enqueue the graph in a stream. Raises `BackendError`."""
        _call(self._driver, "cuGraphLaunch", self._executable, stream.handle)

    def close(self) -> None:
        """Release the graph. A second call does nothing."""
        executable, self._executable = self._executable, None
        if executable is not None:
            _call(self._driver, "cuGraphExecDestroy", executable)


@contextmanager
def capture(stream: HasHandle) -> Iterator[Graph]:
    """Capture the work that the block enqueues in `stream` as a graph, without executing it.

    Raises `NoCapture` if this machine cannot create graphs, or the block enqueues something that
    cannot be captured. The stream is then unchanged.
    """
    graph = Graph()
    try:
        driver = require("cuda.bindings.driver")
        # Other threads, such as GStreamer's, may allocate during the capture.
        mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        _call(driver, "cuStreamBeginCapture", stream.handle, mode)
        try:
            yield graph
        except BaseException:
            _, captured = driver.cuStreamEndCapture(stream.handle)
            if captured and int(captured):
                driver.cuGraphDestroy(captured)
            raise
        (captured,) = _call(driver, "cuStreamEndCapture", stream.handle)
        try:
            graph.fill(driver, captured)
        finally:
            _call(driver, "cuGraphDestroy", captured)
    except (BackendError, MissingPackage) as error:
        raise NoCapture(f"no CUDA graph: {error.problem}", error.hint) from error


class Mark:
    """A timestamp in a stream or in a graph, where PyCUDA's events cannot be recorded.

    Created by `Device.mark`. Use it only while its device's context is current.
    """

    def __init__(self) -> None:
        """Raises `MissingPackage` without cuda-bindings, and `BackendError`."""
        self._driver = require("cuda.bindings.driver")
        (self._event,) = _call(self._driver, "cuEventCreate", 0)

    def set(self, stream: HasHandle) -> None:
        """Record the time after all work that is in the stream, or in the capture, now."""
        driver = self._driver
        (status,) = _call(driver, "cuStreamIsCapturing", stream.handle)
        captured = status != driver.CUstreamCaptureStatus.CU_STREAM_CAPTURE_STATUS_NONE
        kinds = driver.CUevent_record_flags
        flags = kinds.CU_EVENT_RECORD_EXTERNAL if captured else kinds.CU_EVENT_RECORD_DEFAULT
        _call(driver, "cuEventRecordWithFlags", self._event, stream.handle, flags)

    def ms_since(self, start: Mark) -> float:
        """Milliseconds from `start` to this mark. Both must be reached."""
        (ms,) = _call(self._driver, "cuEventElapsedTime", start._event, self._event)
        return float(ms)

    def close(self) -> None:
        """Release the event. Only the device calls it, after releasing the graphs that use it."""
        _call(self._driver, "cuEventDestroy", self._event)


class EglFrame(NamedTuple):
    """CUeglFrame: its planes as addresses (frame_type 1) or CUarrays (0), and the first's pitch."""

    planes: tuple[int, ...]
    pitch: int
    frame_type: int


class EglInterop:
    """Access of the GPU to EGL images, without a copy; from any thread. Created by `Device.egl`.

    Each method raises `BackendError`. Once the device is closed, releasing does nothing.
    """

    def __init__(self, device: Current):
        """Raises `MissingPackage` without cuda-bindings."""
        self._device = device
        self._driver = require("cuda.bindings.driver")

    def register(self, image: int, flags: int) -> Any:
        """Register an EGLImage. Slow: do it once per buffer. Returns its CUgraphicsResource."""
        with self._device:
            (resource,) = _call(self._driver, "cuGraphicsEGLRegisterImage", image, flags)
        return resource

    def mapped_frame(self, resource: Any) -> EglFrame:
        """The planes of a registered image. Their contents change with the image."""
        with self._device:
            call = "cuGraphicsResourceGetMappedEglFrame"
            (frame,) = _call(self._driver, call, resource, 0, 0)
        arrays = frame.frameType == self._driver.CUeglFrameType.CU_EGL_FRAME_TYPE_ARRAY
        planes = (frame.frame.pArray if arrays else frame.frame.pPitch)[: frame.planeCount]
        addresses = tuple(int(plane) for plane in planes)
        return EglFrame(addresses, int(frame.pitch), int(frame.frameType))

    def unregister(self, resource: Any) -> None:
        """Release a registration; call it before the EGLImage is destroyed."""
        self._release("cuGraphicsUnregisterResource", resource)

    def texture(self, array: int, channels: int) -> int:
        """A texture object that reads a CUarray of 8-bit samples with `channels` per element."""
        with self._device:
            return int(_texture(self._driver, self._driver.CUarray(array)))

    def destroy_texture(self, texture: int) -> None:
        """Release a texture object."""
        self._release("cuTexObjectDestroy", texture)

    def _release(self, call: str, thing: Any) -> None:
        if not self._device.closed:
            with self._device:
                _call(self._driver, call, thing)


def _texture(driver: Any, array: Any) -> Any:
    """A texture object that reads an array's integer values, without interpolation."""
    resource, description = driver.CUDA_RESOURCE_DESC(), driver.CUDA_TEXTURE_DESC()
    resource.resType = driver.CUresourcetype.CU_RESOURCE_TYPE_ARRAY
    resource.res.array.hArray = array
    description.addressMode = [driver.CUaddress_mode.CU_TR_ADDRESS_MODE_CLAMP] * 3
    description.filterMode = driver.CUfilter_mode.CU_TR_FILTER_MODE_POINT
    description.flags = driver.CU_TRSF_READ_AS_INTEGER
    (texture,) = _call(driver, "cuTexObjectCreate", resource, description, None)
    return texture


def _call(driver: Any, name: str, *arguments: Any) -> tuple[Any, ...]:
    """The values that a driver function returns after its status. Raises `BackendError`."""
    try:
        result, *values = getattr(driver, name)(*arguments)
    except RuntimeError as error:  # the driver is too old for this function
        raise BackendError(f"the driver has no {name} ({error})", "see edge doctor") from error
    if result:
        _, words = driver.cuGetErrorString(result)
        raise driver_error(f"{name} failed: {words.decode()}")
    return tuple(values)
