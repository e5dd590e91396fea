"""GStreamer's CUDA memory without a GPU: what is asked of it, and who answers its elements."""

from __future__ import annotations

import ctypes
import gc
from typing import Any

import pytest

from edge.errors import SourceError, require
from edge.gpu import nvidia
from edge.preprocess.surface import Colour, Layout
from edge.sources.gst import gstreamer
from edge.sources.memory import gstcuda, mapping
from edge.sources.memory.gstcuda import CudaReader, share_context
from edge.sources.samples import frame_from_sample

Gst = gstreamer()

CAPS = "video/x-raw(memory:CUDAMemory),format={},width=8,height=4,framerate=30/1"
FUNCTIONS = (
    "gst_cuda_load_library",
    "gst_cuda_context_new_wrapped",
    "gst_context_new_cuda_context",
    "gst_element_set_context",
)


def sample_of(format: str = "NV12", memories: int = 1, size: int = 512) -> Any:
    from gi.repository import GstVideo

    caps = Gst.Caps.from_string(CAPS.format(format))
    buffer = Gst.Buffer.new()
    for _ in range(memories):
        buffer.append_memory(Gst.Buffer.new_wrapped(bytes(size // memories)).get_memory(0))
    if format == "NV12":
        layout = (GstVideo.VideoFormat.NV12, 8, 4, 2, [16, 300, 0, 0], [32, 64, 0, 0])
        GstVideo.buffer_add_video_meta_full(buffer, 0, *layout)
    segment = Gst.Segment()
    segment.init(Gst.Format.TIME)
    return Gst.Sample.new(buffer, caps, segment, None)


class Mapping:
    """GStreamer's own functions; remembers the flags, and takes out what only CUDA memory knows."""

    def __init__(self) -> None:
        self.flags: list[int] = []
        self.mapped = 0
        real = mapping._library()
        self._map, self._unmap = real.gst_buffer_map_range, real.gst_buffer_unmap

    def gst_buffer_map_range(
        self, buffer: Any, first: int, count: int, info: Any, flags: int
    ) -> Any:
        self.flags.append(flags)
        self.mapped += 1
        return self._map(buffer, first, count, info, flags & 0xFFFF)

    def gst_buffer_unmap(self, buffer: Any, info: Any) -> None:
        self.mapped -= 1
        self._unmap(buffer, info)


@pytest.fixture
def mapper(monkeypatch: pytest.MonkeyPatch) -> Mapping:
    gc.collect()  # what other tests left is not to be unmapped here
    found = Mapping()
    monkeypatch.setattr(mapping, "_library", lambda: found)
    return found


class Library:
    """GstCuda as it behaves with a GPU; `lacks` is the function that fails."""

    def __init__(self, lacks: str = "") -> None:
        self.lacks = lacks
        self.calls: list[Any] = []
        self.context = Gst.Context.new("gst.cuda.context", True)
        self._c = ctypes.CDLL("libgstreamer-1.0.so.0")
        for name in ("gst_mini_object_ref", "gst_mini_object_unref"):
            getattr(self._c, name).argtypes = [ctypes.c_void_p]
        self._c.gst_element_set_context.argtypes = [ctypes.c_void_p] * 2

    def _call(self, *call: Any) -> bool:
        self.calls.append(call)
        return call[0] != self.lacks

    def gst_cuda_load_library(self) -> int:
        return int(self._call("gst_cuda_load_library"))

    def gst_cuda_context_new_wrapped(self, handle: int, device: int) -> int | None:
        return 0x77 if self._call("gst_cuda_context_new_wrapped", handle, device) else None

    def gst_context_new_cuda_context(self, wrapped: int) -> int | None:
        if not self._call("gst_context_new_cuda_context", wrapped):
            return None
        self._c.gst_mini_object_ref(hash(self.context))
        return hash(self.context)

    def gst_element_set_context(self, element: int, context: int) -> None:
        self._call("gst_element_set_context", element, context)
        self._c.gst_element_set_context(element, context)

    def gst_object_unref(self, thing: int) -> None:
        self._call("gst_object_unref", thing)

    def gst_mini_object_unref(self, thing: int) -> None:
        self._call("gst_mini_object_unref", thing)
        self._c.gst_mini_object_unref(thing)


def test_the_numbers_and_names_are_those_of_gstcuda() -> None:
    """The description of GstCuda for Python is there where setup ran; the library always is."""
    require("gi").require_version("GstCuda", "1.0")
    cuda = require("gi.repository.GstCuda")
    assert cuda.MAP_CUDA == gstcuda._MAP_CUDA
    assert cuda.CUDA_CONTEXT_TYPE == gstcuda._CONTEXT
    assert cuda.CAPS_FEATURE_MEMORY_CUDA_MEMORY in CAPS
    assert cuda.CudaContext.new_wrapped
    assert cuda.context_new_cuda_context
    assert all(hasattr(gstcuda.gst_cuda(), name) for name in FUNCTIONS)


def test_a_picture(mapper: Mapping) -> None:
    waited: list[int] = []
    # The context is waited for after the map, which may itself start a copy.
    reader = CudaReader(lambda: waited.append(len(mapper.flags)))
    reader._memory_sync = None
    sample = sample_of()
    frame = frame_from_sample(sample, source="here", number=1, captured=0, device=reader)
    assert mapper.flags == [0x20001]
    assert waited == [1]
    assert frame.path == "cuda"
    surface: Any = frame.surface
    assert surface.layout == Layout("NV12", 8, 4, Colour("bt601", False, True, False))
    start = surface.planes[0] - 16
    assert surface.planes == (start + 16, start + 300)
    assert surface.pitches == (32, 64)
    assert not surface.textures
    # It stays mapped, as GStreamer must not reuse it, until the frame is let go.
    assert mapper.mapped == 1
    del frame
    gc.collect()
    assert mapper.mapped == 0


def test_one_memory_is_waited_for_where_that_can_be(
    mapper: Mapping, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Newer:
        waited: list[Any] = []  # noqa: RUF012

        def gst_cuda_memory_sync(self, memory: Any) -> None:
            self.waited.append(memory.value)

    monkeypatch.setattr(gstcuda, "gst_cuda", Newer)
    sample = sample_of()
    reader = CudaReader(lambda: pytest.fail("the whole context was waited for"))
    reader.surface(sample)
    assert Newer.waited == [hash(sample.get_buffer().peek_memory(0))]


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (
            {"format": "P010_10LE"},
            "the format P010_10LE in CUDA memory is not supported; convert it: cudaconvert",
        ),
        ({"memories": 2}, "a frame in 2 CUDA memories"),
        ({"size": 371}, "too small for 8x4 NV12"),
    ],
)
def test_pictures_that_cannot_be_read(mapper: Mapping, made: dict[str, Any], message: str) -> None:
    with pytest.raises(SourceError, match=message):
        CudaReader(lambda: None).surface(sample_of(**made))
    assert mapper.mapped == 0


def test_memory_of_another_kind_is_no_device_pointer(mapper: Mapping) -> None:
    sample = sample_of()
    sample.set_caps(Gst.Caps.from_string(CAPS.format("NV12").replace("CUDAMemory", "NVMM")))
    with pytest.raises(SourceError, match="is not in CUDA memory"):
        CudaReader(lambda: None).surface(sample)
    assert mapper.flags == []


def test_elements_that_ask_are_given_the_context(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library()
    monkeypatch.setattr(gstcuda, "gst_cuda", lambda: library)
    pipeline = Gst.parse_launch("fakesrc name=deaf ! bin.( identity name=asks ) ! fakesink")
    share_context(pipeline, 0xABC, 2)
    asks = pipeline.get_by_name("asks")
    asks.post_message(Gst.Message.new_need_context(asks, "gst.gl.GLDisplay"))
    assert asks.get_context("gst.cuda.context") is None
    assert library.calls == []  # pipelines without CUDA need no library of it
    asks.post_message(Gst.Message.new_need_context(asks, "gst.cuda.context"))
    assert library.calls[:4] == [
        ("gst_cuda_load_library",),
        ("gst_cuda_context_new_wrapped", 0xABC, 2),
        ("gst_context_new_cuda_context", 0x77),
        ("gst_object_unref", 0x77),
    ]
    # Answered when the post returns: nobody has looked at the bus.
    given = asks.get_context("gst.cuda.context")
    assert hash(given) == hash(library.context)
    assert pipeline.get_by_name("deaf").get_context("gst.cuda.context") is None
    # The context goes with the pipeline.
    del asks, pipeline, given
    gc.collect()
    assert library.calls[-1] == ("gst_mini_object_unref", hash(library.context))


def asked() -> Any:
    """A pipeline's sharer, after an element has asked for a context."""
    pipeline = Gst.parse_launch("identity name=asks ! fakesink")
    sharer = share_context(pipeline, 1, 0)
    asks = pipeline.get_by_name("asks")
    asks.post_message(Gst.Message.new_need_context(asks, "gst.cuda.context"))
    assert asks.get_context("gst.cuda.context") is None
    return sharer


@pytest.mark.parametrize("lacks", FUNCTIONS[:3])
def test_gstreamer_finds_no_cuda(lacks: str, monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library(lacks)
    monkeypatch.setattr(gstcuda, "gst_cuda", lambda: library)
    sharer = asked()
    assert f"{lacks} failed; install NVIDIA's driver" in str(sharer.error)
    assert library.calls[-1][0] == lacks


@pytest.mark.skipif(nvidia.gpu() is not None, reason="there is a GPU")
def test_without_a_driver_the_real_library_ends_in_an_error_not_in_the_process() -> None:
    assert "gst_cuda_load_library failed" in str(asked().error)


def test_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise OSError(f"{name}: cannot open shared object file")

    gstcuda.gst_cuda.cache_clear()
    monkeypatch.setattr(ctypes, "CDLL", missing)
    with pytest.raises(SourceError, match=r"libgstcuda.*sudo apt install libgstreamer-plugins-bad"):
        CudaReader(lambda: None)
