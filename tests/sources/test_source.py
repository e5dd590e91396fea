"""Sources on real GStreamer: numbers, drops, ages, and errors a person can act on."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.errors import SourceError
from edge.sources.camera import Camera
from edge.sources.frame import Frame
from edge.sources.gst import gstreamer
from edge.sources.opening import check_camera, feed
from edge.sources.pipelines import GATE
from edge.sources.source import Source

NumberIn = Callable[[np.ndarray], int]
Serve = Callable[..., tuple[str, "subprocess.Popen[str]"]]
SLOW = "gst:videotestsrc is-live=true ! video/x-raw,framerate=1/100"  # one frame, then silence
DEAF = "gst:appsrc caps=video/x-raw,format=RGB,width=8,height=8,framerate=1/1"  # not even one
FRAMES = 45


def rest_of(source: Source) -> list[Frame]:
    return list(iter(lambda: source.read(10), None))


def after(source: Source, frames: int) -> threading.Event:
    """Set once the source has produced so many frames more."""
    Gst, event, count = gstreamer(), threading.Event(), iter(range(1, frames))

    def probe(*_: object) -> Any:
        if next(count, None) is None:
            event.set()
        return Gst.PadProbeReturn.OK

    gate = source._pipeline.get_by_name(GATE).get_static_pad("sink")
    gate.add_probe(Gst.PadProbeType.BUFFER, probe)
    return event


@contextmanager
def busy(source: Source) -> Iterator[None]:
    """The conversion behind the gate takes nothing, as when it is too slow."""
    kind = gstreamer().PadProbeType
    exit_ = source._pipeline.get_by_name(GATE).get_static_pad("src")
    probe = exit_.add_probe(kind.BLOCK | kind.BUFFER, lambda *_: gstreamer().PadProbeReturn.OK)
    yield
    exit_.remove_probe(probe)


def test_a_file_gives_every_frame_in_order(numbered: Path, number_in: NumberIn) -> None:
    with Source(str(numbered)) as source:
        frames = rest_of(source)
        assert source.read(1) is None, "the end stays the end"
    assert not source.live
    assert [frame.number for frame in frames] == list(range(FRAMES))
    assert [number_in(frame.pixels) for frame in frames] == list(range(FRAMES))
    assert [frame.pts for frame in frames] == pytest.approx(
        [n / 30 for n in range(FRAMES)], abs=1e-3
    )
    assert source.dropped == 0
    assert frames[0].source == source.name == numbered.as_uri()


def test_in_real_time_the_newest_frame_wins(numbered: Path, number_in: NumberIn) -> None:
    began = time.monotonic()
    with Source(Camera(str(numbered), realtime=True)) as source:
        first = source.read(5)
        assert first is not None
        with busy(source):
            assert after(source, 10).wait(10)
        second = source.read(5)
        assert second is not None
        assert after(source, 10).wait(10)
        frames = [first, second, *rest_of(source)]
    numbers = [frame.number for frame in frames]
    assert source.live
    assert numbers == sorted(set(numbers))
    assert [number_in(frame.pixels) for frame in frames] == numbers, (
        "a number belongs to its picture"
    )
    assert numbers[-1] == FRAMES - 1, "the last frame is never dropped"
    assert len(numbers) <= FRAMES - 14, "frames gave way before the conversion, and behind it"
    assert source.dropped == FRAMES - len(frames)
    # It played no faster than it was filmed.
    assert time.monotonic() - began > (FRAMES - 2) / 30


def test_a_camera_counts_what_it_drops() -> None:
    with Source("test://smpte") as source:
        frames = [source.read(5)]
        for _ in range(2):
            assert after(source, 8).wait(10)
            frames.append(source.read(5))
    # The test picture's clock tells the number of each frame, whoever counts.
    known = [
        (frame.number, round(frame.pts * 30)) for frame in frames if frame and frame.pts is not None
    ]
    assert len(known) == 3
    assert all(number == clock for number, clock in known)
    assert source.dropped == known[-1][0] + 1 - 3 >= 10


def test_a_live_pipeline_of_the_users_own_is_a_camera() -> None:
    with Source("gst:videotestsrc is-live=true ! video/x-raw,framerate=60/1") as source:
        assert source.live
        with busy(source):
            assert after(source, 10).wait(10), "the gate does not hold the camera up"
        assert after(source, 10).wait(10), "nor does the sink"
        frames = [source.read(5), source.read(5)]
    assert frames[1] is not None
    assert source.dropped == frames[1].number + 1 - 2 >= 10


def test_a_pipeline_of_the_users_own_that_is_none_loses_nothing() -> None:
    with Source("gst:videotestsrc num-buffers=9 ! video/x-raw,width=64,height=48") as source:
        assert not source.live
        assert [frame.number for frame in rest_of(source)] == list(range(9))


def test_a_live_frame_was_captured_when_the_camera_saw_it() -> None:
    before = time.monotonic()
    with Source("test://ball") as source:
        frames = [frame for _ in range(9) if (frame := source.read(5))]
    captured = [frame.captured for frame in frames]
    assert before < captured[0] < captured[-1] < time.monotonic()
    # The camera's clock runs in its frames: so many frames later is so many 1/30 s later.
    later = (frames[-1].number - frames[0].number) / 30
    assert captured[-1] - captured[0] == pytest.approx(later, abs=0.2)


@pytest.mark.parametrize(("pts", "age"), [(2, 3.0), (5, 0.0), (6, 0.0)])
def test_the_age_of_a_live_frame_is_its_running_time_ago(pts: int, age: float) -> None:
    Gst = gstreamer()
    start, played = 100 * Gst.SECOND, 5 * Gst.SECOND

    class Playing:
        get_base_time = staticmethod(lambda: start)
        get_pipeline_clock = staticmethod(lambda: Playing)
        get_time = staticmethod(lambda: start + played)

    buffer, segment = Gst.Buffer.new_wrapped(bytes(12)), Gst.Segment()
    buffer.pts, buffer.offset = pts * Gst.SECOND, 0
    segment.init(Gst.Format.TIME)
    caps = Gst.Caps.from_string("video/x-raw,format=RGB,width=4,height=1,framerate=1/1")
    source = Source("test://ball")
    source._pipeline = Playing
    before = time.monotonic()
    frame = source._frame(Gst, Gst.Sample.new(buffer, caps, segment, None))
    assert before <= frame.captured + age <= time.monotonic(), "no frame is from the future"


def test_a_frame_of_a_file_was_captured_when_it_arrived(numbered: Path) -> None:
    before = time.monotonic()
    with Source(str(numbered)) as source:
        waiting = time.monotonic()
        frames = rest_of(source)
    captured = [frame.captured for frame in frames]
    assert before <= captured[0] <= waiting, "it arrived before it was read"
    assert captured == sorted(captured)


@pytest.mark.parametrize(
    "name", ["a b!.mp4", "q'u\"o.mp4", "back\\", "new\nline", "50%41.mp4", "ü.mp4"]
)
def test_any_name_of_a_file(name: str, numbered: Path, tmp_path: Path) -> None:
    (tmp_path / name).symlink_to(numbered)
    with Source(str(tmp_path / name)) as source:
        assert source.read(5) is not None


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("text.mp4", "is not a video"),
        ("empty.mp4", "is not a video (Stream contains no data)"),
        ("sound.wav", "is not a video (it has no video stream)"),
    ],
)
def test_a_file_that_is_no_video(name: str, said: str, media: Path) -> None:
    with pytest.raises(SourceError) as caught, Source(str(media / name)):
        pass
    assert said in str(caught.value)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("nothing.mp4", "there is no file nothing.mp4"),
        ("/dev/video97", "there is no camera /dev/video97"),
        ("/dev/null", "the camera /dev/null cannot be used"),
        ("test://nothing", "test://nothing is not a test pattern"),
        (
            "gst:nothing",
            "GStreamer has no element nothing; check its spelling, or run: sudo apt install",
        ),
        ("gst:videotestsrc ! ! x", "fails (syntax error)"),
        ("gst:audiotestsrc", "the pipeline gst:audiotestsrc fails"),
        ("gst:videotestsrc num-buffers=0", "holds no video"),
        ("webcam://0", "'webcam://0' is not a source; use one of: test://ball"),
    ],
)
def test_sources_that_cannot_be_opened(uri: str, said: str) -> None:
    with pytest.raises(SourceError) as caught, Source(uri):
        pass
    assert said in str(caught.value)


def test_what_never_can_be_opened_is_refused_when_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At a start and at a reload: a run that waits for it would wait for ever."""
    monkeypatch.setenv("WHICH", "bal")
    with pytest.raises(SourceError, match="is not a test pattern"):
        feed(Camera("test://${WHICH}"))
    with pytest.raises(SourceError, match="csi://0 needs a Jetson"):
        feed(Camera("csi://0"), platform="pc")
    feed(Camera("/dev/video97"))  # it may be plugged in later


