"""Pipelines that play: each kind of stream and each codec, from real servers on loopback."""

from __future__ import annotations

import re
import subprocess
import threading
import time
import traceback
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from edge.errors import SourceError
from edge.sources.camera import Camera
from edge.sources.credentials import CREDENTIALS, resolve
from edge.sources.frame import Frame
from edge.sources.gst import gstreamer
from edge.sources.launch import has_camera, launch
from edge.sources.source import Source
from tests.conftest import descriptors
from tests.sources.test_source import python
from tests.sources.webcam import FORMS, webcam
from tests.streams import FRAMES
from tests.streams import launch as convert

NumberIn = Callable[[np.ndarray], int]
Serve = Callable[..., tuple[str, "subprocess.Popen[str]"]]


@pytest.fixture(scope="session")
def jpegs(paint: Callable[[int], np.ndarray]) -> list[bytes]:
    """The numbers from 0 to FRAMES - 1, as JPEGs. Several fit into one packet."""
    files = [BytesIO() for _ in range(FRAMES)]
    for number, file in enumerate(files):
        Image.fromarray(paint(number)).save(file, "JPEG", quality=95)
    return [file.getvalue() for file in files]


@pytest.fixture(scope="session")
def coded(numbered: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The numbered video in another codec: coded("h265")."""
    folder = tmp_path_factory.mktemp("coded")

    def convert_to(codec: str) -> Path:
        encoder = {"h265": "x265enc speed-preset=ultrafast ! h265parse", "jpeg": "jpegenc"}[codec]
        path = folder / f"{codec}.mkv"
        if not path.exists():
            convert(
                f"uridecodebin uri={numbered.as_uri()} ! videoconvert ! video/x-raw,format=I420 ! "
                f"{encoder} ! matroskamux ! filesink location={path}"
            )
        return path

    return convert_to


def some(source: Source, count: int = 5) -> list[Frame]:
    return [frame for _ in range(count) if (frame := source.read(10))]


def elements_in(bin_: Any) -> list[Any]:
    found, iterator = [], bin_.iterate_recurse()
    while (step := iterator.next())[0] == gstreamer().IteratorResult.OK:
        found.append(step[1])
    return found


def agree(frames: list[Frame], number_in: NumberIn) -> bool:
    """Whether the pictures advance as their numbers do; the film begins anew at its end."""
    shown = np.array([number_in(frame.pixels) for frame in frames])
    told = np.array([frame.number for frame in frames])
    return bool((np.diff(shown) % FRAMES == np.diff(told) % FRAMES).all())


def test_a_web_camera_is_live(jpegs: list[bytes], number_in: NumberIn) -> None:
    said: list[str] = []
    with webcam(jpegs) as url, Source(f"{url}/video?quality=high", info=said.append) as source:
        frames = some(source)
    assert source.live
    assert said == [f"{source.name}: decoded by avdec_mjpeg, in software"]
    assert len(frames) == 5
    assert agree(frames, number_in)
    assert all(0 <= time.monotonic() - frame.captured < 10 for frame in frames)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_mjpeg_is_read(form: str, jpegs: list[bytes], number_in: NumberIn) -> None:
    """Each frame has a time of its own, that of its arrival, even if several arrive at once."""
    with webcam(jpegs) as url, Source(f"{url}/video/{form}") as source:
        frames = some(source)
    assert len(frames) == 5
    assert agree(frames, number_in)
    times = [frame.pts for frame in frames]
    assert None not in times
    assert times == sorted(set(times))
    assert all(0 <= one.captured - frames[0].captured < 10 for one in frames)


@pytest.mark.parametrize("way", ["in the URI", "variables", "file"])
def test_a_web_camera_with_a_password(
    way: str, jpegs: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    password = "s3/c@r:et \"%41\\'#?" if way == "variables" else "s3cret"
    with webcam(jpegs, login=f"joe:{password}".encode()) as url:
        if way == "in the URI":
            uri = url.replace("//", f"//joe:{password}@")
        elif way == "variables":
            monkeypatch.setenv("CAMERA_USER", "joe")
            monkeypatch.setenv("CAMERA_PASSWORD", password)
            uri = url.replace("//", "//${CAMERA_USER}:${CAMERA_PASSWORD}@")
        else:
            file = tmp_path / "netrc"
            file.write_text(f"machine 127.0.0.1 login joe password {password}\n")
            file.chmod(0o600)
            monkeypatch.setenv(CREDENTIALS, str(file))
            uri = url
        with Source(f"{uri}/video") as source:
            assert source.read(10) is not None
    assert password not in source.name


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_rtsp_in_both_transports(transport: str, rtsp: Serve, number_in: NumberIn) -> None:
    url, _ = rtsp()
    with Source(Camera(url, transport=transport)) as source:
        assert agree(some(source), number_in)
        camera = source._pipeline.get_by_name("edge-camera")
        receivers = [e for e in elements_in(camera) if e.get_factory().get_name() == "udpsrc"]
    assert bool(receivers) == (transport == "udp")


@pytest.mark.parametrize("way", ["variables", "file"])
def test_rtsp_with_a_password_from_elsewhere(
    way: str, rtsp: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    password = 's3/c@r:et"#?' if way == "variables" else "s3cret"
    url, _ = rtsp("--user", f"joe:{password}")
    if way == "variables":
        monkeypatch.setenv("CAMERA_PASSWORD", password)
        url = url.replace("//", "//joe:${CAMERA_PASSWORD}@")
    else:
        file = tmp_path / "netrc"
        file.write_text(f"machine 127.0.0.1 login joe password {password}\n")
        file.chmod(0o600)
        monkeypatch.setenv(CREDENTIALS, str(file))
    with Source(url) as source:
        assert source.read(10) is not None


@pytest.mark.parametrize("codec", ["h265", "jpeg"])
def test_rtsp_in_other_codecs(
    codec: str, rtsp: Serve, coded: Callable[[str], Path], number_in: NumberIn
) -> None:
    url, _ = rtsp("--codec", codec, video=coded(codec))
    said: list[str] = []
    with Source(url, info=said.append) as source:
        assert agree(some(source), number_in)
    (text,) = said
    assert {"h265": "265", "jpeg": "avdec_mjpeg"}[codec] in text.partition(": decoded by ")[2]


@pytest.fixture
def shelf(media: Path):
    """A web server of the films in `media`; its root's URL."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(media)))
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_film_on_a_web_server_gives_every_frame(shelf: str, number_in: NumberIn) -> None:
    with Source(f"{shelf}/numbered.mp4") as source:
        frames = list(iter(lambda: source.read(10), None))
    assert not source.live
    assert [number_in(frame.pixels) for frame in frames] == list(range(FRAMES))
    assert source.dropped == 0


def test_a_film_in_parts(shelf: str, media: Path, number_in: NumberIn) -> None:
    """HLS, here of one part."""
    convert(
        f"filesrc location={media}/numbered.mp4 ! qtdemux ! h264parse ! mpegtsmux ! "
        f"filesink location={media}/part.ts"
    )
    (media / "film.m3u8").write_text(
        "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1.5,\npart.ts\n#EXT-X-ENDLIST\n"
    )
    with Source(f"{shelf}/film.m3u8") as source:
        frames = list(iter(lambda: source.read(10), None))
    assert [number_in(frame.pixels) for frame in frames] == list(range(FRAMES))


def test_a_test_picture_in_another_size() -> None:
    with Source("test://smpte?width=200&height=100&fps=60") as source:
        layout = source.read(10).surface.layout
    assert (layout.width, layout.height) == (200, 100)


def test_a_decoder_is_chosen_by_its_rank(numbered: Path) -> None:
    code = (
        f"from edge.sources.source import Source\nwith Source({str(numbered)!r}, info=print): pass"
    )
    for first in ("avdec_h264", "openh264dec"):
        done = python(code, GST_PLUGIN_FEATURE_RANK=f"{first}:MAX")
        told = f"{numbered.as_uri()}: decoded by {first}, in software"
        assert done.stdout.strip() == told


def test_hardware_goes_before_software_of_the_same_rank() -> None:
    """As nvh264dec beside avdec_h264; one that GStreamer itself ranks below stays there."""
    code = """
from edge.sources.gst import gstreamer
from edge.sources.source import Source
Gst = gstreamer()

def register(name, kind, rank):
    kinds = {"__gstmetadata__": (name, f"Codec/Decoder/{kind}", name, "a test")}
    Gst.Element.register(None, name, rank, type(name, (Gst.Element,), kinds))

class Passes(Gst.Bin):  # and says that it decodes, in hardware
    __gstmetadata__ = ("passes", "Codec/Decoder/Video/Hardware", "passes", "a test")

    def __init__(self):
        super().__init__()
        inner = Gst.ElementFactory.make("identity")
        self.add(inner)
        for name in ("sink", "src"):
            self.add_pad(Gst.GhostPad.new(name, inner.get_static_pad(name)))

Gst.Element.register(None, "zz_passes", 0, Passes)
register("zz_hard", "Video/Hardware", Gst.Rank.PRIMARY)
register("zz_distrusted", "Video/Hardware", Gst.Rank.SECONDARY)
register("zz_soft", "Video", Gst.Rank.PRIMARY)
with Source("gst:videotestsrc ! zz_passes", info=print):
    pass
print(*(int(Gst.ElementFactory.find(f"zz_{name}").get_rank()) - int(Gst.Rank.PRIMARY)
        for name in ("hard", "soft", "distrusted")))
"""
    done = python(code)
    said, ranks = done.stdout.splitlines()
    assert said.endswith(": decoded by zz_passes, in hardware")
    assert ranks == "1 0 -128", done.stderr


def test_what_a_pipeline_complains_of_tells_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    for uri in ("gst:videotestsrc pattern=${SECRET}", "${SECRET}://x", "test://${SECRET}!"):
        with pytest.raises(SourceError) as caught:
            launch(Camera(uri), resolve(uri), platform="pc")
        assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_a_camera_whose_element_is_missing_leaves_nothing_however_often_it_is_tried() -> None:
    before = descriptors()
    for _ in range(10):
        with pytest.raises(SourceError, match="no element nothing"):
            launch(Camera(uri := "gst:videotestsrc ! nothing"), resolve(uri), platform="pc")
    assert descriptors() < before + 10


def test_no_text_of_a_pipeline_holds_the_password() -> None:
    built = launch(Camera(uri := "rtsp://joe:s3cret@h/x"), resolve(uri), platform="pc")
    camera = built.get_by_name("edge-camera")
    assert camera.get_property("location") == "rtsp://h/x"
    assert camera.get_property("user-pw") == "s3cret"


@pytest.mark.parametrize(
    ("text", "camera"),
    [
        ("v4l2src device=/dev/none ! videoconvert", True),
        ("rtspsrc location=rtsp://127.0.0.1:9/x ! decodebin", True),
        ("( videotestsrc is-live=true ) ! videoconvert", True),
        ("filesrc location=/nope.mp4 ! decodebin", False),
        ("videotestsrc ! identity sync=true", False),
    ],
)
def test_a_source_says_that_it_is_a_camera_before_it_is_there(text: str, camera: bool) -> None:
    built = launch(Camera(uri := f"gst:{text}"), resolve(uri), platform="pc")
    built.set_state(gstreamer().State.PAUSED)
    assert has_camera(built) == camera
    built.set_state(gstreamer().State.NULL)


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_jpegs_keep_all_their_colour(subsampling: str, tmp_path: Path) -> None:
    """Most USB cameras send 4:2:2; jpegdec of GStreamer 1.22 drops half of its colour."""
    photo = Image.fromarray(load_sample_images().images[1]).crop((0, 0, 320, 240))
    path = tmp_path / "photo.jpg"
    photo.save(path, quality=95, subsampling=subsampling)
    with Source(path.as_uri()) as source:
        frame = source.read(10)
    assert frame is not None
    difference = np.abs(frame.pixels.astype(int) - np.asarray(Image.open(path)))
    assert difference.max() <= 4


@pytest.fixture(scope="module")
def two_videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an MP4 and a Matroska file of two videos, 64 and 96 pixels wide."""
    folder, encoded = tmp_path_factory.mktemp("two"), "x264enc ! h264parse ! both."
    shown = "videotestsrc num-buffers=3 ! video/x-raw,format=I420,height=48"
    for muxer, name in (("matroskamux", "two.mkv"), ("mp4mux", "two.mp4")):
        convert(
            f"{muxer} name=both ! filesink location={folder / name} "
            f"{shown},width=64 ! {encoded} {shown},width=96 ! {encoded}"
        )
    return folder


def _not_default(data: bytes, number: int) -> bytes:
    """A file of GStreamer's muxers whose video `number` is not to be played by default."""
    if data[4:8] == b"ftyp":
        place = [found.start() for found in re.finditer(b"tkhd", data)][number - 1] + 7
        return data[:place] + bytes([data[place] & ~1]) + data[place + 1 :]
    # Matroska: FlagDefault=0 and padding (RFC 9559: 0x88; RFC 8794: Void, 0xEC) for the name.
    name = b"\x53\x6e\x86Video\0"
    place = [found.start() for found in re.finditer(name, data)][number - 1]
    return data[:place] + b"\x88\x81\x00\xec\x84\0\0\0\0" + data[place + len(name) :]


@pytest.mark.parametrize("name", ["two.mkv", "two.mp4"])
@pytest.mark.parametrize(
    ("not_default", "read"), [((), 1), ((1,), 2), ((2,), 1), ((1, 2), 1)], ids=str
)
def test_the_default_of_two_videos_is_read(
    name: str, not_default: tuple[int, ...], read: int, two_videos: Path, tmp_path: Path
) -> None:
    path, said, data = tmp_path / name, list[str](), (two_videos / name).read_bytes()
    for number in reversed(not_default):
        data = _not_default(data, number)
    path.write_bytes(data)
    with Source(path.as_uri(), info=said.append) as source:
        frames = some(source, 10)
    assert [frame.surface.layout.width for frame in frames] == [{1: 64, 2: 96}[read]] * 3
    assert f"{source.name} has 2 videos; number {read} is read" in said


def test_a_video_without_times_cannot_be_paced(jpegs: list[bytes], tmp_path: Path) -> None:
    path = tmp_path / "raw.mjpeg"
    path.write_bytes(b"".join(jpegs))
    with Source(path.as_uri()) as source:
        assert len(some(source, 10)) == 10
    paced = Source(Camera(path.as_uri(), realtime=True))
    with paced, pytest.raises(SourceError, match="no times, so --realtime cannot pace them"):
        some(paced, 10)


def test_files_that_gstreamer_reads_wrongly_are_refused(tmp_path: Path) -> None:
    image = Image.new("RGB", (8, 8))
    image.save(tmp_path / "a.gif", save_all=True, append_images=[image])
    with pytest.raises(SourceError, match=r"is a GIF: .*; convert it: ffmpeg"):
        Source((tmp_path / "a.gif").as_uri())
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8, 3), np.uint16))
    with pytest.raises(SourceError, match=r"16 bits per channel.*edge classify ENGINE"):
        Source((tmp_path / "a.png").as_uri())
    image.save(tmp_path / "b.png")
    with Source((tmp_path / "b.png").as_uri()) as source:
        assert source.read(10) is not None
