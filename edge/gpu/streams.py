"""CUDA streams, events and kernel launches; `edge.gpu.device.Device` creates them.

Use them only while their device's context is current.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from edge.gpu import bindings
from edge.gpu.bindings import Graph, driver_error

__all__ = ["Event", "Function", "Memory", "Module", "Stream", "checked"]

T = TypeVar("T")
Size = tuple[int, int, int]

# Flags of cuda.h: a stream that does not synchronise with the default stream; an event on which the
# CPU sleeps instead of spinning; an event without a timestamp.
_NON_BLOCKING, _BLOCKING_SYNC, _NO_TIMING = 1, 1, 2


class Memory(NamedTuple):
    """Device memory: its address, which is also its int(), and its size in bytes."""

    address: int
    size: int

    def __int__(self) -> int:
        return self.address


class _Owned:
    """The only reference to an object of PyCUDA, which releases the object with the reference."""

    def __init__(self, driver: Any, make: Callable[..., Any], *arguments: Any) -> None:
        self._driver = driver
        self._object = checked(driver, make, *arguments)

    def drop(self) -> None:
        """Release the object. Only the device calls it, at the right time: see `Device.free`."""
        del self._object


class Event(_Owned):
    """A mark in a stream; created by `Device.event`."""

    def __init__(self, driver: Any, timing: bool) -> None:
        super().__init__(driver, driver.Event, _BLOCKING_SYNC | (0 if timing else _NO_TIMING))

    def record(self, stream: Stream) -> None:
        """Set the mark after all work that is in the stream now."""
        checked(self._driver, self._object.record, stream._object)

    def wait(self) -> None:
        """Block until the mark is reached; return at once if it was never set."""
        checked(self._driver, self._object.synchronize)

    @property
    def done(self) -> bool:
        """Whether the mark is reached."""
        return bool(checked(self._driver, self._object.query))

    def ms_since(self, start: Event) -> float:
        """Milliseconds from `start` to this mark. Both must have timing and be reached."""
        return float(checked(self._driver, self._object.time_since, start._object))


class Function(_Owned):
    """A kernel; created by `Module.function`."""


class Module(_Owned):
    """Kernels in the GPU's memory; created by `Device.load`."""

    def __init__(self, driver: Any, image: bytes) -> None:
        super().__init__(driver, driver.module_from_buffer, image)
        self._functions: list[Function] = []

    def function(self, name: str) -> Function:
        """The kernel of this `extern "C"` name, for `Stream.launch`."""
        self._functions.append(Function(self._driver, lambda: self._object.get_function(name)))
        return self._functions[-1]

    def drop(self) -> None:
        """Release its functions and then the module, which PyCUDA keeps as long as they live."""
        while self._functions:
            self._functions.pop().drop()
        super().drop()


class Stream(_Owned):
    """A queue of work, which the GPU executes in order; created by `Device.new_stream`."""

    def __init__(self, driver: Any, own: Callable[[Graph, Callable[[], None]], Graph]) -> None:
        """own: makes the device responsible for releasing a graph."""
        super().__init__(driver, driver.Stream, _NON_BLOCKING)
        self._own = own

    @property
    def handle(self) -> int:
        """The CUstream, for libraries that enqueue work."""
        return int(self._object.handle)

    def upload(self, target: Memory | int, source: npt.NDArray[Any]) -> None:
        """Enqueue a copy of pinned memory to the device.

        `source` must not change until the copy is done.
        """
        call = self._driver.memcpy_htod_async
        checked(self._driver, call, int(target), source, self._object)

    def download(self, target: npt.NDArray[Any], source: Memory | int) -> None:
        """Enqueue a copy of device memory to pinned memory; read `target` only when it is done.

        If `target` is not pinned, CUDA copies through a buffer of its own, which takes longer.
        """
        call = self._driver.memcpy_dtoh_async
        checked(self._driver, call, target, int(source), self._object)

    def launch(
        self, function: Function, grid: Size, block: Size, shared_bytes: int, *arguments: Any
    ) -> None:
        """Enqueue a kernel of `Module.function`.

        arguments: `Memory`, numpy scalars of the kernel's parameter types (np.uint64 for an
        address), and for a struct a scalar of a numpy struct with align=True.
        """
        values = [np.uint64(a.address) if isinstance(a, Memory) else a for a in arguments]
        layout, size = _layout(tuple(value.dtype for value in values))
        packed = np.zeros((), layout)
        for name, value in zip(layout.names or (), values, strict=True):
            packed[name] = value
        # PyCUDA's public call does the same, after settings for CUDA before 4 that we do not need.
        checked(
            self._driver,
            function._object._launch_kernel,
            grid,
            block,
            packed.tobytes()[:size],
            shared_bytes,
            self._object,
        )

    def wait(self) -> None:
        """Block until all work in the stream is done."""
        checked(self._driver, self._object.synchronize)

    def wait_for(self, event: Event) -> None:
        """Execute later work only after an event of another stream; the CPU does not block."""
        checked(self._driver, self._object.wait_for_event, event._object)

    @contextmanager
    def capture(self) -> Iterator[Graph]:
        """Capture the work that the block enqueues in this stream as a graph, without executing it.

        Raises `NoCapture` with the reason if that is not possible. The graph contains the captured
        addresses: the memory behind them must outlive it.
        """
        with bindings.capture(self) as graph:
            yield graph
        self._own(graph, graph.close)


@lru_cache(maxsize=64)
def _layout(types: tuple[np.dtype[Any], ...]) -> tuple[np.dtype[Any], int]:
    """The C layout of a sequence of types, and its size in bytes without padding at the end."""
    layout = np.dtype([(f"argument {i}", kind) for i, kind in enumerate(types)], align=True)
    ends = [offset + kind.itemsize for kind, offset, *_ in (layout.fields or {}).values()]
    return layout, max(ends, default=0)


def checked(driver: Any, call: Callable[..., T], *arguments: Any) -> T:
    """The result of PyCUDA's `call`. Raises `BackendError` with the driver's reason."""
    try:
        return call(*arguments)
    except driver.Error as error:
        text = str(error)  # contains the call and the driver's reason
    # A traceback keeps local variables alive: PyCUDA's objects must not be among them, neither here
    # nor in the callers.
    del call, arguments
    raise driver_error(text)