def test_no_fault_of_a_source_tells_what_is_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    for uri in ("${SECRET}://x", "test://${SECRET}"):
        with pytest.raises(SourceError) as caught:
            check_camera(Camera(uri))
        assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_a_jetson_without_its_plugins(numbered: Path) -> None:
    with pytest.raises(SourceError, match=r"no element nvvidconv; .* nvidia-l4t-gstreamer"):
        Source(str(numbered), platform="jetson").open()


def test_a_decoder_that_is_not_installed(numbered: Path) -> None:
    decoders = "avdec_h264:NONE,openh264dec:NONE,nvh264dec:NONE,vah264dec:NONE,v4l2h264dec:NONE"
    code = f"from edge.sources.source import Source; Source({str(numbered)!r}).open()"
    done = python(code, GST_PLUGIN_FEATURE_RANK=decoders)
    assert "GStreamer has no H.264" in done.stderr
    assert "sudo apt install gstreamer1.0-libav" in done.stderr


def python(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parents[2]
    return subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore::ImportWarning", "-c", code],
        env=os.environ | {"PYTHONPATH": str(root)} | env,
        capture_output=True,
        text=True,
    )


def test_no_frame_ever_comes() -> None:
    with pytest.raises(SourceError, match=r"no frame came from gst:appsrc .* within 0.2 s"):
        Source(DEAF, wait=0.2).open()


