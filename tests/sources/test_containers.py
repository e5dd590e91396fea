"""Films that were cut off in a copy are named, by their own headers, after their last frame."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.errors import SourceError
from edge.sources.containers import missing_bytes
from edge.sources.source import Source
from tests.streams import launch


def frames_of(path: Path) -> int:
    with Source(str(path)) as source:
        return sum(1 for _ in iter(lambda: source.read(10), None))


@pytest.mark.parametrize("muxer", ["matroskamux", "mp4mux faststart=true"])
def test_a_file_that_was_cut_off_is_named_after_its_frames(muxer: str, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    launch(
        "videotestsrc num-buffers=60 ! video/x-raw,framerate=30/1 ! x264enc key-int-max=15 ! "
        f"{muxer} ! filesink location={whole}"
    )
    assert frames_of(whole) == 60
    assert missing_bytes(whole) == 0
    size = whole.stat().st_size
    cut.write_bytes(whole.read_bytes()[: size // 2])
    assert missing_bytes(cut) == size - size // 2
    seen = 0
    with (
        Source(str(cut)) as source,
        pytest.raises(SourceError, match=r"cut is truncated: its last \d+ bytes are missing"),
    ):
        while source.read(5) is not None:
            seen += 1
    assert seen > 2


def test_sound_that_is_longer_than_the_picture_is_no_cut(tmp_path: Path) -> None:
    film = tmp_path / "film.mkv"
    launch(
        "videotestsrc num-buffers=30 ! video/x-raw,framerate=30/1 ! x264enc ! mux. "
        "audiotestsrc num-buffers=150 ! audioconvert ! vorbisenc ! mux. "
        f"matroskamux name=mux ! filesink location={film}"
    )
    assert frames_of(film) == 30
