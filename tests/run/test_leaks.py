"""Nothing that an opening took is kept: a camera may come and go for years.

Resident memory cannot show it, since a heap of many threads grows and shrinks by itself. What was
asked of it and never given back can: of a leak there is one such piece, or more, for each opening.
"""

from __future__ import annotations

import gc
from collections import Counter
from pathlib import Path

import memray
import pytest

from edge.errors import SourceError
from edge.sources.camera import Camera
from edge.sources.source import Source

BEFORE, OPENINGS = 20, 30  # caches fill; then each piece is counted
PICTURE = "video/x-raw,format=NV12,width=64,height=48,framerate=1000/1"


def play(pipeline: str) -> None:
    """To its end, or to the error that it has."""
    try:
        with Source(Camera(f"gst:{pipeline}", "camera")) as source:
            while source.read(20.0) is not None:
                pass
    except SourceError:
        assert "error-after" in pipeline or "nowhere" in pipeline


@pytest.mark.slow
@pytest.mark.parametrize(
    "pipeline",
    [
        f"videotestsrc num-buffers=5 ! {PICTURE}",
        f"videotestsrc is-live=true num-buffers=5 ! {PICTURE}",
        f"videotestsrc is-live=true ! {PICTURE} ! identity error-after=5",
        "v4l2src device=/dev/nowhere",
    ],
    ids=["a film", "a camera that hangs up", "one that breaks", "one that never comes"],
)
def test_no_opening_leaves_anything_behind(pipeline: str, tmp_path: Path) -> None:
    for _ in range(BEFORE):
        play(pipeline)
    gc.collect()
    with memray.Tracker(tmp_path / "pieces", native_traces=True):
        for _ in range(OPENINGS):
            play(pipeline)
        gc.collect()
    kept = Counter[str]()
    with memray.FileReader(tmp_path / "pieces") as pieces:
        for piece in pieces.get_leaked_allocation_records(merge_threads=True):
            way = piece.hybrid_stack_trace(max_stacks=16)
            kept[" < ".join(function for function, _, _ in way)] += piece.n_allocations
    assert not {way: count for way, count in kept.items() if count >= OPENINGS}
