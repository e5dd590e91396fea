"""Inference of frames on the GPU, on the stand-in driver: real PyCUDA, the kernel compiled as C++.

Its streams run only when they are waited for, its memory starts poisoned, and what is freed too
early, read too early or never freed fails the test: see `tests/cuda_driver/standin.py`.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.engine import gpu_path
from edge.engine.engine import Engine
from edge.engine.passport import Passport
from edge.engine.tensorrt import TensorRT
from edge.errors import BackendError, SourceError
from edge.gpu import nvidia
from edge.preprocess import cuda as cuda_preprocess
from edge.preprocess.colour import to_rgb
from edge.preprocess.surface import FORMATS, Colour, DeviceSurface, Layout, Surface
from edge.run import loop
from edge.run.interfaces import Sink
from edge.sources.camera import Camera
from edge.sources.frame import Frame
from edge.sources.memory import nvbufsurface
from edge.sources.memory.gpu_reader import GpuReader
from edge.sources.memory.nvmm import NvmmReader
from edge.sources.opening import feed
from edge.sources.samples import frame_from_sample
from tests.cuda_driver import emulated_trt
from tests.cuda_driver.standin import (
    BUILD,
    DEVICE_LOST,
    LAUNCH_FAILED,
    NOT_SUPPORTED,
    OUT_OF_MEMORY,
    Driver,
    emulated,
    run,
)
from tests.hardware.kernel import destroy_array, make_array
from tests.preprocess.kernel.build import compiled
from tests.preprocess.pictures import noise


class EglFrame(ctypes.Structure):
    """CUeglFrame: the stand-in driver takes its address for an EGLImage."""

    _fields_ = (
        ("planes", ctypes.c_void_p * 3),
        *((n, ctypes.c_uint) for n in ("width", "height", "depth", "pitch", "count", "channels")),
        *((n, ctypes.c_int) for n in ("type", "egl_format", "format")),
    )


@contextmanager
def opened(driver: Driver, folder: str, said: list[str] | None = None) -> Any:
    """An engine opened on the GPU, and the same engine on the CPU."""
    library = compiled(BUILD)
    cuda_preprocess.kernel_image = lambda *_: os.fsencode(library)  # type: ignore[assignment]
    trt = emulated_trt.Trt(driver)
    nvidia.tensorrt = lambda name: trt  # type: ignore[assignment]
    passport = Passport.read(Path(folder))
    plan = BUILD / f"plan-{os.getpid()}"
    plan.write_bytes(os.fsencode(Path(folder) / "model.onnx"))
    said = [] if said is None else said
    try:
        with (
            Engine(passport, TensorRT("tensorrt", plan, passport), "test", said.append) as on_gpu,
            Engine.open(folder, "onnxruntime", 1) as on_cpu,
        ):
            yield on_gpu, on_cpu, trt
    finally:
        plan.unlink()


def frame_of(surface: Surface | DeviceSurface, number: int = 0) -> Frame:
    return Frame("test", number, None, time.monotonic(), "system", surface)


def label(engine: Engine, slots: list[Any], surfaces: list[Any]) -> np.ndarray:
    for slot, surface in zip(slots, surfaces, strict=False):
        slot.put(frame_of(surface))
    engine.start(slots[: len(surfaces)])
    return engine.finish()


def on_the_cpu(engine: Engine, surfaces: list[Surface]) -> np.ndarray:
    return engine.infer(np.stack([engine.preprocess(surface) for surface in surfaces]))


@emulated
def test_every_format_and_batch_gives_the_same_result_as_the_cpu(driver, built_engine):
    """Enqueued at first, then as a graph: tensors and logits are equal, to the byte."""
    with opened(driver, built_engine) as (on_gpu, on_cpu, _):
        slots = [on_gpu.slot() for _ in range(4)]
        surfaces = [noise(form, 61 + i, 45, padding=i, seed=i) for i, form in enumerate(FORMATS)]
        for _ in range(3):
            for at in range(0, len(surfaces), 4):
                batch = surfaces[at : at + 4]
                assert np.array_equal(label(on_gpu, slots, batch), on_the_cpu(on_cpu, batch))
            for count in (1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 3):  # two lanes take turns
                batch = surfaces[:count]
                assert np.array_equal(label(on_gpu, slots, batch), on_the_cpu(on_cpu, batch))
        assert driver.calls("cuGraphLaunch") > 10


@emulated
def test_nothing_is_allocated_per_frame_and_graphs_are_replayed(driver, built_engine):
    with opened(driver, built_engine) as (on_gpu, on_cpu, trt):
        slots = [on_gpu.slot()]
        surfaces = [noise("NV12", 64, 48, seed=seed) for seed in range(5)]
        for surface in surfaces:
            label(on_gpu, slots, [surface])
        names = ("cuMemAlloc", "cuMemHostAlloc", "cuGraphInstantiate", "cuLaunchKernel")
        before = {name: driver.calls(name) for name in names}
        queued, launches = len(trt.queued), driver.calls("cuGraphLaunch")
        for i in range(400):
            surface = surfaces[i % 5]
            found = label(on_gpu, slots, [surface])
            assert np.array_equal(found, on_the_cpu(on_cpu, [surface]))
        assert {name: driver.calls(name) for name in names} == before
        assert driver.calls("cuGraphLaunch") == launches + 400
        assert len(trt.queued) == queued  # TensorRT itself was not called again


@emulated
def test_each_stage_is_timed_with_and_without_a_graph(driver, built_engine):
    stages = ("gpu_preprocess", "gpu_network", "gpu_download")
    with opened(driver, built_engine) as (on_gpu, _, trt):
        slot, surface = on_gpu.slot(), noise("NV12", 64, 48)
        trt.nap = 0.03  # seconds that the network takes longer
        for graphs in (False, False, False, False, True, True):
            before = driver.calls("cuGraphLaunch")
            label(on_gpu, [slot], [surface])
            assert (driver.calls("cuGraphLaunch") > before) >= graphs
            found = on_gpu.stages_ms
            assert set(found) == {"gpu", *stages}
            assert found["gpu_network"] >= 30
            assert found["gpu_download"] < 30
            assert 0 < sum(found[stage] for stage in stages) <= found["gpu"]


@emulated
def test_without_cuda_bindings_only_the_complete_batch_is_timed(driver, built_engine):
    sys.modules["cuda.bindings.driver"] = None  # type: ignore[assignment]
    said: list[str] = []
    with opened(driver, built_engine, said) as (on_gpu, on_cpu, _):
        slot, surface = on_gpu.slot(), noise("NV12", 64, 48)
        for _ in range(5):
            found = label(on_gpu, [slot], [surface])
            assert np.array_equal(found, on_the_cpu(on_cpu, [surface]))
            assert set(on_gpu.stages_ms) == {"gpu"}
    assert len(said) == 1 and "cuda.bindings.driver cannot be imported" in said[0], said


@emulated
def test_two_batches_in_flight_finish_in_order(driver, built_engine):
    with opened(driver, built_engine) as (on_gpu, on_cpu, _):
        assert on_gpu.depth == 2
        surfaces = [noise("I420", 70, 50, seed=seed) for seed in range(9)]
        slots = [on_gpu.slot() for _ in range(4)]
        flying: list[int] = []
        for i, surface in enumerate(surfaces):
            slots[i % 4].put(frame_of(surface, i))
            on_gpu.start([slots[i % 4]])
            flying.append(i)
            if len(flying) == 2:
                expected = on_the_cpu(on_cpu, [surfaces[flying.pop(0)]])
                assert np.array_equal(on_gpu.finish(), expected)
        assert np.array_equal(on_gpu.finish(), on_the_cpu(on_cpu, [surfaces[8]]))


@emulated
def test_the_network_input_can_be_read(driver, built_engine):
    """For each frame of the batch finished last, while the other lane is working."""
    with opened(driver, built_engine) as (on_gpu, on_cpu, _):
        surfaces = [noise("NV12", 70, 50, seed=seed) for seed in range(6)]
        slots = [on_gpu.slot() for _ in range(6)]
        for slot, surface in zip(slots, surfaces, strict=True):
            slot.put(frame_of(surface))
        on_gpu.start(slots[:3])
        on_gpu.start(slots[3:])
        for batch in (surfaces[:3], surfaces[3:]):
            on_gpu.finish()
            for index, surface in enumerate(batch):
                assert np.array_equal(on_gpu.network_input(index), on_cpu.preprocess(surface))


@emulated
def test_a_frame_in_gpu_memory_is_read_in_place(driver, built_engine):
    """With the decoder's own pitches and chroma far from luma; nothing is copied."""
    with opened(driver, built_engine) as (on_gpu, on_cpu, _):
        surface, device = noise("NV12", 64, 48, Colour("bt2020"), padding=40), on_gpu.device
        with device:
            memory = [device.mapped(plane.strides[0] * plane.shape[0]) for plane in surface.planes]
        for (array, _), plane in zip(memory, surface.planes, strict=True):
            whole = (plane.shape[0] - 1) * plane.strides[0] + plane.shape[1]
            flat = np.lib.stride_tricks.as_strided(plane, (whole,), (1,))
            array[:whole] = flat
        there = DeviceSurface(
            surface.layout,
            tuple(address for _, address in memory),
            tuple(plane.strides[0] for plane in surface.planes),
        )
        slot = on_gpu.slot()
        found = label(on_gpu, [slot], [there])
        allocated = driver.calls("cuMemHostAlloc")
        assert np.array_equal(found, on_the_cpu(on_cpu, [surface]))
        brought = GpuReader(device).download(there)  # for people's eyes
        assert np.array_equal(to_rgb(brought), to_rgb(surface))
        memory[0].array[:] = 0  # the camera writes the next picture into the same buffer
        assert not np.array_equal(label(on_gpu, [slot], [there]), found)
        assert driver.calls("cuMemHostAlloc") == allocated


