"""The onnxruntime-cuda backend on the stand-in driver; `tests/hardware` runs it on a GPU."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge.engine import backends, onnxruntime, onnxruntime_cuda
from edge.engine.engine import Engine
from edge.engine.passport import Passport, Plan
from edge.errors import BackendError, EngineError, MissingPackage, require
from edge.gpu import nvidia
from edge.preprocess import cuda as cuda_preprocess
from tests.cuda_driver.emulated_ort import Ort
from tests.cuda_driver.standin import BUILD, OUT_OF_MEMORY, Driver, emulated
from tests.hardware import frames
from tests.preprocess.kernel.build import compiled
from tests.preprocess.pictures import noise


@contextmanager
def emulation(driver: Driver) -> Iterator[Ort]:
    """onnxruntime with its CUDA provider, and the kernel as C++."""
    ort = Ort(driver)
    for module in (onnxruntime_cuda, onnxruntime):
        module.require = lambda name: ort if name == "onnxruntime" else require(name)
    cuda_preprocess.kernel_image = lambda *_: os.fsencode(compiled(BUILD))  # type: ignore
    yield ort


@emulated
def test_it_reads_and_writes_the_device_s_memory_in_the_order_of_its_stream(driver, built_engine):
    said: list[str] = []
    with (
        emulation(driver) as ort,
        Engine.open(built_engine, "onnxruntime-cuda", info=said.append) as on_gpu,
        Engine.open(built_engine, "onnxruntime", 1) as on_cpu,
    ):
        assert on_gpu.backend == "onnxruntime-cuda"
        assert frames.says_what_the_cpu_says(on_gpu, on_cpu, 4, 1e-5) < 1e-5
        frames.keeps_order(on_gpu, on_cpu, 1e-5)
        assert len(ort.sessions) == on_gpu.depth  # each lane has a stream of its own
        assert driver.calls("cuGraphLaunch") == 0
    (text,) = said
    assert "without a CUDA graph: onnxruntime allocates memory while it runs" in text


@emulated
def test_nothing_is_allocated_per_frame(driver, built_engine):
    with emulation(driver) as ort, Engine.open(built_engine, "onnxruntime-cuda") as on_gpu:
        frames.stays_the_same(on_gpu, 20, 64, 48)
        names = ("cuMemAlloc", "cuMemHostAlloc")
        before = ort.bindings, {name: driver.calls(name) for name in names}
        figures = frames.stays_the_same(on_gpu, 100, 64, 48)
        assert (figures["differing"], figures["distinct"]) == (0, 5)
        places = 2 + on_gpu.depth  # new ones, with memory for their frames
        after = {name: driver.calls(name) - before[1][name] for name in names}
        assert after == {"cuMemAlloc": 0, "cuMemHostAlloc": places}
        assert ort.bindings == before[0] == on_gpu.depth


@emulated
def test_infer_takes_and_returns_system_memory(driver, built_engine):
    batch = np.random.default_rng(0).standard_normal((4, 3, 32, 32)).astype(np.float32)
    with (
        emulation(driver),
        Engine.open(built_engine, "onnxruntime-cuda") as on_gpu,
        Engine.open(built_engine, "onnxruntime", 1) as on_cpu,
    ):
        for count in (1, 4, 2):
            assert np.allclose(on_gpu.infer(batch[:count]), on_cpu.infer(batch[:count]), atol=1e-5)
        with pytest.raises(BackendError, match="batch of 5 does not fit an engine for 1 to 4"):
            on_gpu.infer(np.zeros((5, 3, 32, 32), np.float32))


@emulated
def test_auto_chooses_it_if_no_plan_can_run_and_reports_why(driver, built_engine):
    nvidia.installed = lambda: []  # type: ignore[assignment]
    unplanned = replace(Passport.read(Path(built_engine)), plan=None)
    for platform in ("pc", "jetson"):  # it is no fallback to the CPU
        os.environ["EDGE_PLATFORM"] = platform
        with emulation(driver) as ort:
            with Engine.open(built_engine) as opened:
                assert opened.backend == "onnxruntime-cuda"
                assert opened.reason.startswith("onnxruntime supports CUDA, and ")
            name, reason = backends.choose(Path(built_engine), unplanned, "auto")
            assert name == "onnxruntime-cuda"
            assert f"the engine has no plan; make one here: edge compile {built_engine}" in reason
            ort.providers = ["CPUExecutionProvider"]
            if platform == "pc":
                Engine.open(built_engine).close()
            else:
                with pytest.raises(EngineError, match="on the CPU of this Jetson"):
                    Engine.open(built_engine)


@emulated
def test_auto_prefers_a_plan_that_can_run(driver, built_engine):
    passport = Passport.read(Path(built_engine))
    sha = passport.files["model.onnx"].sha256
    planned = replace(passport, plan=Plan("tensorrt", "model.onnx", "10.3.0", None, None, 4, sha))
    nvidia.installed = lambda: ["tensorrt"]  # type: ignore[assignment]
    with emulation(driver):
        assert backends.choose(Path(built_engine), planned, "auto")[0] == "tensorrt"


@emulated
def test_an_onnxruntime_without_cuda_is_refused_with_the_install_command(driver, built_engine):
    with emulation(driver) as ort:
        ort.providers = ["CPUExecutionProvider"]
        with pytest.raises(MissingPackage, match=r"is built without CUDA.*onnxruntime-gpu"):
            Engine.open(built_engine, "onnxruntime-cuda")


@emulated
def test_a_provider_that_fails_to_load_is_an_error_and_no_silent_fallback(driver, built_engine):
    with emulation(driver) as ort, Engine.open(built_engine, "onnxruntime-cuda") as opened:
        ort.loads = False
        with pytest.raises(BackendError, match=r"cannot load its CUDA provider.*cudnn"):
            opened.slot()


@emulated
def test_a_failure_is_named_and_everything_is_released(driver, built_engine):
    with emulation(driver) as ort, Engine.open(built_engine, "onnxruntime-cuda") as opened:
        place = opened.slot()
        place.put(frames.frame(noise("NV12", 64, 48)))
        ort.fail = "CUDA failure 719: unspecified launch failure"
        with pytest.raises(BackendError, match=r"batch of \[1, 3, 32, 32\] \(CUDA failure 719"):
            opened.start([place])
        with pytest.raises(BackendError, match="out of memory"), opened.device as device:
            driver.fail("cuMemAlloc", OUT_OF_MEMORY, times=2)
            opened._backend.execution(device.new_stream())


@emulated
def test_onnxruntime_s_own_output_goes_to_stderr(driver, built_engine):
    printed = io.StringIO()
    with emulation(driver) as ort, redirect_stdout(printed):
        Engine.open(built_engine, "onnxruntime-cuda").close()
    assert ort.preloaded == 1
    assert printed.getvalue() == ""


def test_missing_cuda_support_is_reported_before_anything_is_loaded(built_engine):
    """On this machine's own onnxruntime, which is built without CUDA."""
    with pytest.raises(MissingPackage):
        onnxruntime_cuda.OrtCuda(Path(built_engine) / "model.onnx", Passport.read(built_engine))
