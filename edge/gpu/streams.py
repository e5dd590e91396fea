"""CUDA streams, events and kernel launches; `edge.gpu.device.Device` creates them.

Each of them is used while its device's context is current.
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

# cuda.h: a stream that does not wait for the default one; an event that is waited for asleep, and
# one that keeps no time.
_NON_BLOCKING, _BLOCKING_SYNC, _NO_TIMING = 1, 1, 2


class Memory(NamedTuple):
    """Device memory: its address, which int() gives too, and its bytes."""

    address: int
    size: int

    def __int__(self) -> int:
        return self.address


class _Made:
    """What PyCUDA releases when nothing refers to it: the one reference, and `drop` lets it go."""

    def __init__(self, driver: Any, make: Callable[..., Any], *arguments: Any) -> None:
        self._driver = driver
        self._made = checked(driver, make, *arguments)

    def drop(self) -> None:
        """Release it. For its device, which does it in time: see `Device.free`."""
        del self._made


class Event(_Made):
    """A mark in a stream; made by `Device.event`."""

    def __init__(self, driver: Any, timing: bool) -> None:
        super().__init__(driver, driver.Event, _BLOCKING_SYNC | (0 if timing else _NO_TIMING))

    def record(self, stream: Stream) -> None:
        """Set the mark after all that the stream was given so far."""
        checked(self._driver, self._made.record, stream._made)

    def wait(self) -> None:
        """Block until the mark is reached; at once when it was never set."""
        checked(self._driver, self._made.synchronize)

    @property
    def done(self) -> bool:
        """Whether the mark is reached."""
        return bool(checked(self._driver, self._made.query))

    def ms_since(self, start: Event) -> float:
        """Milliseconds from `start` to this mark, both with timing and reached."""
        return float(checked(self._driver, self._made.time_since, start._made))


class Function(_Made):
    """A kernel; made by `Module.function`."""


class Module(_Made):
    """Kernels in the GPU's memory; made by `Device.load`."""

    def __init__(self, driver: Any, image: bytes) -> None:
        super().__init__(driver, driver.module_from_buffer, image)
        self._functions: list[Function] = []

    def function(self, name: str) -> Function:
        """A kernel, for `Stream.launch`, by the name that `extern "C"` gave it."""
        self._functions.append(Function(self._driver, lambda: self._made.get_function(name)))
        return self._functions[-1]

    def drop(self) -> None:
        """Release it, and its functions before: PyCUDA keeps a module while it has one."""
        while self._functions:
            self._functions.pop().drop()
        super().drop()


class Stream(_Made):
    """Work for the GPU, done in the order in which it is given; made by `Device.new_stream`."""

    def __init__(self, driver: Any, own: Callable[[Graph, Callable[[], None]], Graph]) -> None:
        """own: has the device release a graph."""
        super().__init__(driver, driver.Stream, _NON_BLOCKING)
        self._own = own

    @property
    def handle(self) -> int:
        """The CUstream, for libraries that give it work."""
        return int(self._made.handle)

    def upload(self, target: Memory | int, source: npt.NDArray[Any]) -> None:
        """Copy pinned memory to the device. It must not change until the copy is done."""
        call = self._driver.memcpy_htod_async
        checked(self._driver, call, int(target), source, self._made)

    def download(self, target: npt.NDArray[Any], source: Memory | int) -> None:
        """Copy device memory to pinned memory, which must not be read until the copy is done.

        To memory that is not pinned, CUDA copies by a buffer of its own, and takes longer.
        """
        call = self._driver.memcpy_dtoh_async
        checked(self._driver, call, target, int(source), self._made)

    def launch(
        self, function: Function, grid: Size, block: Size, shared_bytes: int, *arguments: Any
    ) -> None:
        """Run a kernel of `Module.function`.

        arguments: `Memory`, numpy scalars of the kernel's own types (np.uint64 for an address), and
        for a struct a scalar of a numpy struct with align=True.
        """
        values = [np.uint64(a.address) if isinstance(a, Memory) else a for a in arguments]
        layout, size = _layout(tuple(value.dtype for value in values))
        packed = np.zeros((), layout)
        for name, value in zip(layout.names or (), values, strict=True):
            packed[name] = value
        # What PyCUDA's own calls end in, without what they set in the function for CUDA before 4.
        checked(
            self._driver,
            function._made._launch_kernel,
            grid,
            block,
            packed.tobytes()[:size],
            shared_bytes,
            self._made,
        )

    def wait(self) -> None:
        """Block until all that the stream was given is done."""
        checked(self._driver, self._made.synchronize)

    def wait_for(self, event: Event) -> None:
        """Do what is given from now on after an event of another stream; the CPU does not block."""
        checked(self._driver, self._made.wait_for_event, event._made)

    @contextmanager
    def capture(self) -> Iterator[Graph]:
        """What the block gives to this stream does not run; it becomes the graph, to be launched.

        Raises `NoCapture` where that cannot be; its text says why. Addresses are captured as they
        are: what they point to must outlive the graph.
        """
        with bindings.capture(self) as graph:
            yield graph
        self._own(graph, graph.close)


@lru_cache(maxsize=64)
def _layout(types: tuple[np.dtype[Any], ...]) -> tuple[np.dtype[Any], int]:
    """How C lays these types out one after the other, and the bytes that are used of it."""
    layout = np.dtype([(f"argument {i}", kind) for i, kind in enumerate(types)], align=True)
    ends = [offset + kind.itemsize for kind, offset, *_ in (layout.fields or {}).values()]
    return layout, max(ends, default=0)


def checked(driver: Any, call: Callable[..., T], *arguments: Any) -> T:
    """What PyCUDA's `call` gives, or the `BackendError` for why it failed."""
    try:
        return call(*arguments)
    except driver.Error as error:
        text = str(error)  # names the call and gives the driver's reason
    # What a traceback holds is not released: PyCUDA's objects must not be in this one, nor in local
    # names of those who call this.
    del call, arguments
    raise driver_error(text)