@emulated
def test_a_turned_frame_is_prepared_upright(driver, built_engine):
    """From system memory, and in the memory of the GPU, where nothing but the kernel turns it."""
    with opened(driver, built_engine) as (on_gpu, on_cpu, _):
        slot, stored = on_gpu.slot(), noise("NV12", 64, 48, padding=16)
        for orientation in range(1, 9):
            layout = replace(stored.layout, orientation=orientation)
            turned = Surface(layout, stored.planes)
            expected = on_the_cpu(on_cpu, [turned])
            assert np.array_equal(label(on_gpu, [slot], [turned]), expected)
            there = DeviceSurface(layout, slot.surface.planes, slot.surface.pitches)
            assert np.array_equal(label(on_gpu, [slot], [there]), expected)
            brought = GpuReader(on_gpu.device).download(there)
            assert np.array_equal(to_rgb(brought), to_rgb(turned))


@emulated
def test_a_block_linear_frame_is_not_downloaded(driver, built_engine):
    with opened(driver, built_engine) as (on_gpu, _, _):
        there = DeviceSurface(Layout("NV12", 64, 48), (1, 2), (0, 0), textures=True)
        with pytest.raises(SourceError, match=r"block-linear .* nvvidconv bl-output=false"):
            GpuReader(on_gpu.device).download(there)


