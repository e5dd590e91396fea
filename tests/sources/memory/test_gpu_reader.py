"""Which reader a sample goes to, and that a source flushes it in time."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import numpy as np
import pytest

from edge.errors import SourceError
from edge.gpu.device import Device as CudaDevice
from edge.preprocess.surface import DeviceSurface, Layout
from edge.sources.gst import gstreamer
from edge.sources.memory import gpu_reader, gstcuda
from edge.sources.memory.gpu_reader import GpuReader
from edge.sources.source import Source
from tests.cuda_driver.standin import DEVICE_LOST, emulated

Gst = gstreamer()


class Reader:
    """Stands for NvmmReader and CudaReader."""

    def __init__(self, given: object) -> None:
        self.given, self.flushed = given, 0

    def surface(self, sample: Any) -> tuple[Any, Any, Any]:
        return self, "path", sample

    def flush(self) -> None:
        self.flushed += 1


class Device:
    egl, handle = "egl", 4096

    def synchronize(self) -> None: ...


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> GpuReader:
    monkeypatch.setattr(gpu_reader, "NvmmReader", Reader)
    monkeypatch.setattr(gstcuda, "CudaReader", Reader)
    return GpuReader(Device())  # type: ignore[arg-type]


def sample(memory: str) -> Any:
    caps = Gst.Caps.from_string(f"video/x-raw(memory:{memory}),format=NV12,width=8,height=8")
    return Gst.Sample.new(Gst.Buffer.new_allocate(None, 8, None), caps, Gst.Segment(), None)


def test_each_memory_has_its_reader_which_is_made_once(reader: GpuReader) -> None:
    nvmm, cuda = sample("NVMM"), sample("CUDAMemory")
    first: Any = reader.surface(nvmm)[0]
    assert first.given == "egl"
    assert reader.surface(nvmm)[0] is first
    other: Any = reader.surface(cuda)[0]
    assert other is not first
    assert callable(other.given)
    reader.flush()
    assert (first.flushed, other.flushed) == (1, 0)


class Recorder:
    """A GpuReader that tells what a source does with it."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def share_context(self, pipeline: Any) -> None:
        self.told.append(f"share in {pipeline.get_state(0)[1].value_nick}")
        self.pipeline = pipeline

    def surface(self, sample: Any) -> Any:
        raise SourceError("not read", "here")

    def flush(self) -> None:
        self.told.append(f"flush in {self.pipeline.get_state(0)[1].value_nick}")


def test_a_source_shares_the_context_before_it_starts_and_flushes_before_it_stops() -> None:
    recorder: Any = Recorder()
    caps = "video/x-raw,format=NV12,width=64,height=48"
    with Source(f"gst:videotestsrc num-buffers=9 ! {caps}", gpu=recorder) as source:
        frame = source.read(5)
        assert frame is not None and frame.path == "system"  # nothing made it GPU memory
        assert frame.surface.layout.format == "NV12"
    shared, flushed = recorder.told
    assert shared == "share in null"
    # The first frame is there before the pipeline is past its pause.
    assert flushed in ("flush in paused", "flush in playing")


def test_cuda_memory_of_another_context_is_not_read(
    reader: GpuReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Sharer:
        error = SourceError("no library", "install it")

    monkeypatch.setattr(gstcuda, "share_context", lambda *_: Sharer)
    reader.share_context(None)
    reader.surface(sample("NVMM"))
    with pytest.raises(SourceError, match="no library"):
        reader.surface(sample("CUDAMemory"))


def test_pictures_that_the_gpu_does_not_read_come_with_the_conversion() -> None:
    recorder: Any = Recorder()
    source = Source("gst:videotestsrc ! video/x-raw,format=P010_10LE,width=64", gpu=recorder)
    with pytest.raises(SourceError, match="videoconvert ! video/x-raw,format=NV12"):
        source.open()


@emulated
def test_a_picture_that_the_gpu_does_not_give_is_the_source_s_failure(driver):
    with closing(CudaDevice()) as device:
        with device:
            memory = device.mapped(64)
        memory.array[:] = np.arange(64)
        reader = GpuReader(device)
        there = DeviceSurface(Layout("GRAY8", 8, 8), (memory.address,), (8,))
        assert np.array_equal(reader.download(there).planes[0].ravel(), memory.array)
        driver.fail("cuMemcpyDtoHAsync", DEVICE_LOST)
        with pytest.raises(SourceError, match=r"cannot be copied .* cuMemcpyDtoHAsync"):
            reader.download(there)
