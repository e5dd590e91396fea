"""NVMM by contract: real GStreamer, the real ctypes code, and a stand-in for NVIDIA's library."""

from __future__ import annotations

import ctypes
import gc
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge.errors import EdgeError, SourceError
from edge.gpu import nvidia
from edge.preprocess.surface import FORMATS, Colour, Layout
from edge.sources.gst import gstreamer
from edge.sources.memory import nvbufsurface
from edge.sources.memory.nvbufsurface import A, Abi, B, NvBufSurface, abi_here
from edge.sources.memory.nvmm import NONE, READ_ONLY, NvmmReader
from edge.sources.samples import frame_from_sample
from tests.nvbufsurface.standin import StandIn, StandInInterop, compile_library

Gst = gstreamer()

CAPS = "video/x-raw(memory:NVMM),format=NV12,width=64,height=36,framerate=30/1"
MAP, UNMAP = "NvBufSurfaceMapEglImage", "NvBufSurfaceUnMapEglImage"


@pytest.fixture(scope="session")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("nvbufsurface")
    return {abi.name: compile_library(abi, folder) for abi in (A, B)}


@pytest.fixture(params=[A, B], ids=lambda abi: f"ABI-{abi.name}")
def standin(libraries: dict[str, Path], request: pytest.FixtureRequest) -> Iterator[StandIn]:
    """The stand-in library, which must see no misuse by the end of the test."""
    found = StandIn(request.param, libraries[request.param.name])
    before = found.mapped()
    yield found
    gc.collect()
    assert found.calls("misuse") == 0
    assert found.mapped() == before, "an EGL image was left behind"


def sample_of(surface: Any, caps: str = CAPS) -> Any:
    """A sample whose buffer holds this NvBufSurface."""
    buffer = Gst.Buffer.new_wrapped(bytes(surface))
    segment = Gst.Segment()
    segment.init(Gst.Format.TIME)
    return Gst.Sample.new(buffer, Gst.Caps.from_string(caps), segment, None)


class Camera:
    """appsrc ! appsink with a real pool of buffers, each of which holds an NvBufSurface."""

    def __init__(
        self, standin: StandIn, count: int, caps: str = CAPS, fd: int = 40, **surface: Any
    ):
        self._standin = standin
        self.surfaces = [standin.create(fd=40 + 2 * number) for number in range(count)]
        self._unused = iter(self.surfaces)
        self._filled: set[int] = set()
        self._pipeline = Gst.parse_launch(
            f'appsrc name=src format=time caps="{caps}" ! '
            "appsink name=sink sync=false enable-last-sample=false"
        )
        self._src = self._pipeline.get_by_name("src")
        self._sink = self._pipeline.get_by_name("sink")
        self._pipeline.set_state(Gst.State.PLAYING)
        # appsrc marks its first buffer, for which it copies it; the pool's own must come through.
        self._through(Gst.Buffer.new_allocate(None, 8, None))
        self._pool = Gst.BufferPool()
        size = ctypes.sizeof(standin.abi.surface)
        config = self._pool.get_config()
        Gst.BufferPool.config_set_params(config, Gst.Caps.from_string(caps), size, count, count)
        self._pool.set_config(config)
        self._pool.set_active(True)

    def __enter__(self) -> Camera:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the pipeline, and with it the pool's buffers."""
        self._pipeline.set_state(Gst.State.NULL)
        # In NULL, too, appsink has the sample that was pulled last, until it ends itself.
        self._pipeline = self._src = self._sink = None
        self._pool.set_active(False)

    def free(self) -> None:
        """Free the surfaces, as a driver does after the buffers."""
        for surface in self.surfaces:
            self._standin.destroy(surface)

    def __call__(self) -> Any:
        """The next sample, through the pipeline."""
        _, buffer = self._pool.acquire_buffer(None)
        memory = hash(buffer.peek_memory(0))
        if memory not in self._filled:
            self._filled.add(memory)
            buffer.fill(0, bytes(next(self._unused)))
        return self._through(buffer)

    def _through(self, buffer: Any) -> Any:
        assert self._src.emit("push-buffer", buffer) == Gst.FlowReturn.OK
        sample = self._sink.try_pull_sample(5 * Gst.SECOND)
        assert sample is not None
        return sample


# The structures.


