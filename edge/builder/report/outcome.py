"""What a build starts from, what came of it, and what its report says of that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from onnx import ModelProto

from edge.builder.candidates import Candidate
from edge.builder.evaluator import Evaluator
from edge.builder.models.checkpoint import Checkpoint
from edge.builder.precision.coverage import census, in_words
from edge.builder.precision.dtypes import NUMBERS
from edge.builder.precision.ranges import Ranges
from edge.builder.precision.sites import linears, roles
from edge.builder.recipes import Recipe
from edge.builder.report.findings import CandidateFinding, Findings, LinearFinding
from edge.builder.verify import Gate
from edge.engine.passport import FORMS

__all__ = ["Outcome", "Setting", "gather"]


@dataclass(frozen=True, eq=False)
class Setting:
    """What a build starts from, read and checked."""

    recipe: Recipe
    checkpoint: Checkpoint
    calibrating: list[Path]
    judging: list[Path]
    set_sha256: str  # of the calibration set
    cache: Path
    checkpoint_key: str
    table: str | None  # digest of a given range table
    gate: Gate
    tools: dict[str, str]


@dataclass(frozen=True, eq=False)
class Outcome:
    """What was built and judged, and which of it is to be published."""

    model: ModelProto  # the FP32 graph
    judge: Evaluator
    judged: list[Candidate]
    chosen: Candidate
    ms: dict[str, float]  # precision -> of one picture here
    verdict: str
    ranges: Ranges | None
    alone_db: dict[str, float]  # Linear -> SQNR of the output with it alone in INT8
    risks: dict[str, str]  # node -> why it stays FP32 in FP16

    def carried(self, precision: str) -> list[Candidate]:
        """All that go into the engine, the chosen one first; `auto` carries what passed."""
        if precision != "auto":
            return [self.chosen]
        passed = [candidate for candidate in self.judged if candidate.refused is None]
        return sorted(passed, key=lambda candidate: candidate is not self.chosen)


def gather(setting: Setting, outcome: Outcome) -> Findings:
    """All that a build found, for its report."""
    # FP32 never disagrees with itself: then the last candidate, the smallest, is of interest.
    chosen = outcome.chosen
    shown = chosen if chosen.precision != "fp32" else outcome.judged[-1]
    small = _small(outcome.judged)
    disagreements, differing = outcome.judge.disagreements(shown.forms[shown.worst_form])
    return Findings(
        name=setting.recipe.engine,
        checkpoint=setting.recipe.checkpoint,
        architecture=setting.checkpoint.architecture,
        precision=chosen.precision,
        verdict=outcome.verdict,
        backend="onnxruntime",
        images=outcome.judge.fp32.images,
        gate=str(setting.gate),
        candidates=[
            CandidateFinding(
                one.precision,
                one.worst,
                _megabytes(one.forms["portable"]),
                outcome.ms.get(one.precision),
                one.refused is None,
                one.refused or one.note,
            )
            for one in outcome.judged
        ],
        linears=_linears(outcome.model, outcome.judged, outcome.ranges, outcome.alone_db),
        quantised=in_words(census(small.forms["portable"])) if small else "",
        fp32_nodes=outcome.risks,
        disagreements=disagreements,
        differing=differing,
        compared=f"{shown.precision.upper()} ({FORMS[shown.worst_form]})",
    )


def _linears(
    model: ModelProto,
    judged: Sequence[Candidate],
    ranges: Ranges | None,
    alone_db: Mapping[str, float],
) -> list[LinearFinding]:
    """The Linears of the candidate that was quantised with these ranges, if there is one."""
    small = _small(judged)
    if ranges is None or small is None:
        return []
    called, found = roles(model), []
    number = small.precision.upper()
    whole = "refuses the engine" if small.refused else "passes"
    for linear in linears(model):
        name, known = linear.node.name, ranges.ranges[linear.activation]
        kept = name in small.kept
        found.append(
            LinearFinding(
                name=called[name],
                precision="FP16" if kept else number,
                why="the gate: it harms the output most"
                if kept
                else f"the gate {whole} with it in {number}",
                alone_db=alone_db.get(name),
                output_db=known.sqnr_db,
                before=known.before,
                after=known.largest,
                strength=known.strength,
                method=known.method,
            )
        )
    return found


def _small(judged: Sequence[Candidate]) -> Candidate | None:
    """The candidate with quantised Linears."""
    return next((one for one in judged if one.precision in NUMBERS), None)


def _megabytes(model: ModelProto) -> float:
    return float(sum(tensor.ByteSize() for tensor in model.graph.initializer)) / 1e6
