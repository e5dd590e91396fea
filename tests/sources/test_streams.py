"""An RTSP camera of several streams: the first video of its description is the one, every time."""

from __future__ import annotations

import gc
from contextlib import closing, suppress

import pytest

from edge.errors import SourceError
from edge.sources.camera import Camera, Transport
from edge.sources.launch import _FirstVideo
from edge.sources.source import Source
from tests.sources.streams import camera_of


def _open(camera: Camera) -> Source:
    """The opened source. GStreamer's server sends nothing to one in about 700 clients over UDP.

    It answers PLAY, but tcpdump shows no packet; such a camera is opened again, as a feed does.
    """
    for _ in range(4):
        with suppress(SourceError):
            return Source(camera).open()
    return Source(camera).open()


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_of_several_videos_the_first_is_taken_and_nothing_else_asked_for(
    transport: Transport,
) -> None:
    """Whichever came first was taken: one name, and another scene after a reconnect.

    The first is the larger one, whose pictures take longer to come.
    """
    sizes = []
    with camera_of("sound", "640x480", "320x240") as (url, asked):
        for _ in range(4):
            with closing(_open(Camera(url, transport=transport))) as source:
                frame = source.read(20)
                assert frame is not None
                sizes.append((frame.surface.layout.width, frame.surface.layout.height))
    assert sizes == [(640, 480)] * 4
    assert set(asked) == {"1"}
    gc.collect()
    assert not [thing for thing in gc.get_objects() if isinstance(thing, _FirstVideo)]


def test_a_camera_that_offers_no_video_says_where_to_look() -> None:
    with camera_of("sound") as (url, _), pytest.raises(SourceError) as caught:
        Source(url).open()
    assert "sends no video over this transport; try again" in str(caught.value)
    assert "another path" in caught.value.hint
