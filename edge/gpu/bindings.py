"""What PyCUDA lacks of the driver, through NVIDIA's cuda-bindings: graphs and times in them, EGL
images, textures.

The only module that imports cuda.bindings; every call goes through `_call`. What the driver says
becomes an error with a mend in `driver_error`, for PyCUDA's calls too.
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

# The driver's words, from cuGetErrorString, and what to do about them.
_MENDS = {
    "out of memory": "close other programs that use the GPU, or build with a smaller --max-batch",
    "illegal memory access": "start again; if it happens again, please report it as a bug",
    "launch failure": "start again; if it happens again, please report it as a bug",
    "kernel image": "build for this GPU: edge compile ENGINE; see edge doctor",
    "busy or unavailable": "see sudo dmesg | grep -i -e nvrm -e nvgpu, and restart the machine",
    "no CUDA-capable device": "see edge doctor, and restart the machine if it had a GPU before",
    "unknown error": "see sudo dmesg | grep -i -e nvrm -e nvgpu, and restart the machine",
}


class Current(Protocol):
    """`edge.gpu.device.Device`: its context is current in a `with`."""

    closed: bool

    def __enter__(self) -> Any: ...

    def __exit__(self, *exc: object) -> None: ...


class NoCapture(BackendError):
    """Work that cannot become a graph here; given to the stream piece by piece it runs as well."""


class OutOfMemory(BackendError):
    """There is no memory left for what was asked for; what there is works on."""


def driver_error(what: str) -> BackendError:
    """The error for `what`: the call that failed and the driver's words for why."""
    mends = (hint for words, hint in _MENDS.items() if words in what)
    kind = OutOfMemory if "out of memory" in what else BackendError
    return kind(what, next(mends, "see edge doctor"))


class HasHandle(Protocol):
    """A stream."""

    @property
    def handle(self) -> int:
        """The CUstream."""


class Graph:
    """Work that was captured from a stream, which one call gives to a stream again."""

    def __init__(self) -> None:
        """Empty: `capture` fills it."""
        self._driver: Any = None
        self._executable: Any = None

    def fill(self, driver: Any, captured: Any) -> None:
        """Make it launch what was captured. Raises `BackendError`."""
        self._driver = driver
        (self._executable,) = _call(driver, "cuGraphInstantiate", captured, 0)

    def launch(self, stream: HasHandle) -> None:
        """Give all of it to a stream. Raises `BackendError`."""
        _call(self._driver, "cuGraphLaunch", self._executable, stream.handle)

    def close(self) -> None:
        """Release it; once."""
        executable, self._executable = self._executable, None
        if executable is not None:
            _call(self._driver, "cuGraphExecDestroy", executable)


@contextmanager
def capture(stream: HasHandle) -> Iterator[Graph]:
    """What the block gives to `stream` does not run; it fills the graph, to be launched later.

    Raises `NoCapture` where graphs cannot be made, or the block gave what cannot be captured; the
    stream is then as it was before.
    """
    graph = Graph()
    try:
        driver = require("cuda.bindings.driver")
        # Other threads, such as GStreamer's, go on allocating meanwhile.
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
    """A time in a stream's work, in a graph's too: PyCUDA's events are not recorded in there.

    Made by `Device.mark`, and used while its device's context is current.
    """

    def __init__(self) -> None:
        """Raises `MissingPackage` without cuda-bindings, else `BackendError`."""
        self._driver = require("cuda.bindings.driver")
        (self._event,) = _call(self._driver, "cuEventCreate", 0)

    def set(self, stream: HasHandle) -> None:
        """Take the time after all that the stream, or the graph that is captured, has so far."""
        driver = self._driver
        (status,) = _call(driver, "cuStreamIsCapturing", stream.handle)
        captured = status != driver.CUstreamCaptureStatus.CU_STREAM_CAPTURE_STATUS_NONE
        kinds = driver.CUevent_record_flags
        how = kinds.CU_EVENT_RECORD_EXTERNAL if captured else kinds.CU_EVENT_RECORD_DEFAULT
        _call(driver, "cuEventRecordWithFlags", self._event, stream.handle, how)

    def ms_since(self, start: Mark) -> float:
        """Milliseconds from `start` to this mark, both reached."""
        (ms,) = _call(self._driver, "cuEventElapsedTime", start._event, self._event)
        return float(ms)

    def close(self) -> None:
        """Release it. For its device, once; a graph that sets it must be gone."""
        _call(self._driver, "cuEventDestroy", self._event)


