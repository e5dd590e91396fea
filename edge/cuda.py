"""CUDA through PyCUDA: the primary context, one stream, pinned and device memory.

The only module that imports pycuda. Every driver call goes through `_checked`, which turns what the
driver says into an error that names the call and the mend.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from edge.errors import BackendError, require

__all__ = ["Device"]

T = TypeVar("T")


class Device:
    """The first GPU's primary context and a stream on it. Owns all that it allocates.

    `with device:` makes the context current on this thread; CUDA keeps one per thread.
    """

    def __init__(self) -> None:
        """Raises `MissingPackage` without PyCUDA, `BackendError` without a usable GPU."""
        self._driver = require("pycuda.driver")
        _checked("cuInit", self._driver, self._driver.init)
        device = _checked("cuDeviceGet", self._driver, lambda: self._driver.Device(0))
        # The primary context is the one that TensorRT and GStreamer use: memory can be shared.
        self._context = _checked(
            "cuDevicePrimaryCtxRetain", self._driver, device.retain_primary_context
        )
        self._memory: list[Any] = []
        self.closed = False
        with self:
            self.stream = _checked("cuStreamCreate", self._driver, self._driver.Stream)

    def __enter__(self) -> Device:
        self._context.push()
        return self

    def __exit__(self, *exc: object) -> None:
        self._context.pop()

    def pinned(self, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """Page-locked host memory, float32, which the GPU copies from and to without the CPU."""
        array: npt.NDArray[np.float32] = _checked(
            "cuMemHostAlloc",
            self._driver,
            lambda: self._driver.pagelocked_empty(shape, np.float32),
        )
        self._memory.append(array.base)
        return array

    def allocate(self, size: int) -> Any:
        """Device memory of `size` bytes; int() of it is its address."""
        memory = _checked("cuMemAlloc", self._driver, lambda: self._driver.mem_alloc(size))
        self._memory.append(memory)
        return memory

    def upload(self, target: Any, source: npt.NDArray[np.float32]) -> None:
        """Copy pinned memory to the device, in the stream's order."""
        self._call("cuMemcpyHtoDAsync", self._driver.memcpy_htod_async, target, source)

    def download(self, target: npt.NDArray[np.float32], source: Any) -> None:
        """Copy device memory to pinned memory, in the stream's order."""
        self._call("cuMemcpyDtoHAsync", self._driver.memcpy_dtoh_async, target, source)

    def wait(self) -> None:
        """Block until all that the stream was given is done."""
        _checked("cuStreamSynchronize", self._driver, self.stream.synchronize)

    def close(self) -> None:
        """Free everything, once; the views of pinned memory must not be used after."""
        if self.closed:
            return
        self.closed = True
        with self:
            for memory in reversed(self._memory):
                memory.free()
            self._memory.clear()
            del self.stream
        self._context.detach()

    def _call(self, name: str, function: Callable[..., Any], *arguments: Any) -> None:
        _checked(name, self._driver, lambda: function(*arguments, self.stream))


def _checked(name: str, driver: Any, call: Callable[[], T]) -> T:
    try:
        return call()
    except driver.MemoryError as error:
        raise BackendError(
            f"{name}: the GPU is out of memory ({error})",
            "close other programs that use it, or build with a smaller --max-batch",
        ) from error
    except driver.Error as error:
        raise BackendError(f"{name} failed ({error})", "see edge doctor") from error
