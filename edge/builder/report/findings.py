"""The findings of a build about precision: the contents of the report, as plain data."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edge.engine.accuracy import Accuracy
from edge.engine.timing import Speed

__all__ = ["CandidateFinding", "Findings", "ImageFinding", "LinearFinding", "Review", "Step"]


@dataclass(frozen=True)
class CandidateFinding:
    """One precision that was built and evaluated."""

    precision: str  # fp32, fp16, int8 or fp8
    accuracy: Accuracy  # each figure is the lowest of all its forms
    megabytes: float  # of the portable graph's file
    ms: float | None  # median milliseconds of one image here; None: not measured
    speed: Speed | None  # compared with FP32
    passed: bool  # whether the gate accepts it
    note: str  # such as "2 of 48 Linears kept FP16", or why the gate refuses it


@dataclass(frozen=True)
class LinearFinding:
    """One Linear of the transformer: its precision, and the reason for it."""

    name: str
    precision: str  # INT8 or FP8; FP16 where it was kept
    why: str  # the reason for the precision
    # Sensitivity: SQNR in dB of the network's outputs when it alone is INT8; None: not measured
    sensitivity_db: float | None
    output_db: float | None  # SQNR in dB of its own output, on images not used to choose its range
    before: float  # largest absolute value of its input as exported
    after: float  # largest absolute value of its input after migration
    strength: float | None  # of the migration
    method: str  # by which the range was chosen


@dataclass(frozen=True, eq=False)
class ImageFinding:
    """An image on which FP32 and the engine disagree, or that FP32 gets wrong."""

    image: str
    pixels: npt.NDArray[np.uint8]  # RGB [H, W, 3]
    fp32: tuple[str, float]  # label, confidence
    engine: tuple[str, float]
    truth: str = ""  # the label of its folder; "" if the classes are unknown


@dataclass(frozen=True, eq=False)
class Review:
    """What the held-out images say about an engine, with the images themselves, worst first."""

    disagreements: list[ImageFinding] = field(default_factory=list)  # the shown ones
    differing: int = 0  # number of all images on which FP32 and the engine disagree
    mistakes: list[ImageFinding] = field(default_factory=list)  # of FP32, the shown ones
    wrong: int | None = None  # number of all images that FP32 gets wrong; None: classes unknown


@dataclass(frozen=True)
class Step:
    """What to do next: a command, and what it is for."""

    command: str
    purpose: str


@dataclass(frozen=True, eq=False)
class Findings:
    """The contents of a report."""

    name: str  # of the engine
    checkpoint: str
    architecture: str
    precision: str  # the chosen one
    verdict: str  # a sentence with the reasons
    backend: str  # with which the times were measured
    machine: str  # on which
    date: str  # of the build
    calibration: str  # the calibration set, or what took its place
    images: int  # number of held-out images
    heldout: str  # their origin
    gate: str  # such as "99 % agreement"
    judged: bool  # False: without a gate nothing passes, whatever was measured
    candidates: list[CandidateFinding] = field(default_factory=list)
    linears: list[LinearFinding] = field(default_factory=list)
    quantised: str = ""  # coverage by kind, such as "12 of 12 qkv, 0 of 1 convolution"
    fp32_nodes: dict[str, str] = field(default_factory=dict)  # node kept FP32 in FP16 -> reason
    review: Review = field(default_factory=Review)
    compared: str = "the engine"  # what was compared with FP32 for the review
    next_steps: list[Step] = field(default_factory=list)
