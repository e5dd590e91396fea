"""What the commands of `edge` have in common: choices, arguments, options."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "Backend",
    "BackendOption",
    "EngineArgument",
    "GraphArgument",
    "ImagesOption",
    "Method",
    "OutOption",
    "Plans",
    "Precision",
    "ThreadsOption",
    "Wanted",
]


class Precision(str, Enum):
    fp32 = "fp32"
    fp16 = "fp16"
    int8 = "int8"
    fp8 = "fp8"


class Wanted(str, Enum):
    fp32 = "fp32"
    fp16 = "fp16"
    int8 = "int8"
    fp8 = "fp8"
    auto = "auto"


class Method(str, Enum):
    auto = "auto"
    minmax = "minmax"
    percentile = "percentile"
    entropy = "entropy"
    mse = "mse"


class Backend(str, Enum):
    auto = "auto"
    onnxruntime = "onnxruntime"
    tensorrt = "tensorrt"
    tensorrt_rtx = "tensorrt-rtx"


class Plans(str, Enum):
    tensorrt = "tensorrt"
    tensorrt_rtx = "tensorrt-rtx"


EngineArgument = Annotated[Path, typer.Argument(metavar="ENGINE", help="folder made by edge build")]
GraphArgument = Annotated[
    Path, typer.Argument(metavar="GRAPH", help="an ONNX graph of edge export")
]
ImagesOption = Annotated[Path, typer.Option("--images", help="folder of images of your domain")]
OutOption = Annotated[Path, typer.Option("--out", "-o", help="file to write")]
BackendOption = Annotated[Backend, typer.Option(help="what executes the engine")]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, help="CPU threads of onnxruntime; all by default")
]
