"""A camera that plays, and of which nothing comes out: when that is noticed, and when it is not."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from edge.errors import SilenceError
from edge.sources.camera import Camera
from edge.sources.gst import gstreamer
from edge.sources.source import Source

FAST = "gst:videotestsrc is-live=true ! video/x-raw,width=64,height=48,framerate=50/1"


@contextmanager
def held_up(source: Source) -> Iterator[None]:
    """What is behind the gate takes nothing any more, as a converter that hangs."""
    kind, passed = gstreamer().PadProbeType, gstreamer().PadProbeReturn.OK
    exit_ = source._gate.get_parent_element().get_static_pad("src")
    probe = exit_.add_probe(kind.BLOCK | kind.BUFFER, lambda *_: passed)
    yield
    exit_.remove_probe(probe)


@pytest.mark.parametrize("every", [1, 20])
def test_a_standstill_behind_the_gate_is_silence(every: int) -> None:
    """Frames go on to come to it: those are no life, nor are those between that nobody wants."""
    with Source(Camera(FAST, every=every)) as source:
        assert source.read(20) is not None
        end = threading.Timer(20, source.stop)
        end.start()
        with held_up(source), pytest.raises(SilenceError, match="decoded, but none was converted"):
            while source.read(1.5) is not None:
                pass
        end.cancel()


def test_frames_that_nobody_wants_are_no_silence() -> None:
    """One a minute is wanted: between two of them the camera lives."""
    with Source(Camera(FAST, max_fps=1 / 60)) as source:
        assert source.read(20) is not None
        timer = threading.Timer(4, source.stop)
        timer.start()
        assert source.read(2) is None, "it was stopped, and was not silent"
        assert not timer.is_alive()
