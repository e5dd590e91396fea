"""URIs: golden pipelines for both platforms, names that try to break out, passwords that hide."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edge.errors import SourceError
from edge.gst import gstreamer
from edge.run.cameras import Camera
from edge.run.uris import as_uri, authority, check, pipeline, redact

NEWEST = "queue name=edge-gate max-size-bytes=0 max-size-time=0 max-size-buffers=1 leaky=downstream"
EVERY = "queue name=edge-gate max-size-bytes=0 max-size-time=0 max-size-buffers=2"
FORMATS = "RGB,BGR,RGBA,RGBx,BGRA,BGRx,GRAY8,NV12,NV21,I420,Y42B,Y444,YUY2,UYVY"
PICTURE = f"videoconvert ! video/x-raw,format={{{FORMATS}}}"
SINK = "appsink name=edge-sink sync=false qos=false enable-last-sample=false"
NEWEST_SINK = f"{SINK} max-buffers=1 drop=true"
EVERY_SINK = f"{SINK} max-buffers=2 drop=false"
NVMM = "nvvidconv ! video/x-raw,format=NV12"
CSI = "video/x-raw(memory:NVMM),width=1920,height=1080,framerate=30/1,format=NV12"
RTSP = 'rtspsrc location="rtsp://u:p@h/s" protocols=tcp latency=50'

GOLDEN = {
    ("test://ball", "pc", False): "videotestsrc pattern=ball is-live=true ! "
    f"video/x-raw,width=640,height=480,framerate=30/1 ! {NEWEST} ! {PICTURE} ! {NEWEST_SINK}",
    ("file:///v/a%20b.mp4", "pc", False): "uridecodebin uri=file:///v/a%20b.mp4 ! "
    f"{EVERY} ! {PICTURE} ! {EVERY_SINK}",
    ("file:///a.mp4", "pc", True): "uridecodebin uri=file:///a.mp4 ! "
    f"clocksync ! {NEWEST} ! {PICTURE} ! {NEWEST_SINK}",
    ("/dev/video0", "pc", False): "v4l2src device=/dev/video0 ! decodebin ! "
    f"{NEWEST} ! {PICTURE} ! {NEWEST_SINK}",
    ("v4l2:///dev/video1", "pc", True): "v4l2src device=/dev/video1 ! decodebin ! "
    f"{NEWEST} ! {PICTURE} ! {NEWEST_SINK}",
    ("rtsp://u:p@h/s", "pc", False): f"{RTSP} ! application/x-rtp,media=video ! decodebin ! "
    f"{NEWEST} ! {PICTURE} ! {NEWEST_SINK}",
    ("gst:videotestsrc ! video/x-raw,width=8", "pc", False): "videotestsrc ! video/x-raw,width=8 ! "
    f"{EVERY} ! {PICTURE} ! {EVERY_SINK}",
    ("gst: videotestsrc ", "pc", True): "videotestsrc ! "
    f"clocksync ! {NEWEST} ! {PICTURE} ! {NEWEST_SINK}",
    ("test://ball", "jetson", False): "videotestsrc pattern=ball is-live=true ! "
    f"video/x-raw,width=640,height=480,framerate=30/1 ! {NEWEST} ! {PICTURE} ! {NEWEST_SINK}",
    ("csi://1", "jetson", False): f"nvarguscamerasrc sensor-id=1 ! {CSI} ! "
    f"{NEWEST} ! {NVMM} ! {PICTURE} ! {NEWEST_SINK}",
    ("/dev/video0", "jetson", False): "v4l2src device=/dev/video0 ! decodebin ! "
    f"{NEWEST} ! {NVMM} ! {PICTURE} ! {NEWEST_SINK}",
    ("file:///a.mp4", "jetson", False): "urisourcebin uri=file:///a.mp4 ! parsebin ! "
    f"nvv4l2decoder ! {EVERY} ! {NVMM} ! {PICTURE} ! {EVERY_SINK}",
    ("file:///a.mp4", "jetson", True): "urisourcebin uri=file:///a.mp4 ! parsebin ! "
    f"nvv4l2decoder ! clocksync ! {NEWEST} ! {NVMM} ! {PICTURE} ! {NEWEST_SINK}",
    ("rtsp://u:p@h/s", "jetson", False): f"{RTSP} ! application/x-rtp,media=video ! parsebin ! "
    f"nvv4l2decoder ! {NEWEST} ! {NVMM} ! {PICTURE} ! {NEWEST_SINK}",
    ("gst:videotestsrc", "jetson", False): f"videotestsrc ! {EVERY} ! {PICTURE} ! {EVERY_SINK}",
}


ON_GPU = "nvvidconv bl-output=false ! video/x-raw(memory:NVMM),format=NV12"
GPU_GOLDEN = {
    ("csi://1", "jetson"): f"nvarguscamerasrc sensor-id=1 ! {CSI} ! "
    f"{NEWEST} ! {ON_GPU} ! {NEWEST_SINK}",
    ("rtsp://u:p@h/s", "jetson"): f"{RTSP} ! application/x-rtp,media=video ! parsebin ! "
    f"nvv4l2decoder ! {NEWEST} ! {ON_GPU} ! {NEWEST_SINK}",
    # No element of a test pattern or of a PC makes NVMM memory: the frames are copied once.
    ("test://ball", "jetson"): "videotestsrc pattern=ball is-live=true ! "
    f"video/x-raw,width=640,height=480,framerate=30/1 ! {NEWEST} ! {PICTURE} ! {NEWEST_SINK}",
    ("file:///a.mp4", "pc"): f"uridecodebin uri=file:///a.mp4 ! {EVERY} ! {PICTURE} ! {EVERY_SINK}",
}


@pytest.mark.parametrize(("uri", "platform"), GPU_GOLDEN)
def test_for_a_gpu_pictures_stay_where_it_reads_them(uri: str, platform: str) -> None:
    text = pipeline(Camera(uri, realtime=False), platform=platform, gpu=True)
    assert text == GPU_GOLDEN[uri, platform]


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


@pytest.mark.parametrize(("uri", "platform", "realtime"), GOLDEN)
def test_golden(uri: str, platform: str, realtime: bool) -> None:
    text = pipeline(Camera(uri, realtime=realtime), platform=platform)
    assert text == GOLDEN[uri, platform, realtime]
    # GStreamer reads it so too; stand-ins for the elements that only a Jetson has.
    stock = re.sub(r"nvarguscamerasrc sensor-id=\d", "fakesrc", text)
    stock = stock.replace("nvv4l2decoder", "identity").replace("nvvidconv", "decodebin")
    elements = gstreamer().parse_launch(stock)
    assert elements.get_by_name("edge-gate") is not None
    assert elements.get_by_name("edge-sink") is not None


@pytest.mark.parametrize(
    "uri",
    ["http://h/x", "usb://0", "camera", "", "file://a.mp4", "test://", "csi://0 ! x", "csi://"],
)
def test_unknown_uri_names_the_known_ones(uri: str) -> None:
    with pytest.raises(SourceError) as caught:
        pipeline(Camera(uri, realtime=False), platform="jetson")
    assert "file:///" in caught.value.mend


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
        "/dev/video0 name=gate",
        'v4l2:///dev/"x"',
        "test://a\nb",
    ],
)
def test_a_word_cannot_become_a_pipeline(uri: str) -> None:
    with pytest.raises(SourceError, match="names no device or pattern"):
        pipeline(Camera(uri, realtime=False), platform="pc")


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


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0")))
@example('" ! fakesink name="x')
@example("\\")
def test_no_rtsp_address_breaks_out(rest: str) -> None:
    elements = elements_of(pipeline(Camera(f"rtsp://camera/{rest}"), platform="pc"))
    wanted = {"rtspsrc", "decodebin", "queue", "videoconvert", "capsfilter", "appsink"}
    assert set(elements) == wanted
    location = elements["rtspsrc"].get_property("location")
    assert unquote(location) == unquote(f"rtsp://camera/{rest}")


def test_a_path_becomes_a_uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.mp4", "100% sure!.mp4", "%41.mp4"):
        (tmp_path / name).touch()
        assert as_uri(name) == (tmp_path / name).as_uri()
        assert as_uri(f"file://{tmp_path}/{name}") == (tmp_path / name).as_uri()
        assert as_uri((tmp_path / name).as_uri()) == (tmp_path / name).as_uri()


@pytest.mark.parametrize(
    "uri", ["test://ball", "/dev/video0", "csi://0", "rtsp://h/x", "gst:videotestsrc", "http://h"]
)
def test_a_uri_stays(uri: str) -> None:
    assert as_uri(uri) == uri


def test_a_path_where_nothing_is(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="there is no file"):
        as_uri(str(tmp_path / "nothing.mp4"))
    with pytest.raises(SourceError, match="there is no file"):
        check((tmp_path / "nothing.mp4").as_uri())


def test_a_folder_is_no_video(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="is not a file"):
        check(tmp_path.as_uri())


def test_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SourceError, match="there is no camera /dev/video97"):
        check("/dev/video97")
    with pytest.raises(SourceError, match="there is no camera /dev/video97"):
        check("v4l2:///dev/video97")
    with pytest.raises(SourceError, match="/dev/shm is not a camera"):
        check("/dev/shm")
    check("/dev/null")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(SourceError, match="may not be opened by you; run: sudo usermod -aG video"):
        check("/dev/null")
    video = tmp_path / "v.mp4"
    video.touch()
    with pytest.raises(SourceError, match="may not be read by you"):
        check(video.as_uri())


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("rtsp://user:secret@cam:554/s", "rtsp://***@cam:554/s"),
        ("rtsp://secret@cam/s", "rtsp://***@cam/s"),
        ("rtsp://user:se@cret@cam/s", "rtsp://***@cam/s"),
        ("rtsp://user:se/cret@cam/s", "rtsp://***@cam/s"),
        ('rtsp://user:se cr"et@cam/s', "rtsp://***@cam/s"),
        ("rtsp://cam/live@2", "rtsp://cam/live@2"),
        ("rtsp://[fe80::1]/live@2", "rtsp://[fe80::1]/live@2"),
        ("rtsp://cam:554/live@2", "rtsp://***@2"),
        ("rtsp://cam/s?user=a&password=secret&c=1", "rtsp://cam/s?user=a&password=***&c=1"),
        ("http://user:secret@cam/s", "http://***@cam/s"),
        ("gst:src location=rtsp://u:secret@h/s ! x", "gst:src location=rtsp://***@h/s ! x"),
        ('gst:src user-id=secret user-pw="sec ret" ! x', "gst:src user-id=*** user-pw=*** ! x"),
        ("file:///videos/password=1@home.mp4", "file:///videos/password=1@home.mp4"),
        ("test://ball", "test://ball"),
        ("/dev/video0", "/dev/video0"),
    ],
)
def test_redact(uri: str, shown: str) -> None:
    assert redact(uri) == shown


@given(st.text(min_size=4).filter(lambda text: text not in "rtsp://***@ham/ham"))
@example("a/b?c#d@e")
@example("//12:34@[::1]:5/")
def test_no_password_is_ever_shown(password: str) -> None:
    assert password not in redact(f"rtsp://u:{password}@ham/ham")


@pytest.mark.parametrize(
    ("uri", "host"),
    [("rtsp://u:p@cam:1/x", "cam:1"), ("rtsp://cam", "cam"), ("rtsp://[::1]:5/", "[::1]:5")],
)
def test_authority(uri: str, host: str) -> None:
    assert authority(uri) == host


def test_an_empty_source() -> None:
    with pytest.raises(SourceError, match="the source is empty; use one of: test://ball"):
        as_uri(" ")
