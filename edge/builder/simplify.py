"""Simplification of graphs with onnxsim, checked against the original graph."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from onnx import ModelProto

from edge.builder import graph
from edge.builder.export import compare
from edge.errors import GraphError, require

__all__ = ["simplify"]

# A Linear as Gemm is wrapped in two Reshapes, behind which TensorRT 10.16 refuses to build Q/DQ
# pairs on Orin (issue 4832). The fusion of q, k and v into one MatMul is wanted: it is one larger
# GEMM, and onnxruntime runs it in INT8, which it does not for three that share one Q/DQ.
SKIPPED = (
    "fuse_matmul_add_bias_into_gemm",
    "fuse_matmul_add_bias_into_gemm_batched",
)


def simplify(model: ModelProto, images: npt.NDArray[np.float32]) -> tuple[ModelProto, float]:
    """Fold constants and remove nodes without effect.

    images: prepared images, float32 [N, 3, H, W], on which both graphs must agree. Returns the
    simpler graph and the largest absolute difference of an output. Raises `GraphError` when onnxsim
    fails, the result breaks a rule of `graph.check_operators`, or the two graphs disagree.
    """
    onnxsim = require("onnxsim")
    try:
        simpler, _ = onnxsim.simplify(model, skipped_optimizers=list(SKIPPED))
    except Exception as error:  # onnxsim passes on any exception of its C++ core
        raise GraphError(
            f"onnxsim cannot simplify the graph ({str(error).strip()[:200]})",
            "report it with the checkpoint's name",
        ) from error
    graph.set_metadata(simpler, graph.metadata(model))
    operators = {node.op_type for node in model.graph.node}
    graph.check_operators(simpler, operators.intersection(graph.FUSED))
    reference = graph.session(model).logits(images)
    difference = compare(simpler, images, reference, "the simplified graph", "the exported graph")
    return simpler, difference
