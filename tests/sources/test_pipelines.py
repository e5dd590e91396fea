"""Golden pipelines for both platforms, names that try to break out, and the line to try alone."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edge.errors import SourceError
from edge.sources.camera import Camera
from edge.sources.credentials import resolve
from edge.sources.gst import gstreamer
from edge.sources.pipelines import PATTERNS, check_source, launch_line, pipeline
from edge.sources.uris import is_live
from tests.streams import FRAMES

NEWEST = "queue name=edge-gate max-size-bytes=0 max-size-time=0 max-size-buffers=1 leaky=downstream"
EVERY = "queue name=edge-gate max-size-bytes=0 max-size-time=0 max-size-buffers=2"
FORMATS = "RGB,BGR,RGBA,RGBx,BGRA,BGRx,GRAY8,NV12,NV21,I420,Y42B,Y444,YUY2,UYVY"
PICTURE = f"videoconvert ! video/x-raw,format={{{FORMATS}}}"
SINK = "appsink name=edge-sink sync=false qos=false enable-last-sample=false"
NEWEST_SINK = f"{SINK} max-buffers=1 drop=true"
EVERY_SINK = f"{SINK} max-buffers=2 drop=false"
TO_SYSTEM = "nvvidconv ! video/x-raw,format=NV12"
ON_GPU = "nvvidconv bl-output=false ! video/x-raw(memory:NVMM),format=NV12"
CSI = "nvarguscamerasrc sensor-id=1 ! video/x-raw(memory:NVMM)"
RTSP = 'rtspsrc name=edge-camera location="rtsp://h/s" protocols=tcp latency=50 buffer-mode=none'
RTP = "application/x-rtp,media=video ! decodebin"
WEB = (
    'souphttpsrc name=edge-camera location="http://h/v?a=1" is-live=true do-timestamp=true '
    "timeout=0 retries=0 ! multipartdemux name=edge-multipart ! "
    "capssetter name=edge-jpeg caps=image/jpeg replace=true join=false ! jpegparse name=edge-parsed"
)
MODE = "width=1280,height=720,framerate=15/2"

# What stands in front of the gate.
HEADS = {
    ("test://ball", "pc"): "videotestsrc pattern=ball is-live=true ! "
    "video/x-raw,width=640,height=480,framerate=30/1",
    ("test://ball?fps=60&width=1920", "pc"): "videotestsrc pattern=ball is-live=true ! "
    "video/x-raw,width=1920,height=480,framerate=60/1",
    ("file:///v/a%20b.mp4", "pc"): "uridecodebin name=edge-videos uri=file:///v/a%20b.mp4",
    ("file:///a.mp4", "jetson"): "uridecodebin name=edge-videos uri=file:///a.mp4",
    ("/dev/video0", "pc"): "v4l2src device=/dev/video0 ! decodebin",
    ("/dev/video0", "jetson"): "v4l2src device=/dev/video0 ! decodebin",
    ("v4l2:///dev/video1?width=1280&height=720&fps=15/2", "pc"): "v4l2src device=/dev/video1 ! "
    f'capsfilter caps="video/x-raw,{MODE};image/jpeg,{MODE};video/x-h264,{MODE}" ! decodebin',
    ("/dev/video0?format=raw&fps=30", "jetson"): "v4l2src device=/dev/video0 ! "
    'capsfilter caps="video/x-raw,framerate=30/1" ! decodebin',
    ("/dev/video0?format=h264", "jetson"): "v4l2src device=/dev/video0 ! "
    'capsfilter caps="video/x-h264" ! decodebin',
    ("/dev/video0?format=mjpg&width=8", "pc"): "v4l2src device=/dev/video0 ! "
    'capsfilter caps="image/jpeg,width=8" ! decodebin',
    ("/dev/video0?format=mjpg&width=8", "jetson"): "v4l2src device=/dev/video0 ! "
    'capsfilter caps="image/jpeg,width=8" ! jpegparse ! nvv4l2decoder mjpeg=1',
    ("csi://1", "jetson"): f"{CSI},width=1920,height=1080,framerate=30/1,format=NV12",
    ("csi://1?width=1280&height=720&fps=60", "jetson"): f"{CSI},"
    "width=1280,height=720,framerate=60/1,format=NV12",
    ("rtsp://u:p@h/s", "pc"): f"{RTSP} ! {RTP}",
    ("rtsp://u:p@h/s", "jetson"): f"{RTSP} ! {RTP}",
    ("http://u:p@h/v?a=1", "pc"): f"{WEB} ! decodebin",
    ("http://u:p@h/v?a=1", "jetson"): f"{WEB} ! nvv4l2decoder mjpeg=1",
    (
        "https://h/a.mp4",
        "pc",
    ): 'souphttpsrc name=edge-camera location="https://h/a.mp4" ! decodebin name=edge-videos',
    ("gst: videotestsrc ! video/x-raw,width=8 ", "pc"): "videotestsrc ! video/x-raw,width=8",
}


def stocked(text: str) -> str:
    """A pipeline with stand-ins for the elements that only a Jetson has."""
    stock = re.sub(r"nvarguscamerasrc sensor-id=\d", "fakesrc", text)
    stock = stock.replace("nvv4l2decoder mjpeg=1", "identity")
    return re.sub(r"nvvidconv( bl-output=false)?", "decodebin", stock)


@pytest.mark.parametrize(("uri", "platform"), HEADS)
def test_what_a_source_becomes(uri: str, platform: str) -> None:
    text = pipeline(Camera(uri), platform=platform)
    assert text.partition(" ! queue name=edge-gate")[0] == HEADS[uri, platform]
    elements = gstreamer().parse_launch(stocked(text))  # GStreamer reads it so, too
    assert elements.get_by_name("edge-gate") is not None
    assert elements.get_by_name("edge-sink") is not None


@pytest.mark.parametrize(
    ("camera", "platform", "gpu", "end"),
    [
        (Camera("test://ball"), "pc", False, f"{NEWEST} ! {PICTURE} ! {NEWEST_SINK}"),
        (Camera("file:///a.mp4"), "pc", False, f"{EVERY} ! {PICTURE} ! {EVERY_SINK}"),
        (Camera("http://h/a.mp4"), "pc", False, f"{EVERY} ! {PICTURE} ! {EVERY_SINK}"),
        (Camera("gst:x"), "jetson", False, f"{EVERY} ! {PICTURE} ! {EVERY_SINK}"),
        (
            Camera("file:///a.mp4", realtime=True),
            "pc",
            False,
            f"clocksync ! {NEWEST} ! {PICTURE} ! {NEWEST_SINK}",
        ),
        (Camera("csi://0"), "jetson", False, f"{NEWEST} ! {TO_SYSTEM} ! {PICTURE} ! {NEWEST_SINK}"),
        (
            Camera("file:///a.mp4"),
            "jetson",
            False,
            f"{EVERY} ! {TO_SYSTEM} ! {PICTURE} ! {EVERY_SINK}",
        ),
        (Camera("csi://0"), "jetson", True, f"{NEWEST} ! {ON_GPU} ! {NEWEST_SINK}"),
        (Camera("rtsp://h"), "jetson", True, f"{NEWEST} ! {ON_GPU} ! {NEWEST_SINK}"),
        # No element of a test pattern or of a PC makes NVMM memory: the frames are copied once.
        (Camera("test://ball"), "jetson", True, f"{NEWEST} ! {PICTURE} ! {NEWEST_SINK}"),
        (Camera("file:///a.mp4"), "pc", True, f"{EVERY} ! {PICTURE} ! {EVERY_SINK}"),
    ],
)
def test_how_a_pipeline_ends(camera: Camera, platform: str, gpu: bool, end: str) -> None:
    text = pipeline(camera, platform=platform, gpu=gpu)
    assert text.endswith(f" ! {end}")
    assert ("clocksync" in text) == camera.realtime


def test_rtsp_over_udp_stays_udp() -> None:
    """rtspsrc would fall back to TCP without a word."""
    text = pipeline(Camera("rtsp://h", transport="udp"), platform="pc")
    assert " protocols=udp " in text


@pytest.mark.parametrize("memory", ["", "(memory:NVMM)", "(memory:CUDAMemory)"])
def test_a_pipeline_of_the_users_own_may_end_in_any_memory(memory: str) -> None:
    """Nothing is converted on the way, so that the picture need not leave the GPU."""
    text = pipeline(Camera("gst:fakesrc"), platform="pc", gpu=True)
    assert "videoconvert" not in text
    gst = gstreamer()
    (caps,) = re.findall(r'caps="([^"]+)"', text)
    assert gst.Caps.from_string(caps).can_intersect(
        gst.Caps.from_string(f"video/x-raw{memory},format=NV12,width=8,height=8,framerate=30/1")
    )
    assert not gst.Caps.from_string(caps).can_intersect(
        gst.Caps.from_string(f"video/x-raw{memory},format=P010_10LE,width=8,height=8")
    )
    gst.parse_launch(text)


@pytest.mark.parametrize(
    "uri",
    ["ftp://h/x", "usb://0", "camera", "", "file://a.mp4", "test://", "csi://0 ! x", "csi://"],
)
def test_unknown_uri_names_the_known_ones(uri: str) -> None:
    with pytest.raises(SourceError) as caught:
        pipeline(Camera(uri), platform="jetson")
    assert "file:///" in caught.value.hint


def test_the_test_pictures_are_those_of_gstreamer() -> None:
    element = gstreamer().ElementFactory.make("videotestsrc")
    kinds = type(element.get_property("pattern")).__enum_values__.values()
    assert {kind.value_nick for kind in kinds} == {*PATTERNS}


@pytest.mark.parametrize(
    ("uri", "hint"),
    [
        ("test://bal", "did you mean test://ball\\?"),
        ("test://18?width=200", "use one of: smpte, snow"),
        ("/dev/video0?format=mjpeg", "use one of: raw, mjpg, h264"),
        ("/dev/video0?size=9", "use one of: format, width"),
        ("csi://0?width=wide", r"for example: \?width=1280"),
        ("ftp://h/x", "use one of: test://ball"),
    ],
)
def test_words_that_mean_nothing_are_refused_on_any_machine(uri: str, hint: str) -> None:
    with pytest.raises(SourceError, match=hint):
        check_source(uri)


@pytest.mark.parametrize("uri", ["csi://0", "test://${WHICH}", "${CAMERA}", "/dev/video${N}?fps=x"])
def test_what_a_variable_or_another_machine_may_make_right_is_not(uri: str) -> None:
    check_source(uri)


def test_csi_needs_a_jetson() -> None:
    with pytest.raises(SourceError, match="csi://0 needs a Jetson"):
        pipeline(Camera("csi://0"), platform="pc")


def test_unknown_platform() -> None:
    with pytest.raises(SourceError, match="use pc or jetson"):
        pipeline(Camera("test://ball"), platform="mac")


@pytest.mark.parametrize(
    "uri",
    [
        "test://ball ! filesink location=/x",
        "/dev/video0 name=edge-gate",
        'v4l2:///dev/"x"',
        "test://a\nb",
    ],
)
def test_a_word_cannot_become_a_pipeline(uri: str) -> None:
    with pytest.raises(SourceError, match="has no valid device or pattern"):
        pipeline(Camera(uri), platform="pc")


def elements_of(text: str) -> dict[str, Any]:
    """The elements of a pipeline by the name of their factory."""
    found, iterator = {}, gstreamer().parse_launch(text).iterate_elements()
    while (step := iterator.next())[0].value_nick == "ok":
        found[step[1].get_factory().get_name()] = step[1]
    return found


names = st.text(
    st.characters(codec="utf-8", exclude_characters="/\0") | st.sampled_from("\\\"'!%# \n"),
    min_size=1,
).filter(lambda name: name not in (".", ".."))


@given(names)
def test_no_file_name_breaks_out(name: str) -> None:
    path = Path("/videos") / name
    elements = elements_of(pipeline(Camera(path.as_uri()), platform="pc"))
    assert set(elements) == {"uridecodebin", "queue", "videoconvert", "capsfilter", "appsink"}
    assert elements["uridecodebin"].get_property("uri") == path.as_uri()


@pytest.mark.parametrize("scheme", ["rtsp", "http"])
@given(rest=st.text(st.characters(codec="utf-8", exclude_characters="\0")))
@example(rest='" ! fakesink name="x')
@example(rest="\\")
@example(rest=".MKV")
def test_no_address_breaks_out(scheme: str, rest: str) -> None:
    elements = elements_of(pipeline(Camera(f"{scheme}://camera/{rest}"), platform="pc"))
    source = {"rtsp": "rtspsrc", "http": "souphttpsrc"}[scheme]
    mjpeg = scheme == "http" and is_live(f"{scheme}://camera/{rest}")
    parts = {"multipartdemux", "capssetter", "jpegparse"} if mjpeg else set()
    wanted = {source, *parts, "decodebin", "queue", "videoconvert", "capsfilter", "appsink"}
    assert set(elements) == wanted
    location = elements[source].get_property("location")
    assert unquote(location) == unquote(f"{scheme}://camera/{rest}")


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("/dev/video0?format=yuyv", "has an unknown format 'yuyv'; use one of: raw, mjpg, h264"),
        (
            "/dev/video0?size=8x8",
            "unknown option 'size'; use one of: format, width, height, fps",
        ),
        (
            "test://ball?width=8 ! x",
            r"an invalid width=8 ! x; for example: \?width=1280&height=720&fps=30",
        ),
        ("test://ball?width=0", "has an invalid width=0"),
        ("csi://0?fps=1/0", "has an invalid fps=1/0"),
        ("csi://0?fps=29.97", "has an invalid fps=29.97"),
        ("csi://0?format=raw", "has an unknown option 'format'; use one of: width, height, fps"),
    ],
)
def test_a_mode_that_cannot_be(uri: str, said: str) -> None:
    with pytest.raises(SourceError, match=said):
        pipeline(Camera(uri), platform="jetson")


def line(uri: str, **asked: Any) -> str:
    return launch_line(Camera(uri, **asked), resolve(uri), platform="pc")


def test_the_line_is_the_pipeline_word_for_word() -> None:
    printed, text = line("test://ball"), pipeline(Camera("test://ball"), platform="pc")
    assert shlex.split(printed) == [
        "gst-launch-1.0",
        *text.replace("appsink", "fakesink").removesuffix(" max-buffers=1 drop=true").split(),
    ]


def test_the_line_runs(media: Path, tmp_path: Path) -> None:
    """As a shell and gst-launch-1.0 read it; the frames are counted at its sink."""
    hard = tmp_path / 'it\'s 50% "new"; $HOME & `x`.mp4'
    hard.symlink_to(media / "numbered.mp4")
    for uri in (
        hard.as_uri(),
        f"gst:filesrc location={media}/numbered.mp4 ! decodebin",
        'gst:videotestsrc num-buffers=45 name="a test" ! video/x-raw,width=64,height=8',
        r"gst:videotestsrc num-buffers=45 name=a\ test ! video/x-raw,width=64,height=8",
    ):
        printed = line(uri)
        assert "silent=false" not in printed
        done = shell(printed.replace("fakesink", "fakesink silent=false", 1) + " -v")
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("chain   ******") == FRAMES


def test_the_line_of_a_camera_runs() -> None:
    printed = line("test://smpte?width=64&height=48")
    done = shell(printed.replace("is-live=true", "is-live=true num-buffers=3"))
    assert done.returncode == 0, done.stderr


def shell(command: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, shell=True, env=os.environ | env, capture_output=True, text=True, timeout=60
    )


def test_the_line_leaves_variables_to_the_shell(
    media: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOLDER", str(media))
    monkeypatch.setenv("FILM", "numbered.mp4")
    printed = line("gst:filesrc location=${FOLDER}/${FILM} ! decodebin")
    assert str(media) not in printed
    assert '"${FOLDER}"/"${FILM}"' in printed
    done = shell(printed, FOLDER=str(media), FILM="numbered.mp4")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", ["film.mp4", "hall", "film.mp4?at=3", "live.cgi?name=film.mp4"])
@pytest.mark.parametrize("realtime", [False, True])
def test_what_a_variable_holds_says_whether_it_is_a_film(
    path: str, realtime: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line is that of the run, and tells the value of no variable."""
    monkeypatch.setenv("PATHX", path)
    printed = line("http://h/${PATHX}", realtime=realtime)
    assert path not in printed
    as_the_shell_reads_it = shlex.split(printed.replace("${PATHX}", path))
    assert as_the_shell_reads_it == shlex.split(line(f"http://h/{path}", realtime=realtime))


