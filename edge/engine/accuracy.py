"""The measured accuracy of an engine, and the gate that it must pass; both are in the passport."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

__all__ = [
    *("EXACT_DB", "FORMS", "NEAR", "OPEN"),
    *("Accuracy", "Gate", "images_needed", "lowest", "percent", "plan_refusal"),
]

EXACT_DB = 999.0  # SQNR without any noise; JSON has no infinity
NEAR = 0.99  # lowest cosine at which two embeddings agree: 8 degrees between them
# The forms of an engine that are evaluated -> their names in messages.
FORMS = {"portable": "model.onnx", "device": "the FP16-cast graph for model.plan"}

# What executes a graph may add noise: of at most 1 % of the outputs, or so much that the sum is
# 2 dB above the graph's own noise. FP16 adds about 0.1 %, BF16 in attention 0.5 %.
_ADDED_DB, _SUM_DB = 40.0, 2.0

_Z = 1.959964  # 95 % of a normal distribution lie within this number of standard deviations


@dataclass(frozen=True)
class Accuracy:
    """The accuracy of an engine, compared with the FP32 graph on the same held-out images."""

    images: int
    # Percent of images with the same prediction (`Head.agree`), or with similar embeddings.
    agreement: float
    sqnr_db: float  # 10 log10(sum reference^2 / sum (reference - output)^2) over the outputs
    max_error: float  # largest absolute difference of the outputs
    top1: float | None  # percent correct; None if the images' classes are unknown
    top1_fp32: float | None  # the same for the FP32 graph
    cosine: float | None = None  # embeddings only: the lowest similarity to FP32's
    labels: float | None = None  # sigmoid only: percent of labels with the same yes or no

    def __post_init__(self) -> None:
        """Raises ValueError for figures that no evaluation gives."""
        percents = [self.agreement, self.top1, self.top1_fp32, self.labels]
        known = [share for share in percents if share is not None]
        if self.images < 1 or not all(0 <= share <= 100 for share in known):
            raise ValueError(f"{known} % of {self.images} images")
        if not (math.isfinite(self.sqnr_db) and 0 <= self.max_error < math.inf):
            raise ValueError(f"an SQNR of {self.sqnr_db} dB, an error of {self.max_error}")
        if self.cosine is not None and not abs(self.cosine) <= 1.001:  # a rounded one exceeds 1
            raise ValueError(f"a cosine of {self.cosine}")
        if (self.top1 is None) != (self.top1_fp32 is None):
            raise ValueError("top1 without top1_fp32")

    @property
    def interval(self) -> tuple[float, float]:
        """The percents between which the agreement lies with 95 % confidence.

        It is Wilson's score interval (E. B. Wilson, 1927), for images drawn at random from those
        that the engine will see.

        >>> low, high = Accuracy(100, 100.0, 30.0, 0.1, None, None).interval
        >>> round(low, 1), high
        (96.3, 100.0)
        """
        count, share = self.images, self.agreement / 100
        middle = share + _Z**2 / (2 * count)
        half = _Z * math.sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2))
        scale = 100 / (1 + _Z**2 / count)
        return max(0.0, (middle - half) * scale), min(100.0, (middle + half) * scale)

    @property
    def agreeing(self) -> int:
        """The number of images that agree with FP32."""
        return round(self.images * self.agreement / 100)

    @property
    def on_witnesses(self) -> str:
        """The accuracy of what executes an engine, after its name."""
        return (
            f"agrees with FP32 on {self.agreeing} of {self.images} witnesses, "
            f"SQNR {self.sqnr_db:.1f} dB"
        )

    @property
    def agreement_text(self) -> str:
        """The agreement with its interval.

        >>> print(Accuracy(397, 100 * 393 / 397, 30.0, 0.1, None, None).agreement_text)
        98.99 % of 397 images (95 % interval: 97.4 to 99.6 %)
        """
        low, high = self.interval
        interval = f"95 % interval: {low:.1f} to {high:.1f} %"
        return f"{percent(self.agreement)} of {self.images} images ({interval})"


def percent(share: float) -> str:
    """A percentage rounded down, so 100 % means every image.

    >>> percent(99.999), percent(100.0)
    ('99.99 %', '100.00 %')
    """
    return f"{math.floor(share * 100 + 1e-6) / 100:.2f} %"


def images_needed(agreement: float) -> int:
    """The fewest images, all agreeing, whose interval's lower end reaches `agreement`.

    agreement: percent, below 100. The interval is `Accuracy.interval`.

    >>> images_needed(99.0)
    381
    """
    return math.ceil(_Z**2 * agreement / (100 - agreement))


def lowest(accuracy: Mapping[str, Accuracy]) -> Accuracy:
    """The worst value of each figure over all forms (form -> accuracy)."""
    found = list(accuracy.values())

    def least(figures: list[float | None]) -> float | None:
        return min((figure for figure in figures if figure is not None), default=None)

    return replace(
        found[0],
        agreement=min(one.agreement for one in found),
        sqnr_db=min(one.sqnr_db for one in found),
        max_error=max(one.max_error for one in found),
        top1=least([one.top1 for one in found]),
        cosine=least([one.cosine for one in found]),
        labels=least([one.labels for one in found]),
    )


@dataclass(frozen=True)
class Gate:
    """The thresholds that an engine must reach on the held-out images."""

    # Percent of images that agree with FP32 (`Head.agree`), or of embeddings whose cosine is at
    # least `NEAR`.
    min_agreement: float
    max_drop: float | None = None  # points of top-1 that may be lost, where the classes are known

    def __post_init__(self) -> None:
        """Raises ValueError for shares that are none."""
        if not (0 <= self.min_agreement <= 100 and 0 <= (self.max_drop or 0) <= 100):
            raise ValueError(f"a gate of {self}")

    def __str__(self) -> str:
        if self == OPEN:
            return "none"
        drop = "" if self.max_drop is None else f", at most {self.max_drop:g} points of top-1 lost"
        return f"{self.min_agreement:g} % agreement{drop}"

    def refuses(self, accuracy: Mapping[str, Accuracy]) -> str | None:
        """The reason why an engine with these forms (form -> accuracy) is refused; None: it passes.

        Every form must pass. The reason is that of the form with the lowest agreement.
        """
        for form in sorted(accuracy, key=lambda name: accuracy[name].agreement):
            measured = accuracy[form]
            # Images are counted: 98.99 % is not 99 %, and 99 % of 300 images are 297.
            allowed = math.floor(measured.images * (100 - self.min_agreement) / 100 + 1e-9)
            if measured.images - measured.agreeing > allowed:
                return (
                    f"{FORMS[form]} agrees with FP32{_agreement_rule(measured)} on "
                    f"{percent(measured.agreement)} of {measured.images} images, the gate is "
                    f"{self.min_agreement:g} %"
                )
            if self.max_drop is None or measured.top1 is None or measured.top1_fp32 is None:
                continue
            drop = measured.top1_fp32 - measured.top1
            if drop > self.max_drop + 1e-9:
                return (
                    f"{FORMS[form]} loses {drop:.2f} points of top-1 on {measured.images} "
                    f"images, {self.max_drop:g} are allowed"
                )
        return None


def _agreement_rule(measured: Accuracy) -> str:
    """What agreement means, where it is not "the same most probable class"."""
    if measured.cosine is not None:
        return f" (a cosine of {NEAR:g})"
    return "" if measured.labels is None else " (yes or no to each label)"


OPEN = Gate(0.0)  # refuses nothing


def plan_refusal(measured: Accuracy, own: Accuracy, gate: Gate | None) -> str | None:
    """The reason why what executes a graph is refused; None: it passes.

    measured: its accuracy on the witnesses. own: the graph's, on the same images at build time.
    Half of these images were chosen because FP32 is unsure of them, so the gate's share of them
    (rounded up) may disagree in addition to those on which the graph itself disagreed.

    >>> own = Accuracy(64, 100 * 63 / 64, 50.0, 0.1, None, None)
    >>> plan_refusal(own, own, Gate(99))
    >>> plan_refusal(Accuracy(64, 100 * 3 / 64, 45.0, 0.1, None, None), own, Gate(99))
    'it agrees with FP32 on 3 of 64 images, its graph on 63 and the gate is 99 %'
    >>> plan_refusal(Accuracy(64, 100 * 63 / 64, 34.0, 0.3, None, None), own, Gate(99))
    'its outputs have an SQNR of 34.0 dB, its graph has 50.0 dB and at least 40.0 dB are needed'
    """
    if gate is not None:
        added = math.ceil(measured.images * (100 - gate.min_agreement) / 100 - 1e-9)
        if measured.agreeing < own.agreeing - added:
            return (
                f"it agrees with FP32{_agreement_rule(measured)} on {measured.agreeing} of "
                f"{measured.images} images, its graph on {own.agreeing} and the gate is "
                f"{gate.min_agreement:g} %"
            )
    least = min(own.sqnr_db - _SUM_DB, _ADDED_DB)
    if measured.sqnr_db < least:
        graph = "no noise" if own.sqnr_db >= EXACT_DB else f"{own.sqnr_db:.1f} dB"
        return (
            f"its outputs have an SQNR of {measured.sqnr_db:.1f} dB, its graph has {graph} and at "
            f"least {least:.1f} dB are needed"
        )
    return None