def test_no_frame_comes_any_more() -> None:
    with Source(SLOW) as source:
        assert source.read(5) is not None
        with pytest.raises(SourceError, match=r"within 0.2 s; test the pipeline alone"):
            source.read(0.2)


def test_stop_wakes_a_reader() -> None:
    with Source(SLOW) as source:
        source.read(5)
        reader = threading.Thread(target=source.read, args=(60,))
        reader.start()
        source.stop()
        reader.join(10)
        assert not reader.is_alive()
        assert source.read(60) is None


def test_stop_wakes_an_opener() -> None:
    source = Source(DEAF)
    opener = threading.Thread(target=source.open)
    opener.start()
    source.stop()
    opener.join(10)
    assert not opener.is_alive()
    source.close()


def test_rtsp(rtsp: Serve, number_in: NumberIn) -> None:
    url, _ = rtsp("--user", "joe:s3cret")
    with Source(url.replace("//", "//joe:s3cret@")) as source:
        frames = [frame for _ in range(5) if (frame := source.read(10))]
    assert source.live
    assert [frame.source for frame in frames] == [url.replace("//", "//***@")] * 5
    shown = [number_in(frame.pixels) for frame in frames]
    assert np.diff(shown).tolist() == np.diff([frame.number for frame in frames]).tolist()
    assert all(0 <= time.monotonic() - frame.captured < 10 for frame in frames)


