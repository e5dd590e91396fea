"""Candidates: one per precision, built, evaluated and timed; one is chosen, with reasons."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, TensorProto

from edge.builder import graph
from edge.builder.evaluator import Evaluator
from edge.builder.observer import Observer
from edge.builder.plan import device_form, make_forms
from edge.builder.precision import fp16, placement
from edge.engine.accuracy import FORMS, Accuracy, Gate, lowest, percent
from edge.engine.timing import Timing, measure
from edge.errors import GraphError

__all__ = [
    *("Candidate", "choose", "from_graph", "make", "make_quantised", "read_graph", "timed"),
    "verdict",
]

MOST_KEPT = 0.5  # share of the Linears: with more in FP16 an engine is INT8 in name only

Tensor = npt.NDArray[np.float32]
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
    # form -> its outputs on the held-out images, float32 [N, outputs]
    outputs: dict[str, Tensor] = field(default_factory=dict)

    @property
    def worst_form(self) -> str:
        """The less accurate form: by agreement, which the gate tests, then by SQNR."""

        def rank(form: str) -> tuple[float, float]:
            return self.accuracy[form].agreement, self.accuracy[form].sqnr_db

        return min(self.accuracy, key=rank)

    @property
    def lowest(self) -> Accuracy:
        """The worst value of each figure over all forms."""
        return lowest(self.accuracy)

    @property
    def note(self) -> str:
        """How many Linears are quantised and how many are kept FP16; "" without quantised ones."""
        if not self.linears:
            return ""
        kept = f"{len(self.kept)} of {self.linears} Linears kept FP16"
        return kept if self.kept else f"all {self.linears} Linears {self.precision.upper()}"


def make(model: ModelProto, precision: str, evaluator: Evaluator, gate: Gate) -> Candidate:
    """The FP32 or FP16 candidate. Raises `GateError` for NaN or infinity."""
    return _evaluated(precision, make_forms(model, precision, None), evaluator, gate)


def _evaluated(
    precision: str,
    forms: dict[str, ModelProto],
    evaluator: Evaluator,
    gate: Gate,
    linears: int = 0,
    kept: Mapping[str, float] | None = None,
) -> Candidate:
    """A candidate with its outputs and accuracy. Raises `GateError` for NaN or infinity."""
    fp32 = precision == "fp32"
    outputs = {"portable": evaluator.reference} if fp32 else evaluator.outputs(forms)
    accuracy = evaluator.accuracy(outputs)
    refused = gate.refuses(accuracy)
    return Candidate(precision, forms, accuracy, refused, linears, dict(kept or {}), outputs)


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
            observer.stage("quantize, verify")
            kept = order[:count]
            chosen = {name: alone[name] for name in kept}
            tried[count] = _evaluated(precision, build(kept), evaluator, gate, len(order), chosen)
            if count and tried[count].refused is not None:
                tried[count] = replace(tried[count], forms={})  # frees the graphs, which are large
            refused = ", refused" if tried[count].refused else ""
            observer.done(f"{_attempt(tried[count])}{refused}")
        return tried[count]

    if attempt(0).refused is None:
        return attempt(0)
    low, high = 0, 1  # the gate refuses `low`
    while high < most and attempt(high).refused is not None:
        low, high = high, 2 * high
    high = min(high, most)
    if high <= low or attempt(high).refused is not None:
        plain, mixed = attempt(0), [one for count, one in tried.items() if count]
        if not mixed:
            return plain
        best = max(mixed, key=lambda one: (one.lowest.agreement, one.lowest.top1 or 0))
        return replace(plain, refused=f"{plain.refused}; at best, {_attempt(best)}")
    while high - low > 1:
        middle = (low + high) // 2
        if attempt(middle).refused is None:
            high = middle
        else:
            low = middle
    return attempt(high)


def read_graph(path: Path, input_shape: tuple[int, int, int]) -> tuple[ModelProto, int]:
    """A graph that was quantised elsewhere, and the number of its quantised Linears.

    input_shape: (3, H, W), the checkpoint's. Raises `GraphError` when the graph has no Q/DQ, breaks
    a placement rule, or does not take batches of such images.
    """
    portable = graph.load(path)
    graph.inline_constants(portable)
    dims = portable.graph.input[0].type.tensor_type.shape.dim
    if tuple(d.dim_value for d in dims[1:]) != input_shape or not dims[0].dim_param:
        raise GraphError(
            f"{path} does not take batches of {list(input_shape)}",
            "export it with a dynamic batch and the checkpoint's image size",
        )
    linears = placement.check(portable)
    if not linears:
        raise GraphError(
            f"{path} has no quantised Linear",
            "export it with the Q/DQ nodes of its training, or leave out --graph: edge build then "
            "quantises the checkpoint",
        )
    return portable, linears


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
    peaks of its tensors, for FP16. Raises what `read_graph` raises.
    """
    _, *dims = model.graph.input[0].type.tensor_type.shape.dim
    channels, height, width = (d.dim_value for d in dims)
    portable, linears = read_graph(path, (channels, height, width))
    own = placement.places(portable)
    graph.set_metadata(portable, {**graph.metadata(model), placement.KEY: own})
    types = {t.data_type for t in portable.graph.initializer}
    precision = "fp8" if TensorProto.FLOAT8E4M3FN in types else "int8"
    fp16.set_kept(portable, fp16.find_fp32_nodes(portable, probe(portable)))
    forms = {"portable": portable, "device": device_form(portable, precision)}
    return _evaluated(precision, forms, evaluator, gate, linears)


