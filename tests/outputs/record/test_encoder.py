"""The encoder: the best one that works on this machine; why better ones do not is reported."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edge.errors import MissingPackage, StorageError
from edge.outputs.record import encoder as encoder_module
from edge.outputs.record import video_writer
from edge.outputs.record.encoder import Encoder, buffer_of, encoder
from edge.outputs.record.overlay import captioned
from edge.outputs.record.video_writer import VideoWriter
from edge.preprocess.surface import FORMATS, Layout, Surface
from edge.sources.gst import gstreamer
from tests.conftest import descriptors

WORKS = "x264enc tune=zerolatency speed-preset=superfast"


@pytest.fixture
def encoders(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """The table of encoders, to be filled by the test."""
    table: dict[str, str] = {}
    monkeypatch.setattr(encoder_module, "_ENCODERS", table)
    encoder.cache_clear()
    yield table
    encoder.cache_clear()


def test_this_machine_has_a_working_encoder() -> None:
    assert encoder().name in encoder_module._ENCODERS


def test_encoders_that_are_installed_but_do_not_work_are_skipped_and_named(
    encoders: dict[str, str],
) -> None:
    encoders["nvv4l2h264enc"] = "nvv4l2h264enc"
    encoders["identity"] = f"{WORKS} ! identity error-after=1"
    encoders["openh264enc"] = "openh264enc such-an-option=1"
    encoders["x264enc"] = WORKS
    found = encoder()
    assert found.name == "x264enc"
    assert "nvv4l2h264enc is not installed" in found.reason
    assert "identity fails (" in found.reason
    assert "openh264enc cannot be used (" in found.reason


def test_without_a_working_encoder_the_packages_are_named(encoders: dict[str, str]) -> None:
    encoders["nvh264enc"] = "nvh264enc"
    with pytest.raises(MissingPackage, match=r"no H.264 encoder works here.*sudo apt install"):
        encoder()


def test_a_failed_trial_encode_leaks_no_descriptors(encoders: dict[str, str]) -> None:
    encoders["openh264enc"] = "openh264enc ! no-such-element"
    before = descriptors()
    for _ in range(10):
        with pytest.raises(MissingPackage, match="openh264enc cannot be used"):
            encoder()
    assert descriptors() < before + 10


def test_a_video_that_cannot_be_created_leaks_no_descriptors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(video_writer._MUXERS, ".mkv", "no-such-element")
    before = descriptors()
    for _ in range(10):
        with pytest.raises(StorageError, match="cannot write"):
            VideoWriter(tmp_path / "video.mkv", Layout("I420", 320, 240), Encoder("", WORKS, ""))
    assert descriptors() < before + 10


@pytest.mark.parametrize("form", ["Y444", "GRAY8", "RGB"])
def test_the_video_is_in_4_2_0_which_all_players_support(form: str, tmp_path: Path) -> None:
    sizes = (FORMATS[form].plane_size(plane, 320, 240) for plane in range(FORMATS[form].planes))
    planes = tuple(np.full(size, 128, np.uint8) for size in sizes)
    picture = captioned(Surface(Layout(form, 320, 240), planes), ("a label",))
    path = tmp_path / "video.mkv"
    writer = VideoWriter(path, picture.layout, encoder())
    writer.add(picture, 0.0)
    writer.close()
    gst = gstreamer()
    reader = gst.parse_launch(
        f"filesrc location={path} ! matroskademux ! h264parse ! video/x-h264 ! appsink name=sink"
    )
    reader.set_state(gst.State.PLAYING)
    caps = reader.get_by_name("sink").try_pull_sample(20 * gst.SECOND).get_caps()
    reader.set_state(gst.State.NULL)
    assert caps.get_structure(0).get_string("chroma-format") == "4:2:0"


def test_encoder_threads_run_at_a_lower_priority_than_inference(tmp_path: Path) -> None:
    picture = captioned(Surface.from_rgb(np.zeros((240, 320, 3), np.uint8)), ("a label",))
    before = set(Path("/proc/self/task").iterdir())
    writer = VideoWriter(tmp_path / "video.mkv", picture.layout, encoder())
    began, sink = threading.Event(), writer._pipeline.get_by_name("file").get_static_pad("sink")
    sink.add_probe(gstreamer().PadProbeType.BUFFER, lambda *_: (began.set(), 1)[1])
    for number in range(5):
        writer.add(picture, number / 30)
    assert began.wait(60)
    threads = set(Path("/proc/self/task").iterdir()) - before
    encoding = [thread for thread in threads if (thread / "comm").read_text().startswith("source")]
    assert encoding
    for thread in encoding:
        assert os.getpriority(os.PRIO_PROCESS, int(thread.name)) >= 5
    writer.close()


def test_a_buffer_holds_the_planes_in_order() -> None:
    planes = (np.full((4, 8), 1, np.uint8), np.full((2, 8), 2, np.uint8))
    buffer = buffer_of(Surface(Layout("NV12", 8, 4), planes))
    assert buffer.extract_dup(0, buffer.get_size()) == bytes([1] * 32 + [2] * 16)