@emulated
def test_a_camera_that_changes_its_frame_size_gets_new_memory(driver, built_engine):
    with opened(driver, built_engine) as (on_gpu, on_cpu, _):
        slot = on_gpu.slot()
        for size in ((64, 48), (320, 240), (33, 21), (64, 48)):
            surface = noise("YUY2", *size)
            found = label(on_gpu, [slot], [surface])
            assert np.array_equal(found, on_the_cpu(on_cpu, [surface]))


@emulated
def test_batches_of_changing_sizes_keep_their_graphs(driver, built_engine):
    """When cameras come and go, each batch size is captured once and then replayed."""
    with opened(driver, built_engine) as (on_gpu, on_cpu, _):
        slots = [on_gpu.slot() for _ in range(4)]
        surfaces = [noise("RGB", 50, 40, seed=i) for i in range(4)]
        expected = on_the_cpu(on_cpu, surfaces)
        for turn in range(12):
            for count in (1, 4, 2):
                found = label(on_gpu, slots[:count], surfaces[:count])
                assert np.array_equal(found, expected[:count]), (turn, count)
        sizes, lanes = 3, 2
        assert driver.calls("cuGraphInstantiateWithFlags") == sizes * lanes
        assert driver.calls("cuGraphLaunch") == 36 - sizes * lanes


@emulated
def test_tables_of_unused_frame_sizes_are_released(driver, built_engine):
    with opened(driver, built_engine) as (on_gpu, on_cpu, _):
        slot = on_gpu.slot()
        for width in range(40, 120):
            surface = noise("RGB", width, 40)
            found = label(on_gpu, [slot], [surface])
            assert np.array_equal(found, on_the_cpu(on_cpu, [surface]))
            if width == 90:
                full = driver.report()["alive"]
        assert driver.report()["alive"] == full


