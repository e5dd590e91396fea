"""What a run makes of pipelines of the user's own, on real GStreamer."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.errors import SourceError
from edge.sources.conversions import conversions
from edge.sources.frame import Frame
from edge.sources.gst import gstreamer
from edge.sources.source import Source
from tests.streams import launch


def frames_of(pipeline: str, said: list[str] | None = None) -> list[Frame]:
    with Source(f"gst:{pipeline}", info=([] if said is None else said).append) as source:
        return list(iter(lambda: source.read(10), None))


def test_a_pipeline_may_have_names_of_its_own() -> None:
    frames = frames_of(
        "videotestsrc num-buffers=9 ! tee name=t t. ! queue ! fakesink name=sink "
        "t. ! queue ! identity name=gate"
    )
    assert [frame.number for frame in frames] == list(range(9))


@pytest.mark.parametrize("format", ["P010_10LE", "NV16", "GRAY16_LE"])
def test_what_the_cpu_converts_is_said_once(format: str) -> None:
    said: list[str] = []
    frames = frames_of(f"videotestsrc num-buffers=5 ! video/x-raw,format={format}", said)
    (text,) = said
    assert f"the CPU converts each frame from {format} to " in text
    assert text.startswith("gst:videotestsrc")
    assert {frame.surface.layout.format for frame in frames} == {text.split()[-3].rstrip(",")}


@pytest.mark.parametrize("format", ["NV12", "RGB", "GRAY8", "YUY2"])
def test_of_pictures_that_are_read_as_they_are_nothing_is_said(format: str) -> None:
    said: list[str] = []
    frames_of(f"videotestsrc num-buffers=5 ! video/x-raw,format={format}", said)
    assert said == []


def test_what_a_jetson_s_own_hardware_converts_is_none_of_the_cpu_s() -> None:
    caps = gstreamer().Caps.from_string
    made, read = caps("video/x-raw(memory:NVMM),format=P010_10LE"), caps("video/x-raw,format=NV12")
    assert list(conversions("csi://0", made, read)) == []


INTERLACED = (
    "videotestsrc num-buffers=8 ! video/x-raw,format=NV12,width=64,height=48,framerate=60/1 ! "
    "interlace field-pattern=1:1"
)
ALTERNATE = "video/x-raw(format:Interlaced),interlace-mode=alternate"


def test_two_fields_in_a_picture_are_read_as_one_and_that_is_said() -> None:
    said: list[str] = []
    assert frames_of(INTERLACED, said)
    (text,) = said
    assert "interlaced and are used as they are" in text
    assert "deinterlace ! videoconvert" in text
    said.clear()
    assert frames_of(f"{INTERLACED} ! deinterlace ! videoconvert", said)
    assert said == []


def test_fields_one_by_one_are_refused_by_name_and_the_mend_mends(tmp_path: Path) -> None:
    recorded = tmp_path / "fields.gdp"
    launch(f"{INTERLACED} ! {ALTERNATE} ! gdppay ! filesink location={recorded}")
    # Before it runs nobody knows what is in the file; of the other the pipeline tells.
    for pipeline in (f"filesrc location={recorded} ! gdpdepay", f"{INTERLACED} ! {ALTERNATE}"):
        with pytest.raises(SourceError, match="single fields") as caught:
            frames_of(pipeline)
        hint = caught.value.hint.partition("gst:... ")[2]
        assert frames_of(f"{pipeline} {hint}")


def test_a_run_says_it_among_its_words_and_once(edge_command, built_engine, tmp_path) -> None:
    """Of a 10-bit film, which is opened anew each time that it begins again."""
    film = tmp_path / "film.mp4"
    launch(
        "videotestsrc num-buffers=3 ! video/x-raw,format=I420_10LE,width=64,height=48 ! "
        f"x264enc ! mp4mux ! filesink location={film}"
    )
    words = ["--backend", "onnxruntime", "--source", film, "--loop", "--frames", "7"]
    done = edge_command("run", built_engine, *words)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 7
    said = " ".join(done.stderr.split())
    assert said.count("film.mp4: the CPU converts each frame from I420_10LE to") == 1
