"""The soak test detects growth, and reports no growth without cause."""

from __future__ import annotations

import threading
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from edge.engine.engine import Engine
from edge.run.interfaces import Result, Sink

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    from scripts import soak

    return soak


@pytest.fixture
def samples(script):
    """make(growth): samples of 200,000 frames; memory wanders by 1 MB, and grows if asked to."""

    def make(growth=0.0, files=0, threads=0, warm_up=0.0):
        rng = np.random.default_rng(1)
        frames = np.arange(200, 200_001, 200)
        wander = 0.0
        made = []
        for number in frames.tolist():
            wander = 0.7 * wander + rng.normal(0, 2e5)
            filling = warm_up * min(number / 30_000, 1)
            memory = int(3e8 + wander + growth * number + filling)
            late = number > 120_000
            busy = 4 * (rng.random() < 0.2)  # while a source is being opened
            made.append(script.Sample(number, memory, 20 + busy + files * late, 9 + threads * late))
        return made

    return make


def test_a_run_with_constant_needs_does_not_grow(script, samples):
    verdict = script.Verdict.of(samples())
    assert not verdict.grows
    assert verdict.rss.low < 0 < verdict.rss.high
    assert (verdict.files, verdict.threads) == (0, 0)


def test_growth_during_the_warm_up_is_ignored(script, samples):
    assert not script.Verdict.of(samples(warm_up=5e7)).grows


@pytest.mark.parametrize("leak", [{"growth": 20.0}, {"files": 1}, {"threads": 1}])
def test_growth_of_memory_files_or_threads_is_detected(script, samples, leak):
    assert script.Verdict.of(samples(**leak)).grows


def test_the_confidence_interval_contains_the_true_slope(script, samples):
    rss = script.Verdict.of(samples(growth=20.0)).rss
    assert rss.low < 20 < rss.high
    assert rss.high - rss.low < 10


@pytest.mark.slow
def test_a_real_run_reconnects_its_sources_and_a_leak_is_detected(script, built_engine, tmp_path):
    """Two thousand frames; an additional sink keeps some bytes of each, as a leak would."""

    class Leak(Sink):
        kept: list[bytes] = []  # noqa: RUF012

        def write(self, result: Result) -> None:
            self.kept.append(bytes(range(200)) * 500)

    with Engine.open(built_engine, "onnxruntime", 1) as engine:
        samples, openings, summary = script.soak(engine, 2000, 100, Leak())
    assert summary.frames == 2000
    assert [sample.frames for sample in samples] == list(range(2, 2001, 2))
    assert set(openings) == {"film", "leaves", "breaks", "raises"}
    assert min(openings.values()) >= 2
    verdict = script.Verdict.of(samples)
    assert verdict.rss.slope == pytest.approx(100_000, rel=0.3)
    script.plot(samples, verdict, tmp_path / "soak.png")
    assert (tmp_path / "soak.png").read_bytes().startswith(b"\x89PNG")
    assert [t for t in threading.enumerate() if t.name.startswith("reader of")] == []
