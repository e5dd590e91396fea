"""What an engine's precision is in fact: by the Q/DQ of its graph, and by its plan on a GPU."""

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
    """(name, fact) of what is proved here, for `edge inspect`.

    The placement rules are checked on the graph; where the plan can be loaded, TensorRT's own
    engine inspector is asked. Raises `GraphError` for a graph that breaks a rule.
    """
    graphs = {passport.precision: ("model.onnx", passport.kept_fp16)}
    graphs |= {name: (c.graph, c.kept_fp16) for name, c in passport.candidates.items()}
    facts = []
    for precision, (name, kept) in graphs.items():
        model = graph.load(folder / name)
        if found := placement.check(model):
            more = f", {', '.join(placement.places(model))} too" if placement.places(model) else ""
            facts.append(
                (
                    f"placement {precision}",
                    f"{found} of {found + len(kept)} Linears {precision.upper()} by the Q/DQ of "
                    f"{name}, none elsewhere{more}",
                )
            )
            facts.append((f"products {precision}", in_words(census(model))))
    if passport.plan is None or nvidia.gpu() is None:
        return facts
    try:
        runner = TensorRT(passport.plan.backend, folder / "model.plan", passport)
    except EdgeError as error:
        return [*facts, ("proof in the plan", f"the plan cannot be loaded here: {error}")]
    try:
        counts = count_layers(runner.layers())
    finally:
        runner.close()
    text = f"{counts['int8']} INT8 products, {counts['attention']} fused attentions"
    return [*facts, ("proof in the plan", f"{text} of {counts['layers']} layers")]


def count_layers(layers: Sequence[Any]) -> Counts:
    """What TensorRT's engine inspector says of a plan, built with detailed verbosity.

    layers: its JSON `Layers`: names alone, or objects with `Name`, `TacticName`, `Inputs` (each
    with `Format/Datatype`). An INT8 product has an Int8 input and a tactic of `i8i32`; a fused
    attention is one `_gemm_mha` layer per block.
    """
    counts = {"layers": len(layers), "int8": 0, "attention": 0}
    for layer in layers:
        named = layer if isinstance(layer, dict) else {"Name": str(layer)}
        text = f"{named.get('Name', '')} {named.get('TacticName', '')} {named.get('Metadata', '')}"
        inputs = " ".join(str(tensor) for tensor in named.get("Inputs", ()))
        if "gemm_mha" in text:
            counts["attention"] += 1
        elif re.search(r"i8i32|i8816|imma", text) and re.search(r"int8", inputs, re.I):
            counts["int8"] += 1
    return counts
