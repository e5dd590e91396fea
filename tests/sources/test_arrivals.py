from types import SimpleNamespace
from typing import Any

import pytest

from edge.sources.arrivals import arrival_times
from edge.sources.probes import NO_TIME, Buffer


class Pipeline:
    """One that has run for `now` nanoseconds."""

    def __init__(self) -> None:
        self.now = 0

    def get_pipeline_clock(self) -> Any:
        return SimpleNamespace(get_time=lambda: 1_000_000 + self.now)

    def get_base_time(self) -> int:
        return 1_000_000


def times(*arrived: tuple[int, int]) -> list[int]:
    """What frames of these times, seen at these moments, get."""
    pipeline, given = Pipeline(), []
    at_parser = arrival_times(pipeline)
    for stamp, pipeline.now in arrived:
        buffer = Buffer(pts=stamp)
        assert at_parser(buffer)
        given.append(buffer.pts)
    return given


@pytest.mark.parametrize(
    ("arrived", "expected"),
    [
        (((5, 9), (15, 19)), [5, 15]),
        (((5, 9), (NO_TIME, 10), (NO_TIME, 12)), [5, 10, 12]),
        (((NO_TIME, 3),), [3]),
        # The block that ends one frame begins the next one.
        (((5, 9), (NO_TIME, 12), (11, 14)), [5, 12, 14]),
        (((5, 5), (5, 5), (NO_TIME, 5)), [5, 6, 7]),  # a clock that has not moved
    ],
)
def test_every_frame_is_later_than_the_one_before(
    arrived: tuple[tuple[int, int], ...], expected: list[int]
) -> None:
    assert times(*arrived) == expected


def test_a_pipeline_that_is_gone_changes_nothing() -> None:
    pipeline = Pipeline()
    at_parser = arrival_times(pipeline)
    del pipeline
    buffer = Buffer(pts=NO_TIME)
    assert at_parser(buffer)
    assert buffer.pts == NO_TIME
