"""What PyCUDA lacks of the driver, through NVIDIA's cuda-bindings: graphs, EGL images, textures.

The only module that imports cuda.bindings; every call goes through `_call`. What the driver says
becomes an error with a mend in `driver_error`, for PyCUDA's calls too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from edge.errors import BackendError, MissingPackage, require

__all__ = ["EglImage", "Graph", "NoCapture", "capture", "driver_error"]

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


class NoCapture(BackendError):
    """Work that cannot become a graph here; given to the stream piece by piece it runs as well."""


def driver_error(what: str) -> BackendError:
    """The error for `what`: the call that failed and the driver's words for why."""
    mends = (mend for words, mend in _MENDS.items() if words in what)
    return BackendError(what, next(mends, "see edge doctor"))


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
        raise NoCapture(f"no CUDA graph: {error.what}", error.mend) from error


class EglImage:
    """An EGLImage as the GPU reads it, without a copy. What it shows changes with the image.

    width, height  of the first plane, in pixels
    planes         the address of each plane, or its texture object when `textures`
    pitch          bytes from one row of the first plane to the next; 0 when `textures`
    """

    def __init__(self, image: int) -> None:
        """image: the EGLImage's address. The context is current. Raises `BackendError`."""
        self._driver = driver = require("cuda.bindings.driver")
        self._textures: list[Any] = []
        flags = driver.CUgraphicsRegisterFlags
        try:
            (self._resource,) = _call(
                driver,
                "cuGraphicsEGLRegisterImage",
                image,
                flags.CU_GRAPHICS_REGISTER_FLAGS_READ_ONLY.value,
            )
        except BackendError:  # a TX2 takes it without flags alone
            (self._resource,) = _call(
                driver,
                "cuGraphicsEGLRegisterImage",
                image,
                flags.CU_GRAPHICS_REGISTER_FLAGS_NONE.value,
            )
        try:
            (frame,) = _call(driver, "cuGraphicsResourceGetMappedEglFrame", self._resource, 0, 0)
            self.width, self.height = int(frame.width), int(frame.height)
            kinds = driver.CUeglFrameType
            self.textures = frame.frameType == kinds.CU_EGL_FRAME_TYPE_ARRAY
            if self.textures:
                for array in frame.frame.pArray[: frame.planeCount]:
                    self._textures.append(_texture(driver, array))
                self.planes = tuple(int(texture) for texture in self._textures)
                self.pitch = 0
            else:
                self.planes = tuple(int(p) for p in frame.frame.pPitch[: frame.planeCount])
                self.pitch = int(frame.pitch)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Release it, before the EGLImage itself goes; once."""
        resource, self._resource = self._resource, None
        if resource is None:
            return
        try:
            while self._textures:
                _call(self._driver, "cuTexObjectDestroy", self._textures.pop())
        finally:
            _call(self._driver, "cuGraphicsUnregisterResource", resource)


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