def timed(candidates: Sequence[Candidate]) -> Timing:
    """The time of one image with each candidate, by precision, with onnxruntime here."""

    def call(candidate: Candidate) -> Callable[[], object]:
        model = candidate.forms["portable"]
        session = graph.session(model)
        shape = [d.dim_value or 1 for d in model.graph.input[0].type.tensor_type.shape.dim]
        batch = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        return lambda: session.logits(batch)

    return measure({candidate.precision: call(candidate) for candidate in candidates})


def choose(candidates: Sequence[Candidate], timing: Timing) -> Candidate:
    """The fastest candidate that passes the gate; of two that are not told apart, the more exact.

    candidates: sorted by exactness, the most exact first. FP32 always passes.
    """
    best, *others = [candidate for candidate in candidates if candidate.refused is None]
    for other in others:
        if timing.speed(other.precision, best.precision).faster:
            best = other
    return best


def verdict(
    chosen: Candidate, candidates: Sequence[Candidate], timing: Timing, backend: str
) -> str:
    """A sentence with the chosen precision and the reasons for it and against the others."""
    name, parts = chosen.precision.upper(), []
    measured = chosen.lowest
    if chosen.precision != "fp32" and "fp32" in timing.times_ms:
        parts.append(f"{timing.speed(chosen.precision, 'fp32')} FP32 with {backend} here")
    parts.append(f"agreement {measured.agreement_text}{_lowest_form(chosen, 'agreement')}")
    if measured.top1 is not None:
        fp32 = "" if chosen.precision == "fp32" else f" (FP32 {measured.top1_fp32:.2f} %)"
        parts.append(f"top-1 {measured.top1:.2f} %{fp32}{_lowest_form(chosen, 'top1')}")
    if measured.cosine is not None:
        parts.append(f"lowest cosine {measured.cosine:.5f}{_lowest_form(chosen, 'cosine')}")
    if measured.labels is not None:
        parts.append(f"of labels {percent(measured.labels)}{_lowest_form(chosen, 'labels')}")
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
        elif chosen.precision == "fp32" and other.precision in timing.times_ms:
            text += f"; {other.precision.upper()} is {timing.speed(other.precision, 'fp32')} it"
    return text


def _lowest_form(candidate: Candidate, figure: str) -> str:
    """ " in " and the form with the lowest value of an `Accuracy` figure; "" if all are equal."""
    values = {form: getattr(one, figure) for form, one in candidate.accuracy.items()}
    form = min(values, key=lambda name: values[name])
    return f" in {FORMS[form]}" if len(set(values.values())) > 1 else ""


def _attempt(candidate: Candidate) -> str:
    """An attempt to quantise, and what the gate tested of it."""
    measured = candidate.lowest
    top1 = "" if measured.top1 is None else f", top-1 {measured.top1:.2f} %"
    return f"{candidate.note}: agreement {percent(measured.agreement)}{top1}"
