"""Candidates: one per precision, built, evaluated and timed; one is chosen, with reasons."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto

from edge.builder import graph
from edge.builder.evaluator import Evaluator
from edge.builder.observer import Observer
from edge.builder.plan import device_form, make_forms
from edge.builder.precision import fp16, placement
from edge.builder.verify import Gate
from edge.engine.bench import interleave
from edge.engine.passport import Accuracy
from edge.errors import GraphError

__all__ = ["Candidate", "choose", "from_graph", "make", "make_quantised", "timed", "verdict"]

ROUNDS = 10  # of the timing
FASTER = 1.05  # smallest speed-up that counts: less is mostly measurement noise
MOST_KEPT = 0.5  # share of the Linears: with more in FP16 an engine is INT8 in name only

Builder = Callable[[Sequence[str]], dict[str, ModelProto]]


@dataclass(frozen=True, eq=False)
class Candidate:
    """One precision, built and evaluated."""

    precision: str
    forms: dict[str, ModelProto]
    accuracy: dict[str, Accuracy]
    refused: str | None  # why the gate refuses it; None: it passes
    linears: int = 0  # number of Linears of the transformer, where some are INT8
    # Linears kept FP16 -> SQNR in dB with that Linear alone in INT8
    kept: dict[str, float] = field(default_factory=dict)

    @property
    def worst_form(self) -> str:
        """The less accurate form: by agreement, which the gate tests, then by SQNR."""

        def rank(form: str) -> tuple[float, float]:
            return self.accuracy[form].agreement, self.accuracy[form].sqnr_db

        return min(self.accuracy, key=rank)

    @property
    def worst(self) -> Accuracy:
        """The accuracy of that form."""
        return self.accuracy[self.worst_form]

    @property
    def note(self) -> str:
        """How many Linears are quantised and how many are kept FP16; "" without quantised ones."""
        if not self.linears:
            return ""
        kept = f"{len(self.kept)} of {self.linears} Linears kept FP16"
        return kept if self.kept else f"all {self.linears} Linears {self.precision.upper()}"


def make(model: ModelProto, precision: str, evaluator: Evaluator, gate: Gate) -> Candidate:
    """The FP32 or FP16 candidate. Raises `GateError` for NaN or infinity."""
    forms = make_forms(model, precision, None)
    accuracy = {"portable": evaluator.fp32} if precision == "fp32" else evaluator(forms)
    return Candidate(precision, forms, accuracy, gate.refuses(accuracy))


def make_quantised(
    precision: str,
    build: Builder,
    alone: Mapping[str, float],
    evaluator: Evaluator,
    gate: Gate,
    observer: Observer,
) -> Candidate:
    """The INT8 or FP8 candidate that passes the gate with the fewest Linears kept FP16.

    build: names of Linears to keep -> the forms of an engine that keeps them. alone: SQNR of the
    outputs in dB with each Linear alone in INT8; the Linear with the lowest is kept first. When the
    gate refuses even `MOST_KEPT`, the candidate that keeps none is returned, with the reason.
    """
    order = sorted(alone, key=lambda name: alone[name])
    most = int(len(order) * MOST_KEPT)
    tried: dict[int, Candidate] = {}

    def attempt(count: int) -> Candidate:
        if count not in tried:
            kept = order[:count]
            forms = build(kept)
            accuracy = evaluator(forms)
            tried[count] = Candidate(
                precision,
                forms,
                accuracy,
                gate.refuses(accuracy),
                len(order),
                {name: alone[name] for name in kept},
            )
            if count and tried[count].refused is not None:
                tried[count] = replace(tried[count], forms={})  # frees the graphs, which are large
            observer.progress("kept FP16", count, most)
        return tried[count]

    if attempt(0).refused is None:
        return attempt(0)
    low, high = 0, 1  # the gate refuses `low`
    while high < most and attempt(high).refused is not None:
        low, high = high, 2 * high
    high = min(high, most)
    if high <= low or attempt(high).refused is not None:
        plain = attempt(0)
        return replace(plain, refused=f"{plain.refused} (nor with {most} Linears kept FP16)")
    while high - low > 1:
        middle = (low + high) // 2
        if attempt(middle).refused is None:
            high = middle
        else:
            low = middle
    return attempt(high)


def from_graph(
    path: Path,
    model: ModelProto,
    probe: Callable[[ModelProto], dict[str, float]],
    evaluator: Evaluator,
    gate: Gate,
) -> Candidate:
    """The candidate from a graph that was quantised elsewhere, for example in training (`--graph`).

    The graph is used unchanged when its Q/DQ pairs obey the placement rules.

    model: the FP32 graph, whose labels and preprocessing the candidate gets. probe: measures the
    peaks of its tensors, for FP16. Raises `GraphError` when the graph has no Q/DQ, breaks a rule,
    or does not take the same pictures.
    """
    portable = graph.load(path)
    graph.inline_constants(portable)
    own = placement.places(portable)
    graph.set_metadata(portable, {**graph.metadata(model), placement.KEY: own})
    ours, theirs = (m.graph.input[0].type.tensor_type.shape.dim for m in (model, portable))
    if [d.dim_value for d in ours] != [d.dim_value for d in theirs] or not theirs[0].dim_param:
        raise GraphError(
            f"{path} does not take batches of {[d.dim_value for d in ours][1:]}",
            "export it with a dynamic batch and the checkpoint's picture size",
        )
    linears = placement.check(portable)
    if not linears:
        raise GraphError(f"{path} has no quantised Linear", "leave out --graph: edge quantises it")
    types = {t.data_type for t in portable.graph.initializer}
    precision = "fp8" if TensorProto.FLOAT8E4M3FN in types else "int8"
    fp16.set_kept(portable, fp16.risks(portable, probe(portable)))
    forms = {"portable": portable, "device": device_form(portable, precision)}
    accuracy = evaluator(forms)
    return Candidate(precision, forms, accuracy, gate.refuses(accuracy), linears)


def timed(candidates: Sequence[Candidate]) -> dict[str, float]:
    """precision -> median milliseconds of one picture with onnxruntime on this machine.

    The candidates run in turns, so that a change of the clock rate affects all of them.
    """

    def call(candidate: Candidate) -> Callable[[], object]:
        model = candidate.forms["portable"]
        session = graph.session(model)
        shape = [d.dim_value or 1 for d in model.graph.input[0].type.tensor_type.shape.dim]
        batch = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        return lambda: session.logits(batch)

    taken = interleave({candidate.precision: call(candidate) for candidate in candidates}, ROUNDS)
    return {precision: statistics.median(times) for precision, times in taken.items()}


def choose(candidates: Sequence[Candidate], ms: Mapping[str, float]) -> Candidate:
    """The fastest candidate that passes the gate; between equally fast ones the more exact.

    candidates: the more exact first; FP32 always passes. ms: precision -> milliseconds.
    """
    best, *others = [candidate for candidate in candidates if candidate.refused is None]
    for other in others:
        if ms[other.precision] * FASTER < ms[best.precision]:
            best = other
    return best


def verdict(
    chosen: Candidate, candidates: Sequence[Candidate], ms: Mapping[str, float], backend: str
) -> str:
    """A sentence with the chosen precision and the reasons for it and against the others."""
    name, parts = chosen.precision.upper(), []
    if chosen.precision != "fp32" and "fp32" in ms:
        speed = _against(ms[chosen.precision], ms["fp32"])
        parts.append(f"{speed} FP32 with {backend} here")
    parts.append(f"agreement {chosen.worst.agreement:.2f} %")
    if chosen.worst.top1 is not None:
        fp32 = "" if chosen.precision == "fp32" else f" (FP32 {chosen.worst.top1_fp32:.2f} %)"
        parts.append(f"top-1 {chosen.worst.top1:.2f} %{fp32}")
    if chosen.worst.cosine is not None:
        parts.append(f"lowest cosine {chosen.worst.cosine:.5f}")
    if chosen.worst.labels is not None:
        parts.append(f"of labels {chosen.worst.labels:.2f} %")
    text = f"{name}: {', '.join(parts)}"
    if chosen.note:
        text += f"; {chosen.note}"
    if chosen.refused:
        text += f"; the gate refuses it: {chosen.refused}"
    for other in candidates:
        if other is chosen:
            continue
        if other.refused:
            text += f"; not {other.precision.upper()}: {other.refused}"
        elif chosen.precision == "fp32" and other.precision in ms:
            speed = _against(ms[other.precision], ms["fp32"])
            text += f"; {other.precision.upper()} is {speed} it"
    return text


def _against(ms: float, other: float) -> str:
    """The speed of something that takes `ms` compared with something that takes `other`."""
    if other > ms * FASTER:
        return f"{other / ms:.2g}x faster than"
    if ms > other * FASTER:
        return f"{ms / other:.2g}x slower than"
    return "as fast as"
