"""Input and result of a build (`Setting`, `Outcome`), and the findings for its report."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
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
from edge.builder.report.findings import CandidateFinding, Findings, LinearFinding, Step
from edge.builder.split import Sets
from edge.engine.accuracy import FORMS, OPEN, Gate
from edge.engine.passport import Timed
from edge.engine.timing import Timing

__all__ = ["Outcome", "Setting", "gather"]


@dataclass(frozen=True, eq=False)
class Setting:
    """The input of a build, read and checked."""

    recipe: Recipe
    checkpoint: Checkpoint
    sets: Sets
    set_sha256: str  # of the calibration set
    cache: Path
    checkpoint_key: str
    table: str | None  # SHA-256 of the recipe's range table
    gate: Gate
    tools: dict[str, str]


@dataclass(frozen=True, eq=False)
class Outcome:
    """The candidates that a build made and evaluated, and the one to publish."""

    model: ModelProto  # the FP32 graph
    evaluator: Evaluator
    candidates: list[Candidate]
    chosen: Candidate
    timing: Timing  # of one image, by precision
    verdict: str
    ranges: Ranges | None
    sensitivity_db: dict[str, float]  # Linear -> SQNR of the output with it alone in INT8
    fp32_nodes: dict[str, str]  # node -> why it stays FP32 in FP16

    def timed(self) -> Timed:
        """The timing, for the passport."""
        speeds = {name: self.timing.speed(name, "fp32") for name in self.timing.times_ms}
        return Timed("onnxruntime", self.timing.machine, self.timing.rounds, speeds)

    def carried(self, precision: str) -> list[Candidate]:
        """The candidates in the engine's folder, the chosen one first.

        With `auto` they are all that passed the gate, else only the chosen one.
        """
        if precision != "auto":
            return [self.chosen]
        passed = [candidate for candidate in self.candidates if candidate.refused is None]
        return sorted(passed, key=lambda candidate: candidate is not self.chosen)


def gather(setting: Setting, outcome: Outcome) -> Findings:
    """Collect the findings of a build for its report."""
    # FP32 never disagrees with itself; if it was chosen, show the last candidate, the smallest.
    chosen = outcome.chosen
    shown = chosen if chosen.precision != "fp32" else outcome.candidates[-1]
    small = _small(outcome.candidates)
    recipe, calibration = setting.recipe, f"{len(setting.sets.calibration)} images"
    return Findings(
        name=setting.recipe.engine,
        checkpoint=setting.recipe.checkpoint,
        architecture=setting.checkpoint.architecture,
        precision=chosen.precision,
        verdict=outcome.verdict,
        backend="onnxruntime",
        machine=outcome.timing.machine,
        date=f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC",
        calibration=f"{calibration} of {recipe.calibration}" if outcome.ranges else "none",
        images=outcome.evaluator.fp32.images,
        heldout=setting.sets.origin,
        gate=str(setting.gate),
        judged=setting.recipe.gate,
        candidates=[
            CandidateFinding(
                one.precision,
                one.lowest,
                _megabytes(one.forms["portable"]),
                outcome.timing.ms(one.precision),
                outcome.timing.speed(one.precision, "fp32"),
                one.refused is None,
                one.refused or one.note,
            )
            for one in outcome.candidates
        ],
        linears=_linears(
            outcome.model, outcome.candidates, outcome.ranges, outcome.sensitivity_db, setting.gate
        ),
        quantised=in_words(census(small.forms["portable"])) if small else "",
        fp32_nodes=outcome.fp32_nodes,
        review=outcome.evaluator.review(shown.outputs[shown.worst_form]),
        compared=f"{shown.precision.upper()} ({FORMS[shown.worst_form]})",
        next_steps=_next_steps(recipe, chosen),
    )


def _next_steps(recipe: Recipe, chosen: Candidate) -> list[Step]:
    folder = shlex.quote(str(recipe.engines / recipe.engine))
    if chosen.refused is not None:
        return [
            Step("edge build ... --calibration DIR", "with more images of your own domain"),
            Step("edge build ... --precision fp16", "if INT8 does not reach the gate"),
        ]
    steps = [
        Step(f"edge classify {folder} IMAGE", "label an image of your own"),
        Step(f"edge run {folder} --source /dev/video0", "label a camera"),
        Step(f"edge compile {folder}", "on the Jetson, after copying the folder there"),
    ]
    if not recipe.gate:
        steps.insert(0, Step("edge build ...", "without --no-gate, to have the accuracy tested"))
    return steps


def _linears(
    model: ModelProto,
    candidates: Sequence[Candidate],
    ranges: Ranges | None,
    sensitivity_db: Mapping[str, float],
    gate: Gate,
) -> list[LinearFinding]:
    """The Linears of the candidate that was quantised with these ranges, if there is one."""
    small = _small(candidates)
    if ranges is None or small is None:
        return []
    names, found = roles(model), []
    number = small.precision.upper()
    why = f"the gate {'refuses the engine' if small.refused else 'passes'} with it in {number}"
    if gate == OPEN:
        why = f"{number}; without a gate nothing was kept"
    for linear in linears(model):
        name, activation = linear.node.name, ranges.ranges[linear.activation]
        kept = name in small.kept
        found.append(
            LinearFinding(
                name=names[name],
                precision="FP16" if kept else number,
                why="kept to pass the gate: it degrades the output most; FP32 in model.onnx, FP16 "
                "in the graph of model.plan"
                if kept
                else why,
                sensitivity_db=sensitivity_db.get(name),
                output_db=activation.sqnr_db,
                before=activation.before,
                after=activation.largest,
                strength=activation.strength,
                method=activation.method,
            )
        )
    return found


def _small(candidates: Sequence[Candidate]) -> Candidate | None:
    """The candidate with quantised Linears, if there is one."""
    return next((one for one in candidates if one.precision in NUMBERS), None)


def _megabytes(model: ModelProto) -> float:
    return float(model.ByteSize()) / 1e6
