"""What the commands of `edge` have in common: choices, arguments, options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edge.engine.choices import Backend
from edge.engine.heads import Pooling, Task

__all__ = [
    "BackendOption",
    "EngineArgument",
    "GraphArgument",
    "ImageSizeOption",
    "ImagesOption",
    "LabelsOption",
    "NormaliseOption",
    "OutOption",
    "PoolingOption",
    "TaskOption",
    "TemplateOption",
    "ThreadsOption",
]


EngineArgument = Annotated[Path, typer.Argument(metavar="ENGINE", help="folder made by edge build")]
GraphArgument = Annotated[
    Path, typer.Argument(metavar="GRAPH", help="an ONNX graph of edge export")
]
ImagesOption = Annotated[Path, typer.Option("--images", help="folder of images of your domain")]
OutOption = Annotated[Path, typer.Option("--out", "-o", help="file to write")]
TaskOption = Annotated[
    Task | None, typer.Option(help="what the engine is for; default: what the checkpoint is for")
]
PoolingOption = Annotated[
    Pooling | None, typer.Option(help="how features become one vector; default own: the model's")
]
NormaliseOption = Annotated[
    bool, typer.Option("--normalise", "--normalize", help="features of length 1")
]
LabelsOption = Annotated[
    str | None,
    typer.Option(help='of zero-shot: "a cat,a dog", or a .txt file with one label per line'),
]
TemplateOption = Annotated[
    list[str] | None,
    typer.Option(help='prompt for labels, "a photo of a {}."; again for more, which are averaged'),
]
ImageSizeOption = Annotated[
    int | None,
    typer.Option(min=1, help="pixels of a side, such as 384; default: as it was trained"),
]
BackendOption = Annotated[Backend, typer.Option(help="what executes the engine")]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, help="CPU threads of onnxruntime; all by default")
]