@emulated
def test_a_batch_never_releases_its_own_tables(driver, built_engine):
    cuda_preprocess._KEPT = 2
    with opened(driver, built_engine) as (on_gpu, on_cpu, _):
        slots = [on_gpu.slot() for _ in range(5)]
        surfaces = [noise("RGB", 40 + i, 30 + i, seed=i) for i in range(5)]
        for batch in (surfaces[:4], surfaces[1:], surfaces[:4]):
            assert np.array_equal(label(on_gpu, slots, batch), on_the_cpu(on_cpu, batch))
        with pytest.raises(BackendError, match="batch of 5 does not fit an engine for 1 to 4"):
            label(on_gpu, slots, surfaces)


@emulated
def test_without_graphs_each_batch_is_enqueued_and_this_is_reported_once(driver, built_engine):
    said: list[str] = []
    with opened(driver, built_engine, said) as (on_gpu, on_cpu, _):
        driver.fail("cuStreamBeginCapture", NOT_SUPPORTED, times=1000)
        slot, surface = on_gpu.slot(), noise("RGB", 50, 40)
        expected = on_the_cpu(on_cpu, [surface])
        for _ in range(6):
            assert np.array_equal(label(on_gpu, [slot], [surface]), expected)
        assert driver.calls("cuGraphLaunch") == 0
    assert len(said) == 1, said
    assert "without a CUDA graph" in said[0] and "cuStreamBeginCapture failed" in said[0]


@pytest.mark.parametrize(
    ("call", "code", "words"),
    [
        ("cuMemAlloc", OUT_OF_MEMORY, "out of memory"),
        ("cuMemHostAlloc", OUT_OF_MEMORY, "out of memory"),
        ("cuModuleLoadDataEx", NOT_SUPPORTED, "cuModuleLoadDataEx failed"),
        ("cuLaunchKernel", LAUNCH_FAILED, "cuLaunchKernel failed"),
        ("cuEventSynchronize", DEVICE_LOST, "cuEventSynchronize failed"),
    ],
)
@emulated
def test_a_failed_driver_call_is_named_and_everything_is_released(
    driver, built_engine, call, code, words
):
    with opened(driver, built_engine) as (on_gpu, _, _):
        driver.fail(call, code, times=2)  # PyCUDA asks for memory a second time
        with pytest.raises(BackendError, match=words) as caught:
            label(on_gpu, [on_gpu.slot()], [noise("RGB", 50, 40)])
        assert caught.value.hint


@emulated
def test_a_frame_without_memory_fails_only_its_source(driver, built_engine):
    """The run continues, and the slot works again once there is memory."""
    with opened(driver, built_engine) as (on_gpu, on_cpu, _):
        slot, small, large = on_gpu.slot(), noise("NV12", 64, 48), noise("NV12", 128, 96)
        label(on_gpu, [slot], [small])
        driver.fail("cuMemHostAlloc", OUT_OF_MEMORY)
        with pytest.raises(SourceError, match="no memory is left for frames of test") as caught:
            slot.put(frame_of(large))
        assert caught.value.hint == "use fewer cameras, or smaller frames"
        for surface in (small, large):  # nor is it written to what was let go
            found = label(on_gpu, [slot], [surface])
            assert np.array_equal(found, on_the_cpu(on_cpu, [surface]))


@emulated
def test_a_video_through_the_loop_gives_the_same_results_as_the_cpu(driver, built_engine, numbered):
    """GStreamer decodes, readers copy to pinned memory, two lanes label: in order, none lost."""

    class List(Sink):
        def __init__(self) -> None:
            self.results: list[Any] = []

        def write(self, result: Any) -> None:
            self.results.append(result)

    with opened(driver, built_engine) as (on_gpu, on_cpu, _):
        results = []
        for engine in (on_gpu, on_cpu):
            sink = List()
            summary = loop.run(engine, [feed(Camera(str(numbered)))], [sink])
            assert (summary.frames, summary.dropped) == (45, 0)
            assert ("gpu_network" in summary.stages_ms) == (engine is on_gpu)
            results.append(
                [(r.frame.number, r.prediction.probabilities.tolist()) for r in sink.results]
            )
        assert results[0] == results[1]
        assert driver.calls("cuGraphLaunch") > 10  # of one frame or of two