def test_every_offset_is_the_compilers(standin: StandIn) -> None:
    abi = standin.abi
    structures: dict[str, Any] = {
        "NvBufSurface": abi.surface,
        "NvBufSurfaceParams": abi.params,
        "NvBufSurfaceMappedAddr": abi.mapped_addr,
        "NvBufSurfacePlaneParams": nvbufsurface.PlaneParams,
        "NvBufSurfaceCudaBuffer": nvbufsurface.CudaBuffer,
    }
    for name, structure in structures.items():
        assert standin.offset_of(name) == ctypes.sizeof(structure), name
        for field, *_ in structure._fields_:
            if field != "_reserved":
                expected = standin.offset_of(f"{name}.{field}")
                assert getattr(structure, field).offset == expected, f"{name}.{field}"


@pytest.mark.parametrize(
    ("abi", "sizes"), [(A, (64, 384, 72)), (B, (72, 416, 88))], ids=lambda value: str(value)[:8]
)
def test_sizes(abi: Abi, sizes: tuple[int, int, int]) -> None:
    """Written out once more: a compiler agrees with whatever both files say."""
    found = [ctypes.sizeof(each) for each in (abi.surface, abi.params, abi.mapped_addr)]
    assert tuple(found) == sizes


@pytest.mark.parametrize(
    ("l4t", "deepstream", "expected"),
    [
        ("R35.4.1", [], A),
        ("R36.4.3", ["deepstream-7.1"], A),
        ("R38.2.0", [], B),
        ("R39.0", ["deepstream-7.1"], B),
        (None, ["deepstream-7.1"], A),
        (None, ["deepstream", "deepstream-6.2", "deepstream-8.0"], B),
        (None, ["deepstream-10.0", "deepstream-9.0"], B),
        ("unknown", ["deepstream-8.0"], B),
    ],
)
def test_abi_here(
    l4t: str | None,
    deepstream: list[str],
    expected: Abi,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in deepstream:
        (tmp_path / name).mkdir()
    monkeypatch.setattr(nvidia, "l4t_version", lambda: l4t)
    monkeypatch.setattr(nvbufsurface, "_DEEPSTREAM", tmp_path)
    assert abi_here() is expected


@pytest.mark.parametrize("l4t", [None, "unknown"])
def test_nothing_tells_the_abi(
    l4t: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvidia, "l4t_version", lambda: l4t)
    monkeypatch.setattr(nvbufsurface, "_DEEPSTREAM", tmp_path)
    with pytest.raises(SourceError, match=r"version of NvBufSurface.*docker run -v /etc/nv_tegra"):
        abi_here()


def test_no_library() -> None:
    with pytest.raises(SourceError, match=r"libnvbufsurface\.so .*install JetPack"):
        NvBufSurface(A, path="libnvbufsurface-of-nowhere.so")


# One frame.


@pytest.mark.parametrize("memory", [1, 2, 3])
def test_cuda_memory_is_read_as_it_is(standin: StandIn, memory: int) -> None:
    surface = standin.create(memory=memory, data=0x7000000)
    interop = StandInInterop()
    with NvmmReader(interop, standin.library()) as reader:
        found, path = reader.surface(sample_of(surface))[:2]
    assert path == "nvmm-cuda"
    assert found.layout == Layout("NV12", 64, 36, Colour("bt601", False, True, False))
    # Neither is the chroma's pitch the luma's, nor its offset pitch * height.
    assert (found.planes, found.pitches) == ((0x7000000, 0x7000000 + 12288), (256, 512))
    assert not found.textures
    assert interop.registered == []
    standin.destroy(surface)


def test_cuda_memory_behind_the_buffer_of_abi_b(libraries: dict[str, Path]) -> None:
    standin = StandIn(B, libraries["B"])
    with NvmmReader(StandInInterop(), standin.library()) as reader:
        behind = standin.create(memory=2, cuda_data=0x9000000)
        assert reader.surface(sample_of(behind))[0].planes == (0x9000000, 0x9000000 + 12288)
        both = standin.create(memory=2, data=0x7000000, cuda_data=0x9000000)
        assert reader.surface(sample_of(both))[0].planes[0] == 0x7000000


def test_a_pitch_frame(standin: StandIn) -> None:
    surface = standin.create()
    interop = StandInInterop(pitch=320)
    with NvmmReader(interop, standin.library()) as reader:
        found, path = reader.surface(sample_of(surface))[:2]
        ((image, flags),) = interop.registered
        assert flags == READ_ONLY
        assert path == "nvmm-pitch"
        # CUDA has one pitch per frame: that of the luma. The chroma's is the surface's own.
        assert (found.planes, found.pitches) == ((image + 1, image + 2), (320, 512))
        assert not found.textures
    assert surface.surfaceList[0].mappedAddr.eglImage is None
    standin.destroy(surface)


@pytest.mark.parametrize(
    ("colour_format", "channels"), [(1, [1]), (6, [1, 2]), (8, [1, 2]), (2, [1, 1, 1])]
)
def test_an_array_frame(standin: StandIn, colour_format: int, channels: list[int]) -> None:
    planes = len(channels)
    surface = standin.create(
        layout=1, colour_format=colour_format, pitches=[64] * planes, offsets=[0] * planes
    )
    interop = StandInInterop(arrays=True)
    caps = CAPS.replace("NV12", "GRAY8") if colour_format == 1 else CAPS
    with NvmmReader(interop, standin.library()) as reader:
        found, path, owner = reader.surface(sample_of(surface, caps))
        ((image, _),) = interop.registered
        assert path == "nvmm-block-linear"
        assert found.textures
        arrays = [(image + 1 + plane, count) for plane, count in enumerate(channels)]
        assert [interop.textures[texture] for texture in found.planes] == arrays
        del owner
    assert interop.textures == {} == interop.images
    standin.destroy(surface)


def test_the_frame_decides_what_it_is_not_the_layout(standin: StandIn) -> None:
    with NvmmReader(StandInInterop(arrays=True), standin.library()) as reader:
        assert reader.surface(sample_of(standin.create(layout=0)))[1] == "nvmm-block-linear"
    with NvmmReader(StandInInterop(), standin.library()) as reader:
        assert reader.surface(sample_of(standin.create(layout=1)))[1] == "nvmm-pitch"


def test_default_memory_is_the_platforms(standin: StandIn) -> None:
    surface = standin.create(memory=0, data=0x7000000)
    with NvmmReader(StandInInterop(), standin.library(jetson=True)) as reader:
        assert reader.surface(sample_of(surface))[1] == "nvmm-pitch"
    with NvmmReader(StandInInterop(), standin.library(jetson=False)) as reader:
        assert reader.surface(sample_of(surface))[1] == "nvmm-cuda"


def test_an_image_that_was_there_already_stays(standin: StandIn) -> None:
    surface = standin.create()
    surface.surfaceList[0].mappedAddr.eglImage = 0x4242
    with NvmmReader(StandInInterop(), standin.library()) as reader:
        assert reader.surface(sample_of(surface))[0].planes == (0x4243, 0x4244)
    assert surface.surfaceList[0].mappedAddr.eglImage == 0x4242
    assert standin.calls(MAP) == 0


ALL = {
    1: ("GRAY8", "bt601", True),
    2: ("I420", "bt601", False),
    4: ("I420", "bt601", True),
    6: ("NV12", "bt601", False),
    7: ("NV12", "bt601", True),
    8: ("NV21", "bt601", False),
    9: ("NV21", "bt601", True),
    10: ("UYVY", "bt601", False),
    11: ("UYVY", "bt601", True),
    14: ("YUY2", "bt601", False),
    15: ("YUY2", "bt601", True),
    31: ("I420", "bt709", False),
    32: ("I420", "bt709", True),
    33: ("NV12", "bt709", False),
    34: ("NV12", "bt709", True),
    35: ("I420", "bt2020", False),
    36: ("NV12", "bt2020", False),
    19: ("RGBA", "", True),
    20: ("BGRA", "", True),
    23: ("RGBx", "", True),
    24: ("BGRx", "", True),
    27: ("RGB", "", True),
    28: ("BGR", "", True),
}


@pytest.mark.parametrize("number", range(-1, 70))
def test_every_colour_format(standin: StandIn, number: int) -> None:
    surface = standin.create(
        memory=2,
        data=1 << 20,
        colour_format=number,
        pitches=[256, 256, 256],
        offsets=[0, 1 << 15, 1 << 16],
    )
    format, matrix, full = ALL.get(number, ("NV12", "", False))
    caps = CAPS.replace("NV12", format)
    with NvmmReader(StandInInterop(), standin.library()) as reader:
        if number not in ALL:
            with pytest.raises(
                SourceError, match=rf"ColorFormat {number} is not supported; convert it: nvvidconv"
            ):
                reader.surface(sample_of(surface, caps))
            return
        found = reader.surface(sample_of(surface, caps))[0]
        # The caps' chroma-site counts, their colorimetry does not: the surface has its own.
        sited = f"{caps},colorimetry=2:6:5:1,chroma-site=cosited"
        told = reader.surface(sample_of(surface, sited))[0]
    if FORMATS[format].is_rgb:
        expected = colour = Colour()
    elif format == "GRAY8":
        expected, colour = Colour("bt601", True, False), Colour("bt601", False, True, True)
    else:
        expected = Colour(matrix, full, not full, False)  # type: ignore[arg-type]
        colour = Colour(matrix, full, True, True)  # type: ignore[arg-type]
    assert found.layout == Layout(format, 64, 36, expected)
    assert told.layout.colour == colour
    assert len(found.planes) == len(found.pitches) == FORMATS[format].planes


# What goes wrong.


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"memory": 5}, "memory of unknown type 5; copy it into CUDA memory: nvvidconv"),
        ({"memory": 6}, "memory of unknown type 6"),
        ({"memory": 7}, "memory of unknown type 7"),
        ({"memory": -1}, "memory of unknown type -1"),
        ({"layout": 2}, "unknown layout 2"),
        ({"memory": 2}, "unusable CUDA memory: layout 0, address 0x0"),
        ({"memory": 2, "data": 8, "layout": 1}, "unusable CUDA memory: layout 1"),
        ({"pitches": [256], "offsets": [0]}, "NV12 has only 1 planes"),
        ({"memory": 2, "data": 8, "pitches": [256, 63]}, "a pitch of 63 for rows of 64 bytes"),
        ({"size": (0, 36)}, "an image of 0x36 pixels"),
    ],
)
def test_surfaces_that_cannot_be_read(standin: StandIn, made: dict[str, Any], message: str) -> None:
    interop = StandInInterop()
    with (
        NvmmReader(interop, standin.library()) as reader,
        pytest.raises(EdgeError, match=message),
    ):
        reader.surface(sample_of(standin.create(**made)))
    assert interop.images == {}