class EglFrame(NamedTuple):
    """CUeglFrame: addresses (frame_type 1) or CUarrays (0) of its planes, and the first's pitch."""

    planes: tuple[int, ...]
    pitch: int
    frame_type: int


class EglInterop:
    """EGL images as the GPU reads them, without a copy; from any thread. Made by `Device.egl`.

    Each call raises `BackendError`; none does anything any more once the device is closed.
    """

    def __init__(self, device: Current):
        """Raises `MissingPackage` without cuda-bindings."""
        self._device = device
        self._driver = require("cuda.bindings.driver")

    def register(self, image: int, flags: int) -> Any:
        """The resource of an EGLImage. Slow: do it once per buffer."""
        with self._device:
            (resource,) = _call(self._driver, "cuGraphicsEGLRegisterImage", image, flags)
        return resource

    def mapped_frame(self, resource: Any) -> EglFrame:
        """Where a registered image's planes are; what they show changes with the image."""
        with self._device:
            call = "cuGraphicsResourceGetMappedEglFrame"
            (frame,) = _call(self._driver, call, resource, 0, 0)
        arrays = frame.frameType == self._driver.CUeglFrameType.CU_EGL_FRAME_TYPE_ARRAY
        planes = (frame.frame.pArray if arrays else frame.frame.pPitch)[: frame.planeCount]
        found = tuple(int(plane) for plane in planes)
        return EglFrame(found, int(frame.pitch), int(frame.frameType))

    def unregister(self, resource: Any) -> None:
        """Release it, before the EGLImage itself goes."""
        self._release("cuGraphicsUnregisterResource", resource)

    def texture(self, array: int, channels: int) -> int:
        """A texture object that reads a CUarray of 8-bit samples, `channels` of them at a place."""
        with self._device:
            return int(_texture(self._driver, self._driver.CUarray(array)))

    def destroy_texture(self, texture: int) -> None:
        self._release("cuTexObjectDestroy", texture)

    def _release(self, call: str, thing: Any) -> None:
        if not self._device.closed:
            with self._device:
                _call(self._driver, call, thing)


def _texture(driver: Any, array: Any) -> Any:
    """A texture object that reads an array's own numbers, at whole coordinates."""
    resource, how = driver.CUDA_RESOURCE_DESC(), driver.CUDA_TEXTURE_DESC()
    resource.resType = driver.CUresourcetype.CU_RESOURCE_TYPE_ARRAY
    resource.res.array.hArray = array
    how.addressMode = [driver.CUaddress_mode.CU_TR_ADDRESS_MODE_CLAMP] * 3
    how.filterMode = driver.CUfilter_mode.CU_TR_FILTER_MODE_POINT
    how.flags = driver.CU_TRSF_READ_AS_INTEGER
    (texture,) = _call(driver, "cuTexObjectCreate", resource, how, None)
    return texture


def _call(driver: Any, name: str, *arguments: Any) -> tuple[Any, ...]:
    """What a call gives after its result, which is checked here and nowhere else."""
    try:
        result, *values = getattr(driver, name)(*arguments)
    except RuntimeError as error:  # a driver that is too old to have the call
        raise BackendError(f"{name} cannot be called ({error})", "see edge doctor") from error
    if result:
        _, words = driver.cuGetErrorString(result)
        raise driver_error(f"{name} failed: {words.decode()}")
    return tuple(values)
