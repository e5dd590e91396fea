"""Fixes: what is known to make TensorRT compile a transformer correctly where it does not.

In the order in which they are tried, from the one that costs least speed. Each is applied alone, to
the graph that is compiled. Their sources: autoware-ml 95 (attention in BF16 where FP16 gives NaN),
TensorRT 4404, 4419, 4558, 4723, 4742 (wrong with 10.3 or 10.4, right with later versions).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from onnx import ModelProto, TensorProto

from edge.builder.compile import Restraint
from edge.builder.precision.islands import attention_core, in_type, residual_stream

__all__ = ["FIXES", "Fix"]


@dataclass(frozen=True)
class Fix:
    """A change of the graph, or a restraint of the compiler.

    name      in words, after "the plan "
    change    the changed graph; None if there is nothing to change in it
    """

    name: str
    change: Callable[[ModelProto], ModelProto | None] = lambda model: model
    restraint: Restraint = field(default_factory=Restraint)


FIXES = (
    Fix(
        "with its attention in BF16",
        lambda model: in_type(model, attention_core(model), TensorProto.BFLOAT16),
    ),
    Fix(
        "with its attention in FP32",
        lambda model: in_type(model, attention_core(model), TensorProto.FLOAT),
    ),
    Fix(
        "with its LayerNorms and residual sums in FP32",
        lambda model: in_type(model, residual_stream(model), TensorProto.FLOAT),
    ),
    Fix("with builder optimization level 1", restraint=Restraint(level=1)),
    Fix("without optional tactic sources", restraint=Restraint(tactic_sources=False)),
)