def test_an_empty_batch(standin: StandIn) -> None:
    surface = standin.create()
    surface.numFilled = 0
    with NvmmReader(StandInInterop(), standin.library()) as reader:
        with pytest.raises(SourceError, match=r"an NvBufSurface is empty \(numFilled 0\)"):
            reader.surface(sample_of(surface))
        surface.numFilled = 1
        surface.surfaceList = None
        with pytest.raises(SourceError, match=r"an NvBufSurface is empty \(numFilled 1\)"):
            reader.surface(sample_of(surface))


def test_a_buffer_that_is_no_nvbufsurface(standin: StandIn) -> None:
    with (
        NvmmReader(StandInInterop(), standin.library()) as reader,
        pytest.raises(SourceError, match=r"63 bytes holds no NvBufSurface of (64|72); .*JetPack"),
    ):
        reader.surface(sample_of(bytes(63)))


def test_memory_of_another_kind_is_not_taken_for_an_nvbufsurface(standin: StandIn) -> None:
    with (
        NvmmReader(StandInInterop(), standin.library()) as reader,
        pytest.raises(SourceError, match="is not in NVMM memory"),
    ):
        reader.surface(sample_of(standin.create(), CAPS.replace("NVMM", "CUDAMemory")))


def test_no_display(standin: StandIn) -> None:
    """What "No EGLDisplay" comes to: the mend is in the error, and the next frame tries again."""
    surface = standin.create()
    with NvmmReader(StandInInterop(), standin.library()) as reader:
        standin.fail(MAP)
        with pytest.raises(SourceError, match=r"MapEglImage failed \(-1\).*env -u DISPLAY"):
            reader.surface(sample_of(surface))
        reader.surface(sample_of(surface))
    # The call that failed has nothing to undo.
    assert (standin.calls(MAP), standin.calls(UNMAP)) == (2, 1)


