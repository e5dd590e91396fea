"""Timestamps in CUDA graphs, on the stand-in driver, with the real cuda-bindings and PyCUDA."""

from __future__ import annotations

import sys
import time
from contextlib import closing

import pytest

from edge.errors import BackendError, MissingPackage
from edge.gpu.device import Device
from tests.cuda_driver.standin import emulated


@emulated
def test_marks_time_the_work_between_them(driver):
    with closing(Device()) as device, device:
        start, middle, end = (device.mark() for _ in range(3))
        start.set(device.stream)
        middle.set(device.stream)
        driver.host_function(device.stream.handle, lambda: time.sleep(0.05))
        end.set(device.stream)
        with pytest.raises(BackendError, match="cuEventElapsedTime failed: device not ready"):
            end.ms_since(start)
        device.stream.wait()
        assert end.ms_since(middle) >= 50
        assert 0 <= middle.ms_since(start) < end.ms_since(start)


@emulated
def test_marks_in_a_graph_are_set_at_each_launch(driver):
    with closing(Device()) as device, device:
        start, end = device.mark(), device.mark()
        naps = iter((0.2, 0.0))
        with device.stream.capture() as graph:
            start.set(device.stream)
            driver.host_function(device.stream.handle, lambda: time.sleep(next(naps)))
            end.set(device.stream)
        with pytest.raises(BackendError, match="cuEventElapsedTime failed"):
            end.ms_since(start)  # captured, and not run
        taken = []
        for _ in range(2):
            graph.launch(device.stream)
            with pytest.raises(BackendError, match="device not ready"):
                end.ms_since(start)
            device.stream.wait()
            taken.append(end.ms_since(start))
        assert taken[0] >= 200
        assert taken[1] < taken[0]


@emulated
def test_a_pycuda_event_is_not_set_by_a_graph(driver):
    """This is why `Mark` exists."""
    with closing(Device()) as device, device:
        event = device.event(timing=True)
        with device.stream.capture() as graph:
            event.record(device.stream)
        graph.launch(device.stream)
        device.stream.wait()
        with pytest.raises(BackendError, match="cuEventElapsedTime failed"):
            event.ms_since(event)


@emulated
def test_without_cuda_bindings_there_are_no_marks(driver):
    sys.modules["cuda.bindings.driver"] = None  # type: ignore[assignment]
    with closing(Device()) as device, device, pytest.raises(MissingPackage, match=r"\.\[cuda\]"):
        device.mark()