@pytest.mark.parametrize("scheme", ["rtsp", "http"])
def test_the_line_shows_that_there_is_a_password(scheme: str) -> None:
    words = shlex.split(line(f"{scheme}://joe:s3cret@h/s"))
    at = words.index("name=edge-camera")
    assert words[at + 1 : at + 3] == ["user-id=***", "user-pw=***"]
    assert f'location="{scheme}://h/s"' in words
    assert "user-pw" not in line(f"{scheme}://h/s")


@pytest.mark.parametrize(
    "form",
    [
        "rtsp://joe:{}@h/s",
        "http://joe:{}@h/s",
        "http://h/s?password={}",
        'gst:rtspsrc location="rtsp://joe:{}@h/s" ! x',
        "gst:souphttpsrc location=http://h/s?token={} ! x",
    ],
)
@given(password=st.text(min_size=1))
@example(password='it\'s & "so"')
def test_a_line_is_the_same_whatever_the_password(form: str, password: str) -> None:
    assert line(form.format(quote(password, safe="@:'"))) == line(form.format("hunter2"))


@pytest.mark.parametrize("password", ["se/cret", "12/secret", "se?cret", "#secret", "@se/cret@"])
def test_no_line_shows_a_password_that_is_written_as_it_should_not_be(password: str) -> None:
    for scheme in ("rtsp", "http"):
        shown = line(f"{scheme}://joe:{password}@h/s")
        assert "cret" not in shown
        assert "secret" not in shown


def test_the_command_prints_a_line_for_each_source_and_opens_nothing(
    edge_command: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    uri = "rtsp://joe:${CAMERA_PASSWORD}@127.0.0.1:1/live"
    asked = ["--source", "test://ball", "--source", uri, "--transport", "udp", "--dry-run"]
    env = os.environ | {"CAMERA_PASSWORD": "s3cret", "EDGE_PLATFORM": "pc"}
    done = edge_command("run", "no/engine", *asked, env=env)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.startswith("gst-launch-1.0 videotestsrc pattern=ball ")
    assert "'user-pw=***' 'location=\"rtsp://127.0.0.1:1/live\"' protocols=udp " in second
    assert "s3cret" not in done.stdout + done.stderr
