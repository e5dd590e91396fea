"""What a build found out about precision: the report's contents, as plain data."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edge.engine.passport import Accuracy

__all__ = ["CandidateFinding", "Disagreement", "Findings", "LinearFinding"]


@dataclass(frozen=True)
class CandidateFinding:
    """One precision that was built and judged."""

    precision: str  # fp32, fp16, int8 or fp8
    accuracy: Accuracy  # of the form that did worse
    megabytes: float  # of model.onnx
    ms: float | None  # median time of one picture here; None: not measured
    passed: bool  # the gate
    note: str  # such as "2 of 48 Linears kept FP16"


@dataclass(frozen=True)
class LinearFinding:
    """One Linear of the transformer: its precision, and why."""

    name: str
    precision: str  # INT8 or FP8, or FP16: kept
    why: str
    alone_db: float | None  # SQNR of the outputs when it alone is INT8; None: not measured
    output_db: float | None  # SQNR of its own output on images that did not choose its range
    before: float  # largest absolute value of its input as exported
    after: float  # and after the migration
    strength: float | None  # of the migration
    method: str  # that chose the range


@dataclass(frozen=True, eq=False)
class Disagreement:
    """An image of which FP32 and the engine say different things."""

    image: str
    pixels: npt.NDArray[np.uint8]  # RGB [H, W, 3]
    fp32: tuple[str, float]  # label, confidence
    engine: tuple[str, float]


@dataclass(frozen=True, eq=False)
class Findings:
    name: str  # of the engine
    checkpoint: str
    architecture: str
    precision: str  # that was chosen
    verdict: str  # a sentence
    backend: str  # that measured the times
    images: int  # that judged
    gate: str  # such as "99 % agreement"
    candidates: list[CandidateFinding] = field(default_factory=list)
    linears: list[LinearFinding] = field(default_factory=list)
    quantised: str = ""  # of all products, by kind: such as "12 of 12 qkv, 0 of 1 convolution"
    fp32_nodes: dict[str, str] = field(default_factory=dict)  # kept FP32 in FP16 -> why
    disagreements: list[Disagreement] = field(default_factory=list)  # some, the worst first
    differing: int = 0  # images, of which those are some
    compared: str = "the engine"  # with FP32, for the disagreements