@pytest.mark.parametrize("arrays", [False, True])
@pytest.mark.parametrize("call", ["register", "mapped_frame", "texture"])
def test_cuda_refuses(standin: StandIn, call: str, arrays: bool) -> None:
    """Whatever fails, what was done before it is undone."""
    if call == "texture" and not arrays:
        return
    surface = standin.create()
    interop = StandInInterop(arrays=arrays)
    with NvmmReader(interop, standin.library()) as reader:
        interop.failing = call
        with pytest.raises(SourceError, match=rf"\({call} failed \(999\)\); copy it into CUDA"):
            reader.surface(sample_of(surface))
        assert interop.images == {}
        assert surface.surfaceList[0].mappedAddr.eglImage is None
        interop.failing = ""
        reader.surface(sample_of(surface))
    assert interop.images == {}


def test_a_second_texture_that_fails_takes_the_first_with_it(standin: StandIn) -> None:
    interop = StandInInterop(arrays=True)
    texture, count = interop.texture, itertools.count()

    def second_fails(array: int, channels: int) -> int:
        interop.failing = "texture" if next(count) else ""
        return texture(array, channels)

    interop.texture = second_fails  # type: ignore[method-assign]
    with (
        NvmmReader(interop, standin.library()) as reader,
        pytest.raises(SourceError, match="texture failed"),
    ):
        reader.surface(sample_of(standin.create()))
    assert (interop.textures, interop.destroyed, interop.images) == ({}, 1, {})


