"""CUDA through PyCUDA: the primary context, streams, events, memory and kernels.

The only module that imports pycuda; what that lacks is in `edge.gpu.bindings`. Every driver call
goes through `checked`, which turns what the driver says into an error with a mend.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from edge.errors import BackendError, require
from edge.gpu.bindings import EglInterop, Mark
from edge.gpu.streams import Event, Memory, Module, Stream, checked

__all__ = ["Device", "Event", "Mapped", "Mark", "Memory", "Module", "Stream"]

T = TypeVar("T")
Shape = tuple[int, ...]

_DEVICEMAP = 2  # CU_MEMHOSTALLOC_DEVICEMAP: memory that kernels read


class Device:
    """The first GPU's primary context, and all that is made on it, which `close` releases.

    `with device:` makes the context current on this thread; CUDA keeps one per thread. All that a
    device makes is made, used and freed in such a block.
    """

    def __init__(self) -> None:
        """Raises `MissingPackage` without PyCUDA, `BackendError` without a usable GPU."""
        self._driver = driver = require("pycuda.driver")
        checked(driver, driver.init)
        gpu = checked(driver, driver.Device, 0)
        self.name: str = checked(driver, gpu.name)
        self.compute_capability = "{}.{}".format(*checked(driver, gpu.compute_capability))
        self._owned: dict[int, tuple[object, Callable[[], None]]] = {}
        # The primary context is the one that TensorRT and GStreamer use: memory can be shared.
        self._context = checked(driver, gpu.retain_primary_context)
        self.closed = False
        try:
            with self:
                self.stream = self.new_stream()
                self._reads = self.new_stream()  # of `read`: CUDA's default one waits for others
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Device:
        checked(self._driver, self._context.push)
        return self

    def __exit__(self, *exc: object) -> None:
        checked(self._driver, self._context.pop)

    @property
    def handle(self) -> int:
        """The context's CUcontext, for libraries that are to share it."""
        return int(self._context.handle)

    def memory(self) -> tuple[int, int]:
        """Bytes of the GPU's memory: those that are free, and all. On any thread."""
        with self:
            free, total = checked(self._driver, self._driver.mem_get_info)
        return int(free), int(total)

    def read(self, address: int, size: int) -> npt.NDArray[np.uint8]:
        """A copy of `size` bytes at an address on the GPU, for the CPU; on any thread.

        It waits for no stream of this device: what is there must be complete.
        """
        copy = np.empty(size, np.uint8)
        with self:
            self._reads.download(copy, address)
            self._reads.wait()
        return copy

    def synchronize(self) -> None:
        """Wait for all that the context was given, by whomever."""
        with self:
            checked(self._driver, self._driver.Context.synchronize)

    def new_stream(self) -> Stream:
        """A stream beside `self.stream`, which waits for no other unless it is told to."""
        stream = Stream(self._driver, self.own)
        return self.own(stream, stream.drop)

    def event(self, timing: bool = False) -> Event:
        """A mark to set in a stream; with `timing` it tells when it was reached."""
        event = Event(self._driver, timing)
        return self.own(event, event.drop)

    def mark(self) -> Mark:
        """A time in a stream or in a graph. Raises `MissingPackage` without cuda-bindings."""
        mark = Mark()
        return self.own(mark, mark.close)

    def allocate(self, size: int) -> Memory:
        """Device memory of `size` bytes; what it holds is undefined."""
        memory = checked(self._driver, self._driver.mem_alloc, size)
        return self.own(Memory(int(memory), size), memory.free)

    def pinned(self, shape: Shape, dtype: npt.DTypeLike = np.float32) -> npt.NDArray[Any]:
        """Page-locked host memory, which the GPU copies from and to without the CPU.

        It goes with the device, whoever still has the array.
        """
        return self._host_memory(shape, dtype, 0)

    def mapped(self, size: int) -> Mapped:
        """Page-locked host memory that kernels read and write where it lies; free it by `free`."""
        array = self._host_memory((size,), np.uint8, _DEVICEMAP)
        try:
            base: Any = array.base
            return Mapped(array, int(checked(self._driver, base.get_device_pointer)))
        except BaseException:
            self.free(array)
            raise

    def load(self, image: bytes) -> Module:
        """A module of kernels: a cubin, or what else the driver takes."""
        module = Module(self._driver, image)
        return self.own(module, module.drop)

    @property
    def egl(self) -> EglInterop:
        """EGL images of the memory that a Jetson's cameras write. Raises `MissingPackage`."""
        return EglInterop(self)

    def free(self, thing: object) -> None:
        """Release now what this device made, before `close` does; a second time does nothing.

        Nothing may use it any more, neither work that is pending nor, for host memory, an array.
        """
        if isinstance(thing, Mapped):
            thing = thing.array
        _, release = self._owned.pop(id(thing), (None, None))
        if release is not None:
            with self:
                release()

    def close(self) -> None:
        """Wait for what is pending and release all that was made, the newest first; once.

        Not in a `with device:` block: PyCUDA cannot leave it any more. Raises the first
        `BackendError` of it at the end, unless an error is being handled already.
        """
        if self.closed:
            return
        self.closed = True
        failures: list[BackendError] = []

        def attempt(step: Callable[[], None]) -> None:
            try:
                step()
            except BackendError as error:
                failures.append(error)

        def release_all() -> None:
            with self:
                attempt(self.synchronize)
                while self._owned:
                    _, (_, release) = self._owned.popitem()
                    attempt(release)

        attempt(release_all)
        # PyCUDA leaves a context that it releases current on the thread that does it: here it is a
        # thread that ends.
        thread = threading.Thread(target=attempt, args=(self._detach,))
        thread.start()
        thread.join()
        if failures and sys.exc_info()[0] is None:
            raise failures[0]

    def _detach(self) -> None:
        self.__enter__()
        checked(self._driver, self._context.detach)

    def own(self, thing: T, release: Callable[[], None]) -> T:
        """Have `free` and `close` release `thing`."""
        self._owned[id(thing)] = (thing, release)
        return thing

    def _host_memory(self, shape: Shape, dtype: npt.DTypeLike, flags: int) -> npt.NDArray[Any]:
        call = self._driver.pagelocked_empty
        array: npt.NDArray[Any] = checked(self._driver, call, shape, dtype, "C", flags)
        base: Any = array.base
        return self.own(array, base.free)


class Mapped(NamedTuple):
    """Host memory that kernels read: as the CPU sees it, uint8 [size], and where for the GPU."""

    array: npt.NDArray[np.uint8]
    address: int
