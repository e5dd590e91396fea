"""Shortened in `make test`; `make chaos` runs all of it, and keeps what it measured."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos import reader
from tests.chaos.measure import WHOLE, Fault

AGAIN_WITHIN = 3.0 if WHOLE else 30.0  # seconds; what runs beside `make test` has its own needs


@pytest.fixture(scope="session")
def stamp_reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The engine whose answer is what a picture shows."""
    return reader.build(tmp_path_factory.mktemp("engines") / "stamp-reader")


@pytest.fixture(scope="session")
def times() -> Callable[[int, int], int]:
    """times(whole, short): how often a fault strikes, or for how many seconds."""
    return lambda whole, short: whole if WHOLE else short


@pytest.fixture(scope="session")
def keep() -> Callable[[Fault], None]:
    """See that a fault did no harm, and keep its figures in the file that EDGE_CHAOS_OUT names."""

    def judge(fault: Fault) -> None:
        figures = fault.figures()
        if path := os.environ.get("EDGE_CHAOS_OUT"):
            kept = json.loads(Path(path).read_text())
            kept["faults"][fault.name] = figures
            Path(path).write_text(json.dumps(kept, indent=1) + "\n")
        print(json.dumps({fault.name: figures}))
        assert fault.exit in (0, None)
        if (truth := fault.truth) is not None:
            assert truth.wrong == 0
            off = truth.off_ms["p50"]
            assert off is not None
            most = (100 if WHOLE else 1000) + fault.slack * 1e3
            assert off < most, "the ages told are those of the pictures"
            if not fault.damages:  # else a decoder shows again, or in part, what it had
                assert (truth.older, truth.repeated, truth.damaged) == (0, 0, 0)
                # Some is held up between two processes of a busy machine.
                assert truth.old <= 1 + truth.frames / (1000 if WHOLE else 100), truth.oldest
        if fault.back:
            assert figures["back_s"]["p99"] <= AGAIN_WITHIN

    return judge
