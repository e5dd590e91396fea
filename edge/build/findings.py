"""What a build found out about precision: the report's contents, as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
from onnx import ModelProto

from edge.build.numbers import NUMBERS
from edge.build.ranges import Ranges
from edge.build.sites import linears, roles
from edge.passport import Accuracy, Passport

__all__ = ["Candidate", "Disagreement", "Findings", "LinearFinding", "findings"]


class Judged(Protocol):
    """A candidate as `edge.build.candidates` makes it."""

    @property
    def precision(self) -> str: ...
    @property
    def forms(self) -> dict[str, ModelProto]: ...
    @property
    def refused(self) -> str | None: ...
    @property
    def kept(self) -> dict[str, float]: ...
    @property
    def worst(self) -> Accuracy: ...
    @property
    def worst_form(self) -> str: ...
    @property
    def note(self) -> str: ...
    @property
    def accuracy(self) -> dict[str, Accuracy]: ...


class Judge(Protocol):
    """Who judged, as `edge.build.judge` is."""

    fp32: Accuracy

    def disagreements(self, model: ModelProto) -> tuple[list[Disagreement], int]: ...


@dataclass(frozen=True)
class Candidate:
    """One precision that was built and judged."""

    precision: str  # fp32, fp16 or int8
    accuracy: Accuracy  # of the form that did worse
    megabytes: float  # of model.onnx
    ms: float | None  # median time of one picture here; None: not measured
    passed: bool  # the gate
    note: str  # such as "2 of 48 Linears kept FP16"


@dataclass(frozen=True)
class LinearFinding:
    """One Linear of the transformer: its precision, and why."""

    name: str
    precision: str  # INT8 or FP16
    why: str
    alone_db: float | None  # SQNR of the logits when it alone is INT8; None: not measured
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
    candidates: list[Candidate] = field(default_factory=list)
    linears: list[LinearFinding] = field(default_factory=list)
    fp32_nodes: dict[str, str] = field(default_factory=dict)  # kept FP32 in FP16 -> why
    disagreements: list[Disagreement] = field(default_factory=list)  # some, the worst first
    differing: int = 0  # images, of which those are some
    compared: str = "the engine"  # with FP32, for the disagreements


def findings(
    passport: Passport,
    model: ModelProto,
    judged: Sequence[Judged],
    chosen: Judged,
    ms: Mapping[str, float],
    ranges: Ranges | None,
    alone_db: Mapping[str, float],
    risks: Mapping[str, str],
    gate: str,
    judge: Judge,
) -> Findings:
    """All that a build found, for its report. model: the FP32 graph; ms: precision -> ms."""
    # FP32 never disagrees with itself: then the last candidate, the smallest, is of interest.
    shown = chosen if chosen.precision != "fp32" else judged[-1]
    disagreements, differing = judge.disagreements(shown.forms[shown.worst_form])
    return Findings(
        name=passport.name,
        checkpoint=passport.checkpoint.name,
        architecture=passport.checkpoint.architecture,
        precision=passport.precision,
        verdict=passport.verdict,
        backend="onnxruntime",
        images=judge.fp32.images,
        gate=gate,
        candidates=[
            Candidate(
                one.precision,
                one.worst,
                _megabytes(one),
                ms.get(one.precision),
                one.refused is None,
                one.refused or one.note,
            )
            for one in judged
        ],
        linears=_linears(model, judged, ranges, alone_db),
        fp32_nodes=dict(risks),
        disagreements=disagreements,
        differing=differing,
        compared=f"{shown.precision.upper()} ({shown.worst_form})",
    )


def _linears(
    model: ModelProto,
    judged: Sequence[Judged],
    ranges: Ranges | None,
    alone_db: Mapping[str, float],
) -> list[LinearFinding]:
    if ranges is None:
        return []
    kept = {name for one in judged for name in one.kept}
    called, found = roles(model), []
    number = next((one.precision.upper() for one in judged if one.precision in NUMBERS), None)
    if number is None:
        return []
    for linear in linears(model):
        name, known = linear.node.name, ranges.ranges[linear.activation]
        why = (
            "the gate: it harms the logits most"
            if name in kept
            else f"the gate passes with it in {number}"
        )
        found.append(
            LinearFinding(
                name=called[name],
                precision="FP16" if name in kept else number,
                why=why,
                alone_db=alone_db.get(name),
                output_db=known.sqnr_db,
                before=known.before,
                after=known.largest,
                strength=known.strength,
                method=known.method,
            )
        )
    return found


def _megabytes(one: Judged) -> float:
    model = one.forms.get("portable")
    return sum(t.ByteSize() for t in model.graph.initializer) / 1e6 if model else 0.0