def test_rtsp_refusals_never_tell_the_password(rtsp: Serve) -> None:
    url, _ = rtsp("--user", "joe:s3cret")
    port = url.split(":")[2].split("/")[0]
    refusals = {
        url: f"the camera at 127.0.0.1:{port} requires a user name and a password",
        url.replace("//", "//joe:hunter2@"): "refuses this user name or password",
        url.replace("//", "//joe:s3cret@").replace("camera", "door"): "has no stream at this path",
        "rtsp://joe:s3cret@127.0.0.1:1/camera": "the camera at 127.0.0.1:1 cannot be reached (Conn",
        "rtsp://joe:s3cret@127.0.0.1:x/camera": "has no valid host and port",
        "rtsp://joe:s3cret@nowhere.invalid/c": "camera at nowhere.invalid:554 cannot be reached",
    }
    for uri, said in refusals.items():
        with pytest.raises(SourceError) as caught, Source(uri):
            pass
        assert said in str(caught.value)
        assert caught.value.__cause__ is None
        for secret in ("s3cret", "hunter2"):
            assert secret not in repr(caught.value)


def test_no_trace_tells_the_password() -> None:
    source = Source("gst:videotestsrc pattern=rtsp://joe:s3cret@h/x")
    with pytest.raises(SourceError) as caught:
        source.open()
    assert "rtsp://***@h/x" in str(caught.value)
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))


def test_an_rtsp_stream_ends(rtsp: Serve) -> None:
    url, _ = rtsp("--once")
    with Source(url) as source:
        frames = rest_of(source)
    assert frames[-1].number + 1 == len(frames) + source.dropped


def test_an_rtsp_camera_dies(rtsp: Serve) -> None:
    url, server = rtsp()
    with Source(url) as source:
        assert source.read(10) is not None
        server.kill()
        with pytest.raises(SourceError, match=r"cannot be reached|was interrupted"):
            rest_of(source)


def test_nothing_is_left_behind(numbered: Path) -> None:
    """Sources that end, that are cut short and that fail: no message, no thread, no pipeline."""
    code = f"""
import os, threading
from edge.errors import SourceError
from edge.sources.source import Source

def threads():
    return len(os.listdir("/proc/self/task"))

def use():
    with Source({str(numbered)!r}) as source:
        source.read(5)
    with Source("test://ball") as source:
        source.read(5)
    for uri in ("gst:videotestsrc num-buffers=0", "gst:nothing"):
        try:
            Source(uri).open()
        except SourceError:
            pass

use()
before = threads()
for _ in range(8):
    use()
# GStreamer keeps idle threads in a pool for the next pipeline, so some may stay, but not 8 times.
assert threads() <= before + 4, (before, threads())
assert threading.active_count() == 1
"""
    done = python(code, G_DEBUG="fatal-warnings")
    assert (done.returncode, done.stderr) == (0, "")


def test_importing_loads_no_gstreamer() -> None:
    code = "import sys, edge.sources.source, edge.run.loop; assert 'gi' not in sys.modules"
    done = python(code)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_is_closed_gives_the_system_its_memory_back() -> None:
    """Between blocks that live on, free memory stays with the process unless it is told."""
    code = """
import ctypes, os
from pathlib import Path
from edge.sources.source import Source
PAGE = os.sysconf("SC_PAGE_SIZE")
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
def megabytes(): return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE / 1e6
with Source("test://ball") as source:
    source.read(20)
    blocks = [libc.malloc(64_000) for _ in range(2_000)]
    for block in blocks: ctypes.memset(block, 1, 64_000)
    for block in blocks[:-1]: libc.free(block)
    before = megabytes()
print(before - megabytes() > 100)
"""
    root = Path(__file__).parents[2]
    command, env = [sys.executable, "-c", code], os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