def test_a_frame_of_an_unknown_type(standin: StandIn) -> None:
    interop = StandInInterop()
    interop.frame_type = 2
    with (
        NvmmReader(interop, standin.library()) as reader,
        pytest.raises(SourceError, match="unusable EGL frame: type 2"),
    ):
        reader.surface(sample_of(standin.create()))
    assert interop.images == {}


@pytest.mark.parametrize("colour_format", [14, 19])
def test_packed_pictures_in_arrays(standin: StandIn, colour_format: int) -> None:
    surface = standin.create(colour_format=colour_format, pitches=[256], offsets=[0])
    interop = StandInInterop(arrays=True)
    with (
        NvmmReader(interop, standin.library()) as reader,
        pytest.raises(SourceError, match=r"block-linear .* is not supported.*bl-output=false"),
    ):
        reader.surface(sample_of(surface))
    assert interop.images == {}


def test_what_refuses_to_register_read_only_is_asked_once(standin: StandIn) -> None:
    interop = StandInInterop(writes_only=True)
    asked: list[int] = []
    register = interop.register

    def asking(image: int, flags: int) -> int:
        asked.append(flags)
        return register(image, flags)

    interop.register = asking  # type: ignore[method-assign]
    with NvmmReader(interop, standin.library()) as reader:
        for fd in (40, 50):
            reader.surface(sample_of(standin.create(fd=fd)))
    assert asked == [READ_ONLY, NONE, NONE]


# Many frames.


@pytest.mark.parametrize("arrays", [False, True])
def test_two_thousand_frames_register_each_buffer_once(standin: StandIn, arrays: bool) -> None:
    interop = StandInInterop(arrays=arrays)
    reader = NvmmReader(interop, standin.library())
    with Camera(standin, 4) as camera:
        seen = set()
        for number in range(2_000):
            sample = camera()
            frame = frame_from_sample(
                sample, source="csi://0", number=number, captured=0, device=reader
            )
            seen.add(frame.surface.planes)
            del sample, frame
        assert len(seen) == len(interop.registered) <= 4
        assert interop.unregistered == []
        reader.close()
        assert interop.images == interop.textures == {}
        assert len(interop.unregistered) == len(interop.registered)
    camera.free()


def test_a_frame_holds_its_buffer_until_it_is_let_go(standin: StandIn) -> None:
    """A pool of three: with one frame held only the other two come round.

    Two, because appsink itself keeps the sample that was pulled last.
    """
    interop = StandInInterop()
    with Camera(standin, 3) as camera, NvmmReader(interop, standin.library()) as reader:
        held = reader.surface(camera())
        others = {reader.surface(camera())[0].planes for _ in range(5)}
        assert len(others) == 2
        assert held[0].planes not in others
        reader.close()
        # A kernel may still be reading: only the frame that is in use keeps its registration.
        assert len(interop.images) == 1
        del held
        assert interop.images == {}
    camera.free()


