"""Which frames of a camera are wanted, and what cameras are called."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.sources.camera import Camera, Thinning, unused_options, with_unique_names


def wanted(thinning: Thinning, fps: float, count: int) -> list[int]:
    return [n for n in range(count) if thinning.wants(n, n / fps)]


def test_all_are_wanted():
    assert wanted(Thinning(), 30, 5) == [0, 1, 2, 3, 4]


def test_each_third():
    assert wanted(Thinning(every=3), 30, 8) == [0, 3, 6]


def test_so_many_a_second():
    assert wanted(Thinning(max_fps=10), 30, 10) == [0, 3, 6, 9]
    assert wanted(Thinning(max_fps=0.5), 1, 6) == [0, 2, 4]


def test_both():
    assert wanted(Thinning(every=2, max_fps=10), 30, 13) == [0, 4, 6, 10, 12]


def test_how_far_apart_the_wanted_frames_are():
    assert Thinning().spacing(0.1) == 0.1
    assert Thinning(every=3).spacing(0.1) == pytest.approx(0.3)
    assert Thinning(max_fps=2).spacing(0.1) == 0.5
    assert Thinning(max_fps=20).spacing(0.1) == 0.1


@given(fps=st.floats(1, 240), most=st.floats(0.1, 240))
def test_the_rate_is_the_one_asked_for(fps: float, most: float):
    seconds = 60 / min(fps, most)
    count = len(wanted(Thinning(max_fps=most), fps, int(seconds * fps)))
    assert count <= seconds * most + 2
    assert count >= min(seconds * most, seconds * fps) * 0.95 - 2


@pytest.mark.parametrize("jump", [-1000.0, 1000.0])
def test_a_clock_that_jumps_stops_nothing(jump: float):
    thinning = Thinning(max_fps=10)
    assert wanted(thinning, 10, 5) == [0, 1, 2, 3, 4]
    assert thinning.wants(5, jump)
    assert not thinning.wants(6, jump + 0.01)
    assert thinning.wants(7, jump + 0.1)


def test_names_are_the_uris_without_credentials_and_never_twice():
    cameras = [Camera("rtsp://joe:pw@h/s"), Camera("rtsp://joe:pw@h/s"), Camera("test://a", "door")]
    assert [camera.name for camera in with_unique_names(cameras)] == [
        "rtsp://***@h/s",
        "rtsp://***@h/s#2",
        "door",
    ]


def test_a_source_that_cannot_be_has_a_name_without_a_password():
    """A dry run says what is wrong with it, and goes on to the next."""
    cameras = [Camera("nothing.mp4"), Camera("rtsp:/joe:pw@h/s")]
    assert [camera.name for camera in with_unique_names(cameras)] == [
        "nothing.mp4",
        "rtsp:/***@h/s",
    ]


RTSP, FILM = "rtsp://door/1", "file:///a.mp4"


@pytest.mark.parametrize(
    ("uris", "asked", "nothing"),
    [
        ([FILM], {"loop": True, "realtime": True}, []),
        ([RTSP], {"loop": True, "realtime": True}, ["realtime", "loop"]),
        ([RTSP, FILM], {"loop": True}, []),
        (["gst:filesrc location=a.mp4 ! decodebin"], {"loop": True, "transport": "udp"}, []),
        (["${CAMERA}"], {"loop": True, "transport": "udp"}, []),
        ([FILM], {"transport": "udp", "credentials": "netrc"}, ["transport", "credentials"]),
        ([RTSP], {"transport": "udp", "credentials": "netrc"}, []),
        (["http://door/stream"], {"transport": "udp", "credentials": "netrc"}, ["transport"]),
        (["RTSP://door/1"], {"transport": "udp", "loop": True}, ["loop"]),
        ([RTSP], {"every": 2, "stall": 3.0}, []),
    ],
)
def test_options_that_mean_nothing_to_any_source(uris, asked, nothing):
    assert unused_options([Camera(uri, **asked) for uri in uris]) == nothing