def nvmm_picture(device: Any, surface: Surface, textures: bool) -> EglFrame:
    """An NV12 picture of 64x36 as a Jetson's driver holds it: in rows, or in arrays."""
    planes = []
    for plane, pitch, channels in zip(surface.planes, (256, 512), (1, 2), strict=True):
        rows, columns = plane.shape
        memory = device.mapped(pitch * rows)
        memory.array.reshape(rows, pitch)[:, :columns] = plane
        planes.append(memory.address)
        if textures:
            array = make_array(plane, channels)
            device.own(array, lambda array=array: destroy_array(array))
            planes[-1] = int(array)
    kind = 0 if textures else 1
    return EglFrame((ctypes.c_void_p * 3)(*planes), 64, 36, 1, 256, 2, 1, kind)


@pytest.mark.parametrize("textures", [False, True], ids=["pitch", "block-linear"])
@emulated
def test_jetson_frames_are_read_in_place(driver, built_engine, tmp_path, textures):
    """Camera's pool, NvBufSurface, EGL image, kernel, network: registered once, nothing copied."""
    from tests.nvbufsurface.standin import StandIn, compile_library
    from tests.sources.memory.test_nvmm import Camera

    standin = StandIn(nvbufsurface.A, compile_library(nvbufsurface.A, Path(tmp_path)))
    with opened(driver, built_engine) as (on_gpu, on_cpu, _):
        surfaces = [noise("NV12", 64, 36, Colour("bt601"), seed=seed) for seed in range(3)]
        camera, slot = Camera(standin, 3), on_gpu.slot()
        keep = []
        with on_gpu.device as device:
            for held, surface in zip(camera.surfaces, surfaces, strict=True):
                frame = nvmm_picture(device, surface, textures)
                held.surfaceList[0].mappedAddr.eglImage = ctypes.addressof(frame)
                keep.append(frame)
        before = driver.calls("cuMemHostAlloc")
        with camera, NvmmReader(on_gpu.device.egl, standin.library()) as reader:
            seen = []
            for number in range(60):
                sample = camera()
                frame = frame_from_sample(
                    sample, source="csi://0", number=number, captured=0.0, device=reader
                )
                del sample
                assert frame.path == ("nvmm-block-linear" if textures else "nvmm-pitch")
                slot.put(frame)
                on_gpu.start([slot])
                seen.append(on_gpu.finish())
                del frame
        slot.clear()
        assert driver.calls("cuGraphicsEGLRegisterImage") <= 4
        expected = {on_the_cpu(on_cpu, [surface]).tobytes() for surface in surfaces}
        assert {logits.tobytes() for logits in seen} == expected
        assert driver.calls("cuMemHostAlloc") <= before + 1  # for the tables


PLANTED = {
    "read_before_it_is_done": "wrong logits",
    "place_filled_too_early": "wrong logits",
    "memory_freed_too_early": "illegal memory access",
    "memory_that_nobody_releases": "leaked: {'pinned': 1}",
}


def planted(driver: Driver, built_engine: str, bug: str) -> None:
    with opened(driver, built_engine) as (on_gpu, on_cpu, _):
        slot, surfaces = on_gpu.slot(), [noise("NV12", 64, 48, seed=seed) for seed in (1, 2)]
        expected = on_the_cpu(on_cpu, surfaces[:1])
        if bug == "read_before_it_is_done":
            gpu_path._Lane.finish = lambda lane: lane._run.logits[: lane._count].copy()  # type: ignore
        slot.put(frame_of(surfaces[0]))
        if bug == "memory_that_nobody_releases":
            owned = on_gpu.device._owned
            driver.kept = owned.pop(id(slot._memory.array))  # type: ignore[attr-defined]
        on_gpu.start([slot])
        if bug == "place_filled_too_early":
            slot.put(frame_of(surfaces[1]))
        if bug == "memory_freed_too_early":
            on_gpu.device.free(slot._memory)
        found = on_gpu.finish()
        assert np.array_equal(found, expected), "wrong logits"


@pytest.mark.slow
@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_is_found(built_engine, bug):
    done = run(planted, {"built_engine": built_engine, "bug": bug})
    assert done.returncode == 1, bug
    assert PLANTED[bug] in done.stderr, done.stderr


def test_correct_code_reports_no_bug(built_engine):
    done = run(planted, {"built_engine": built_engine, "bug": "none"})
    assert done.returncode == 0, done.stderr
