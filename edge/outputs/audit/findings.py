"""What the audits of a source add up to, and from when on that is worth a warning.

A few frames prove little: a healthy INT8 engine, too, names another class than FP32 now and then.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from edge.outputs.audit.auditor import Luma, Verdict
from edge.run.summary import Histogram

__all__ = ["AGREEMENT", "LEVELS", "Deviation", "Parity"]

Deviation: TypeAlias = Literal["labels", "input", "range"]

AGREEMENT = 0.95  # of a camera's frames: below this, engine and FP32 do not agree
LEVELS = 3.0  # grey levels: two roundings differ by one or two, a wrong matrix by ten and more
_RECENT = 100  # audited frames that are judged together
_CHANCE = 1e-3  # that an engine which agrees on `AGREEMENT` of all frames does so badly
# Shares of luma beyond 16..235: more than compression's ringing makes, and no more than it makes.
_OUTSIDE, _RINGING = 0.01, 0.001
_WHOLE = 10  # frames within 16..235, before it is doubted that a picture has the full range

_RIGHT: dict[Deviation, str] = {
    "labels": "the engine and the FP32 graph agree again",
    "input": "the engine sees again what the reference sees",
    "range": "the range of its luma is again what it says",
}


@dataclass
class Parity:
    """The audits of one source, from the start of the run. Written by one thread, read by any.

    frames       audited; of these of `agreed` the FP32 graph says the same (`Head.agree`)
    skipped      times that a frame was due while another was being audited; a later one was taken
    lost         frames that were taken, and no verdict came
    probability  largest difference of a class's probability per frame, in percentage points
    largest      of what the engine saw from what it should have seen: the largest difference in
                 each frame, in grey levels 0 to 255
    mean         and the mean one
    deviations   what is wrong now, in words for people
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
    _luma: deque[Luma] = field(default_factory=lambda: deque(maxlen=_WHOLE))

    def add(self, verdict: Verdict, full_range: bool) -> list[str]:
        """Count a verdict. What has become wrong or right by it, in words for people.

        full_range: what the frame says of itself.
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
                changes.append(f"{self.source}: {_RIGHT[kind]}")
                del self.deviations[kind]
            if deviation is not None:
                if kind not in self.deviations:
                    changes.append(f"{self.source}: {deviation}")
                self.deviations[kind] = deviation
        return changes

    def merge(self, other: Parity) -> None:
        """Add what `other` counted; its deviations stay its own."""
        self.frames += other.frames
        self.agreed += other.agreed
        self.skipped += other.skipped
        self.lost += other.lost
        self.probability.merge(other.probability)
        self.largest.merge(other.largest)
        self.mean.merge(other.mean)

    def numbers(self) -> dict[str, Any]:
        """frames, agreement (0 to 1), skipped, lost, and the worst frames' figures; for JSON."""
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
        # What is wrong stays so until the share is right: nothing is said twice for one odd frame.
        if "labels" in self.deviations:
            wrong = agreed < AGREEMENT * count
        else:
            wrong = _at_most(agreed, count, AGREEMENT) < _CHANCE
        if not wrong:
            return None
        return (
            f"the engine says the same as the FP32 graph of {agreed} of the last {count} audited "
            "frames; build it again with pictures of this camera: edge build --calibration DIR"
        )

    def _range(self, full_range: bool) -> str | None:
        outside = sum(luma.outside for luma in self._luma) / len(self._luma)
        if not full_range and outside > _OUTSIDE:
            return (
                f"it says that its luma is 16 to 235, and {outside:.0%} lies outside; if it is "
                "0 to 255, say so: gst:... ! capssetter caps=video/x-raw,colorimetry=1:3:5:1"
            )
        darkest = min(luma.darkest for luma in self._luma)
        brightest = max(luma.brightest for luma in self._luma)
        reaches = darkest <= 18 and brightest >= 232  # a dull scene says nothing
        if full_range and outside < _RINGING and reaches and len(self._luma) == _WHOLE:
            return (
                f"it says that its luma is 0 to 255, and in {_WHOLE} audited frames it ends at "
                f"{darkest:.0f} and {brightest:.0f}; if it is 16 to 235, say so: "
                "gst:... ! capssetter caps=video/x-raw,colorimetry=2:3:5:1"
            )
        return None


def _input(verdict: Verdict) -> str | None:
    if verdict.largest <= LEVELS:
        return None
    return (
        f"what the engine saw differs from the reference by up to {verdict.largest:.0f} grey "
        f"levels, {verdict.mean:.1f} in the mean; see if it does with --backend onnxruntime"
    )


def _at_most(agreed: int, count: int, share: float) -> float:
    """The chance of no more than `agreed` among `count`, when each agrees with chance `share`."""
    return sum(
        math.comb(count, k) * share**k * (1 - share) ** (count - k) for k in range(agreed + 1)
    )


def _worst(histogram: Histogram) -> float | None:
    worst = histogram.percentile(100)
    return None if worst is None else round(worst, 2)
