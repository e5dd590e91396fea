"""Statistics of the audited frames of each source, and the tests for deviations.

A few frames are not enough for a warning: a healthy INT8 engine, too, sometimes names another class
than FP32.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from edge.outputs.audit.auditor import LumaRange, Verdict
from edge.run.summary import Histogram

__all__ = ["MAX_LEVELS", "MIN_AGREEMENT", "Deviation", "SourceAudit"]

Deviation: TypeAlias = Literal["labels", "input", "range"]

MIN_AGREEMENT = 0.95  # share of a source's frames on which engine and FP32 must agree
MAX_LEVELS = 3.0  # grey levels; rounding causes one or two, a wrong matrix ten or more
_RECENT = 100  # audited frames of the sliding window
_SIGNIFICANCE = 1e-3  # probability of so few agreements if the true share is `MIN_AGREEMENT`
# Shares of luma samples outside 16..235: above the first, more than compression artefacts explain;
# below the second, so few that the stream has limited range.
_OUTSIDE, _RINGING = 0.01, 0.001
_RANGE_FRAMES = 10  # frames within 16..235 before a declaration of full range is doubted

_RESOLVED: dict[Deviation, str] = {
    "labels": "the engine and the FP32 graph agree again",
    "input": "the engine's input matches the reference again",
    "range": "the luma range matches its declaration again",
}


@dataclass
class SourceAudit:
    """The audit results of one source since the start of the run. Written by one thread, read by
    any.

    source       its name
    frames       number of audited frames
    agreed       number of audited frames on which engine and FP32 graph agree (`Head.agree`)
    skipped      times that a frame was due while another was being audited; a later one was taken
    lost         number of frames that were taken but got no verdict
    probability  largest difference of a class's probability per frame, in percentage points
    largest      largest difference between the engine's input and the reference's per frame, in
                 grey levels 0 to 255
    mean         mean difference between the two inputs per frame, in grey levels 0 to 255
    deviations   the current deviations, as messages
    """

    source: str
    frames: int = 0
    agreed: int = 0
    skipped: int = 0
    lost: int = 0
    probability: Histogram = field(default_factory=Histogram)
    largest: Histogram = field(default_factory=Histogram)
    mean: Histogram = field(default_factory=Histogram)
    deviations: dict[Deviation, str] = field(default_factory=dict)
    _recent: deque[bool] = field(default_factory=lambda: deque(maxlen=_RECENT))
    _luma: deque[LumaRange] = field(default_factory=lambda: deque(maxlen=_RANGE_FRAMES))

    def add(self, verdict: Verdict, full_range: bool) -> list[str]:
        """Count a verdict. Return messages about deviations that appeared or were resolved.

        full_range: what the frame's colorimetry declares.
        """
        self.frames += 1
        self.agreed += verdict.agrees
        self.probability.add(verdict.probability)
        self.largest.add(verdict.largest)
        self.mean.add(verdict.mean)
        self._recent.append(verdict.agrees)
        found: dict[Deviation, str | None] = {"labels": self._labels(), "input": _input(verdict)}
        if verdict.luma is not None:
            self._luma.append(verdict.luma)
            found["range"] = self._range(full_range)
        changes = []
        for kind, deviation in found.items():
            if deviation is None and kind in self.deviations:
                changes.append(f"{self.source}: {_RESOLVED[kind]}")
                del self.deviations[kind]
            if deviation is not None:
                if kind not in self.deviations:
                    changes.append(f"{self.source}: {deviation}")
                self.deviations[kind] = deviation
        return changes

    def merge(self, other: SourceAudit) -> None:
        """Add the counts and histograms of `other`, but not its deviations."""
        self.frames += other.frames
        self.agreed += other.agreed
        self.skipped += other.skipped
        self.lost += other.lost
        self.probability.merge(other.probability)
        self.largest.merge(other.largest)
        self.mean.merge(other.mean)

    def numbers(self) -> dict[str, Any]:
        """frames, agreement (0 to 1), skipped, lost, and figures of the worst frame; for JSON."""
        return {
            "frames": self.frames,
            "agreement": round(self.agreed / self.frames, 4) if self.frames else None,
            "skipped": self.skipped,
            "lost": self.lost,
            "probability_points": _worst(self.probability),
            "input_levels": {"largest": _worst(self.largest), "mean": _worst(self.mean)},
        }

    def _labels(self) -> str | None:
        agreed, count = sum(self._recent), len(self._recent)
        # Hysteresis: a deviation stays until the share is reached, so that one frame does not
        # cause a second message.
        if "labels" in self.deviations:
            deviates = agreed < MIN_AGREEMENT * count
        else:
            deviates = _at_most(agreed, count, MIN_AGREEMENT) < _SIGNIFICANCE
        if not deviates:
            return None
        return (
            f"the engine agrees with the FP32 graph on {agreed} of the last {count} audited "
            "frames; rebuild it with images of this camera: edge build --calibration DIR"
        )

    def _range(self, full_range: bool) -> str | None:
        outside = sum(luma.outside for luma in self._luma) / len(self._luma)
        if not full_range and outside > _OUTSIDE:
            return (
                f"the stream declares luma 16 to 235, but {outside:.0%} lies outside; if it is "
                "0 to 255, declare it: gst:... ! capssetter caps=video/x-raw,colorimetry=1:3:5:1"
            )
        darkest = min(luma.darkest for luma in self._luma)
        brightest = max(luma.brightest for luma in self._luma)
        # A low-contrast scene does not show its range.
        uses_limits = darkest <= 18 and brightest >= 232
        is_limited = outside < _RINGING and uses_limits and len(self._luma) == _RANGE_FRAMES
        if full_range and is_limited:
            return (
                f"the stream declares luma 0 to 255, but {_RANGE_FRAMES} audited frames only have "
                f"{darkest:.0f} to {brightest:.0f}; if it is 16 to 235, declare it: "
                "gst:... ! capssetter caps=video/x-raw,colorimetry=2:3:5:1"
            )
        return None


def _input(verdict: Verdict) -> str | None:
    if verdict.largest <= MAX_LEVELS:
        return None
    return (
        f"the engine's input differs from the reference by up to {verdict.largest:.0f} grey levels "
        f"(mean {verdict.mean:.1f}); check whether it also does with --backend onnxruntime"
    )


def _at_most(agreed: int, count: int, share: float) -> float:
    """Binomial probability of at most `agreed` successes in `count`, each with chance `share`."""
    return sum(
        math.comb(count, k) * share**k * (1 - share) ** (count - k) for k in range(agreed + 1)
    )


def _worst(histogram: Histogram) -> float | None:
    worst = histogram.percentile(100)
    return None if worst is None else round(worst, 2)
