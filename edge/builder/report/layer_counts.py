"""Proof of an engine's precision: from the Q/DQ of its graphs, and from its plan on a GPU."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge.builder import graph
from edge.builder.precision import placement
from edge.builder.precision.coverage import census, in_words
from edge.engine.passport import Passport
from edge.engine.tensorrt import TensorRT
from edge.errors import EdgeError
from edge.gpu import nvidia

__all__ = ["Counts", "count_layers", "prove"]

Counts = dict[str, int]


def prove(folder: Path, passport: Passport) -> list[tuple[str, str]]:
    """The facts about precision that can be proved on this machine, as (name, fact).

    The placement rules are checked on every graph. Where the plan can be loaded, its layers are
    read with TensorRT's engine inspector. Raises `GraphError` for a graph that breaks a rule.
    """
    graphs = {passport.precision: ("model.onnx", passport.kept_fp16)}
    graphs |= {name: (c.graph, c.kept_fp16) for name, c in passport.candidates.items()}
    facts = []
    for precision, (name, kept) in graphs.items():
        model = graph.load(folder / name)
        if found := placement.check(model):
            places = placement.places(model)
            more = f"; also {', '.join(places)}" if places else "; nothing else"
            facts.append(
                (
                    f"placement {precision}",
                    f"{found} of {found + len(kept)} Linears {precision.upper()} by the Q/DQ of "
                    f"{name}{more}",
                )
            )
            facts.append((f"{precision.upper()} coverage", in_words(census(model))))
    if passport.plan is None or nvidia.gpu() is None:
        return facts
    try:
        runner = TensorRT(passport.plan.backend, folder / "model.plan", passport)
    except EdgeError as error:
        return [*facts, ("plan layers", f"the plan cannot be loaded here: {error}")]
    try:
        counts = count_layers(runner.layers())
    finally:
        runner.close()
    text = f"{counts['int8']} INT8 products, {counts['attention']} fused attentions"
    return [*facts, ("plan layers", f"{text} of {counts['layers']} layers")]


def count_layers(layers: Sequence[Any]) -> Counts:
    """Count the INT8 products and fused attentions of a plan built with detailed verbosity.

    layers: the `Layers` of TensorRT's engine inspector (JSON): names only, or objects with `Name`,
    `TacticName` and `Inputs` (each with `Format/Datatype`). An INT8 product has an Int8 input and a
    tactic with `i8i32`; a fused attention is one `_gemm_mha` layer per block.
    """
    counts = {"layers": len(layers), "int8": 0, "attention": 0}
    for layer in layers:
        entry = layer if isinstance(layer, dict) else {"Name": str(layer)}
        text = f"{entry.get('Name', '')} {entry.get('TacticName', '')} {entry.get('Metadata', '')}"
        inputs = " ".join(str(tensor) for tensor in entry.get("Inputs", ()))
        if "gemm_mha" in text:
            counts["attention"] += 1
        elif re.search(r"i8i32|i8816|imma", text) and re.search(r"int8", inputs, re.I):
            counts["int8"] += 1
    return counts
