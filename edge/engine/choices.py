"""The values of `--precision`, `--method`, `--backend` and `--format`, and of the same keys."""

from __future__ import annotations

from typing import Literal, TypeAlias

__all__ = [
    "MAX_BATCH",
    "Backend",
    "Format",
    "Method",
    "PlanBackend",
    "Precision",
    "PrecisionChoice",
]

Precision: TypeAlias = Literal["fp32", "fp16", "int8", "fp8"]
PrecisionChoice: TypeAlias = Literal[Precision, "auto"]
Method: TypeAlias = Literal["auto", "minmax", "percentile", "entropy", "mse"]
PlanBackend: TypeAlias = Literal["tensorrt", "tensorrt-rtx"]
Backend: TypeAlias = Literal["auto", "onnxruntime", "onnxruntime-cuda", PlanBackend]
Format: TypeAlias = Literal["json", "text"]

MAX_BATCH = 4096  # of the graph's dynamic batch
