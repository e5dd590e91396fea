"""What a run makes of pipelines of the user's own, on real GStreamer."""

from __future__ import annotations

from edge.run.camera import Source
from edge.run.frames import Frame


def frames_of(pipeline: str) -> list[Frame]:
    with Source(f"gst:{pipeline}") as source:
        return list(iter(lambda: source.read(10), None))


def test_a_pipeline_may_have_names_of_its_own() -> None:
    frames = frames_of(
        "videotestsrc num-buffers=9 ! tee name=t t. ! queue ! fakesink name=sink "
        "t. ! queue ! identity name=gate"
    )
    assert [frame.number for frame in frames] == list(range(9))
