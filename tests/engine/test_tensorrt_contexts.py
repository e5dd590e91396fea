"""A plan's contexts and the GPU's memory that they work in, on the stand-in driver."""

from __future__ import annotations

import numpy as np
import pytest

from edge.errors import BackendError
from tests.cuda_driver import emulated_trt
from tests.cuda_driver.standin import OUT_OF_MEMORY, emulated
from tests.engine.test_gpu_path import opened

SCRATCH = emulated_trt.Plan.device_memory_size_v2


def free_bytes(device):
    return device.memory()[0]


@emulated
def test_an_execution_allocates_the_plan_s_memory_once_for_all_batch_sizes(driver, built_engine):
    with opened(driver, built_engine) as (on_gpu, _, _):
        device, runner = on_gpu.device, on_gpu._backend
        before = free_bytes(device)
        with device:
            runner.execution(device.new_stream())
        taken = before - free_bytes(device)
        assert SCRATCH < taken < 1.5 * SCRATCH  # with its tensors


@emulated
def test_no_batch_size_allocates_at_its_first_use(driver, built_engine):
    with opened(driver, built_engine) as (on_gpu, on_cpu, _):
        pictures = np.random.default_rng(0).standard_normal((4, 3, 32, 32)).astype(np.float32)
        on_gpu.infer(pictures[:1])
        before = free_bytes(on_gpu.device)
        for count in (4, 2, 3, 1, 4):
            found, expected = on_gpu.infer(pictures[:count]), on_cpu.infer(pictures[:count])
            assert found == pytest.approx(expected, abs=1e-5)
        assert free_bytes(on_gpu.device) == before


@emulated
def test_an_execution_without_memory_is_an_error(driver, built_engine):
    with opened(driver, built_engine) as (on_gpu, _, _):
        driver.fail("cuMemAlloc", OUT_OF_MEMORY, nth=3, times=2)  # after its input and output
        with pytest.raises(BackendError, match="memory"):
            on_gpu.infer(np.zeros((1, 3, 32, 32), np.float32))
