"""Parsing of durations."""

from __future__ import annotations

import pytest

from edge.errors import OptionError
from edge.outputs.record.durations import seconds


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("2s", 2),
        ("0.5s", 0.5),
        (".5 s", 0.5),
        ("500ms", 0.5),
        ("1.5m", 90),
        ("2min", 120),
        ("1h", 3600),
    ],
)
def test_a_duration_is_a_number_and_a_unit(text: str, length: float) -> None:
    assert seconds(text) == pytest.approx(length)


@pytest.mark.parametrize(
    "text",
    ["", "2", "s", "-1s", "1e3s", "two s", "1d", "0s", "1.2.3s", "nan s", f"{'9' * 400}s"],
)
def test_anything_else_is_refused_with_examples(text: str) -> None:
    with pytest.raises(OptionError, match=r"is not a duration; write 500ms, 2s, 1.5m or 1h"):
        seconds(text)
