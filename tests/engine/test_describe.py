"""What commands print about engines and runs."""

from __future__ import annotations

import pytest

from edge.engine.describe import summary

TIMES = {"p50": 1.0, "p90": 2.0, "p99": None}


@pytest.mark.parametrize(
    ("frames", "stale", "reconnects", "text"),
    [
        (1, 0, 0, "1 frame, 0 dropped, 30.0 fps; "),
        (2, 3, 0, "2 frames, 0 dropped, 3 stale, 30.0 fps; "),
        (2, 0, 1, "2 frames, 0 dropped, 1 reconnect, 30.0 fps; "),
        (2, 1, 2, "2 frames, 0 dropped, 1 stale, 2 reconnects, 30.0 fps; "),
    ],
)
def test_the_last_line_of_a_run(frames: int, stale: int, reconnects: int, text: str) -> None:
    line = summary(
        {
            **{"frames": frames, "dropped": 0, "stale": stale, "reconnects": reconnects},
            **{"fps": 30.0, "age_ms": TIMES, "latency_ms": TIMES, "backend": "onnxruntime"},
        }
    )
    assert line == f"{text}latency p50 1.0 ms p99 -, age p50 1.0 ms p99 -; onnxruntime"