def test_a_buffer_that_ends_takes_its_registration_with_it(standin: StandIn) -> None:
    """The decoder frees its pool when a camera changes its size, and says so only later."""
    interop = StandInInterop(arrays=True)
    with NvmmReader(interop, standin.library()) as reader:
        camera = Camera(standin, 3)
        for _ in range(6):
            reader.surface(camera())
        assert len(interop.images) == 3
        camera.stop()
        assert interop.images == interop.textures == {}
        camera.free()  # and would be misused if anything looked at it after this


def test_a_memory_that_outlives_its_reader(standin: StandIn) -> None:
    sample = sample_of(standin.create())
    reader = NvmmReader(StandInInterop(), standin.library())
    reader.surface(sample)
    reader.close()
    del reader
    gc.collect()
    del sample
    gc.collect()


def test_new_caps_flush(standin: StandIn) -> None:
    interop = StandInInterop()
    first, second = standin.create(fd=40), standin.create(fd=50)
    samples = [sample_of(first), sample_of(second)]
    with NvmmReader(interop, standin.library()) as reader:
        for sample in samples:
            reader.surface(sample)
        assert len(interop.images) == 2
        # Caps that are equal, though another object, change nothing.
        samples.append(sample_of(standin.create(fd=60)))
        reader.surface(samples[2])
        assert interop.unregistered == []
        sited = sample_of(standin.create(fd=70), f"{CAPS},chroma-site=cosited")
        assert reader.surface(sited)[0].layout.colour.cosited_down
        assert len(interop.unregistered) == 3
        assert len(interop.images) == 1


def test_a_reused_descriptor_is_not_served_stale(standin: StandIn) -> None:
    """After a reconnect the same numbers mean other memory."""
    interop = StandInInterop()
    with NvmmReader(interop, standin.library()) as reader:
        surface = standin.create(fd=40)
        sample = sample_of(surface)
        old = reader.surface(sample)[0].planes
        assert reader.surface(sample)[0].planes == old
        reader.flush()
        new = reader.surface(sample)[0].planes
        assert new != old
        assert len(interop.registered) == 2
        assert len(interop.unregistered) == 1


@pytest.mark.parametrize("change", ["bufferDesc", "width", "height", "pitch", "colorFormat"])
def test_a_buffer_that_became_another_picture(standin: StandIn, change: str) -> None:
    interop = StandInInterop()
    surface = standin.create()
    sample = sample_of(surface)
    with NvmmReader(interop, standin.library()) as reader:
        reader.surface(sample)
        params = surface.surfaceList[0]
        target = params.planeParams.pitch if change == "pitch" else params
        if change == "pitch":
            target[0] += 64
        else:
            setattr(params, change, {"colorFormat": 7}.get(change, getattr(params, change) - 2))
        reader.surface(sample)
        assert len(interop.registered) == 2
        assert len(interop.images) == 1


def test_registrations_are_few(standin: StandIn) -> None:
    """More buffers than the limit: the one used longest ago goes first."""
    interop = StandInInterop()
    samples = [sample_of(standin.create(fd=40 + 2 * number)) for number in range(5)]
    with NvmmReader(interop, standin.library(), limit=3) as reader:
        for sample in samples[:3]:
            reader.surface(sample)
        reader.surface(samples[0])
        reader.surface(samples[3])
        assert len(interop.images) == 3
        assert interop.unregistered == [1002]
        reader.surface(samples[0])
        assert len(interop.registered) == 4
        for sample in itertools.islice(itertools.cycle(samples), 50):
            reader.surface(sample)
            assert len(interop.images) <= 3
    assert len(interop.unregistered) == len(interop.registered)


def test_one_failure_at_the_end_does_not_keep_the_rest(standin: StandIn) -> None:
    interop = StandInInterop()
    surfaces = [standin.create(fd=40 + 2 * number) for number in range(3)]
    samples = [sample_of(surface) for surface in surfaces]
    reader = NvmmReader(interop, standin.library())
    for sample in samples:
        reader.surface(sample)
    standin.fail(UNMAP)
    with pytest.raises(SourceError, match="UnMapEglImage failed"):
        reader.close()
    assert interop.images == {}
    assert standin.calls(UNMAP) == 3
    reader.close()
    assert standin.calls(UNMAP) == 3
    (left,) = (each for each in surfaces if each.surfaceList[0].mappedAddr.eglImage)
    standin.library().unmap_egl_image(ctypes.addressof(left))
