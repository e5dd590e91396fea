"""CUDA through PyCUDA: the primary context, streams, events, memory and kernels.

The only module that imports pycuda; `edge.gpu.bindings` has what PyCUDA lacks. Every driver call
goes through `checked`, which turns the driver's message into an error with a hint.
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
    """The first GPU's primary context, and all objects created on it, which `close` releases.

    `with device:` makes the context current on this thread; CUDA has one current context per
    thread. Create, use and free a device's objects only inside such a block.
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
                self._reads = self.new_stream()  # for `read`: the default stream waits for others
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
        """The context's CUcontext, for libraries that share it."""
        return int(self._context.handle)

    def memory(self) -> tuple[int, int]:
        """(free, total) bytes of the GPU's memory. Callable on any thread."""
        with self:
            free, total = checked(self._driver, self._driver.mem_get_info)
        return int(free), int(total)

    def read(self, address: int, size: int) -> npt.NDArray[np.uint8]:
        """A copy in system memory of `size` bytes at a GPU address. Callable on any thread.

        It does not wait for other streams: the memory's contents must be complete.
        """
        copy = np.empty(size, np.uint8)
        with self:
            self._reads.download(copy, address)
            self._reads.wait()
        return copy

    def synchronize(self) -> None:
        """Wait for all work in the context, including that of other libraries."""
        with self:
            checked(self._driver, self._driver.Context.synchronize)

    def new_stream(self) -> Stream:
        """A further stream, independent of all others; see `Stream.wait_for`."""
        stream = Stream(self._driver, self.own)
        return self.own(stream, stream.drop)

    def event(self, timing: bool = False) -> Event:
        """An event. timing: whether `ms_since` can be used on it."""
        event = Event(self._driver, timing)
        return self.own(event, event.drop)

    def mark(self) -> Mark:
        """A timestamp for a stream or a graph. Raises `MissingPackage` without cuda-bindings."""
        mark = Mark()
        return self.own(mark, mark.close)

    def allocate(self, size: int) -> Memory:
        """Device memory of `size` bytes, with undefined contents. Raises `OutOfMemory`."""
        memory = checked(self._driver, self._driver.mem_alloc, size)
        return self.own(Memory(int(memory), size), memory.free)

    def pinned(self, shape: Shape, dtype: npt.DTypeLike = np.float32) -> npt.NDArray[Any]:
        """Page-locked host memory, from and to which the GPU copies without the CPU.

        It is freed with the device, even if references to the array remain.
        """
        return self._host_memory(shape, dtype, 0)

    def mapped(self, size: int) -> Mapped:
        """Page-locked host memory, `size` bytes, that kernels access directly; see `free`."""
        array = self._host_memory((size,), np.uint8, _DEVICEMAP)
        try:
            base: Any = array.base
            return Mapped(array, int(checked(self._driver, base.get_device_pointer)))
        except BaseException:
            self.free(array)
            raise

    def load(self, image: bytes) -> Module:
        """Load a module of kernels: a cubin, or another image that the driver accepts."""
        module = Module(self._driver, image)
        return self.own(module, module.drop)

    @property
    def egl(self) -> EglInterop:
        """Access to EGL images, such as a Jetson's camera buffers. Raises `MissingPackage`."""
        return EglInterop(self)

    def free(self, thing: object) -> None:
        """Release an object of this device before `close`. A second call does nothing.

        Neither pending work nor, for host memory, an array may use it any more.
        """
        if isinstance(thing, Mapped):
            thing = thing.array
        _, release = self._owned.pop(id(thing), (None, None))
        if release is not None:
            with self:
                release()

    def close(self) -> None:
        """Wait for pending work and release all objects, the newest first.

        A second call does nothing.

        Do not call it inside a `with device:` block, which PyCUDA could not leave any more. Raises
        the first `BackendError` after all releases, unless an exception is being handled already.
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
        # PyCUDA leaves a released context current on the releasing thread: use a thread that ends.
        thread = threading.Thread(target=attempt, args=(self._detach,))
        thread.start()
        thread.join()
        if failures and sys.exc_info()[0] is None:
            raise failures[0]

    def _detach(self) -> None:
        self.__enter__()
        checked(self._driver, self._context.detach)

    def own(self, thing: T, release: Callable[[], None]) -> T:
        """Register `release` for `free` and `close`. Returns `thing`."""
        self._owned[id(thing)] = (thing, release)
        return thing

    def _host_memory(self, shape: Shape, dtype: npt.DTypeLike, flags: int) -> npt.NDArray[Any]:
        call = self._driver.pagelocked_empty
        array: npt.NDArray[Any] = checked(self._driver, call, shape, dtype, "C", flags)
        base: Any = array.base
        return self.own(array, base.free)


class Mapped(NamedTuple):
    """Host memory that kernels access: uint8 [size] for the CPU, and its address for the GPU."""

    array: npt.NDArray[np.uint8]
    address: int
