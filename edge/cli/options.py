"""The arguments and options that several commands of `edge` share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, get_args

import typer

from edge.engine.choices import Backend
from edge.engine.heads import Pooling, Task

__all__ = [
    "BACKENDS",
    "BackendOption",
    "EngineArgument",
    "GraphArgument",
    "ImageSizeOption",
    "ImagesArgument",
    "ImagesOption",
    "LabelsOption",
    "NormaliseOption",
    "OutOption",
    "PoolingOption",
    "TaskOption",
    "TemplateOption",
    "ThreadsOption",
]


# In the words of the help: a metavar with all of them would be cut in the middle of words.
BACKENDS = f"what executes the engine: {', '.join(get_args(Backend))}"

EngineArgument = Annotated[Path, typer.Argument(metavar="ENGINE", help="folder made by edge build")]
GraphArgument = Annotated[
    Path, typer.Argument(metavar="GRAPH", help="ONNX graph made by edge export")
]
# A file that may not be read is an error of this file, and not of the command.
ImagesArgument = Annotated[list[Path], typer.Argument(metavar="IMAGE...", readable=False)]
ImagesOption = Annotated[Path, typer.Option("--images", help="folder of images of your domain")]
OutOption = Annotated[Path, typer.Option("--out", "-o", help="file to write")]
TaskOption = Annotated[
    Task | None,
    typer.Option(
        metavar="TASK",
        case_sensitive=False,
        help=f"{', '.join(get_args(Task))}; default: that of the checkpoint",
    ),
]
PoolingOption = Annotated[
    Pooling | None,
    typer.Option(
        case_sensitive=False, help="how tokens become one embedding; default own: as the model does"
    ),
]
NormaliseOption = Annotated[bool, typer.Option("--normalise", help="scale embeddings to length 1")]
LabelsOption = Annotated[
    str | None,
    typer.Option(help='for zero-shot: "a cat,a dog", or a .txt file with one label per line'),
]
TemplateOption = Annotated[
    list[str] | None,
    typer.Option(help='prompt for labels, "a photo of a {}."; repeat for more, which are averaged'),
]
ImageSizeOption = Annotated[
    int | None,
    typer.Option(min=1, help="side of the input in pixels, such as 384; default: as trained"),
]
BackendOption = Annotated[
    Backend, typer.Option(metavar="BACKEND", case_sensitive=False, help=BACKENDS)
]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, help="CPU threads of onnxruntime; all by default")
]
