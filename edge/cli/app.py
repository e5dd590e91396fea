"""`app`: the command `edge`, its global options, and the handling of errors."""

from __future__ import annotations

import os
import re
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from edge import __version__
from edge.cli.console import Console
from edge.engine.choices import Backend
from edge.errors import EdgeError, GateError

if TYPE_CHECKING:
    from edge.engine.engine import Engine
    from edge.engine.judge import Judgement

__all__ = [
    *("INTERRUPTED", "STOPPED", "app", "check_engine", "console", "open_engine", "refuse"),
    "say_unjudged",
]

STOPPED = "stopped; no incomplete files are left; run the same command again"
INTERRUPTED = 130  # 128 + SIGINT, as in a shell

_PYDANTIC = re.compile(r"^Value error, |^Input (?=should be )|, unable to parse .*")

_UsageError: Any = typer.BadParameter.__bases__[0]  # typer gives it no name of its own

console = Console()


class Commands(TyperGroup):
    """The one place where an error becomes a message and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except _UsageError as error:
            from edge.files.redaction import redact_text

            message = _PYDANTIC.sub("", error.message)  # without the phrases of pydantic
            error.message = redact_text(message)  # a URI in the wrong place
            if ctx.invoked_subcommand == "run" and "unexpected extra argument" in message:
                error.message += "; write --source before a source"
            raise
        except EdgeError as error:
            if os.environ.get("EDGE_DEBUG"):
                raise
            problem, code = str(error), 1
        except KeyboardInterrupt:
            # A run leaves no files to complete; its results so far are written.
            problem = "stopped" if ctx.invoked_subcommand == "run" else STOPPED
            code = INTERRUPTED
        finally:
            console.close()
        console.error(problem)
        raise typer.Exit(code)


app = typer.Typer(
    name="edge",
    cls=Commands,
    help="A Hugging Face ViT becomes a TensorRT engine you can trust.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # The American spelling of an option is accepted too.
    context_settings={
        "token_normalize_func": lambda token: token.replace("normalize", "normalise")
    },
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"vit-edge {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="show the version")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="errors with traceback")] = False,
) -> None:
    if debug:
        os.environ["EDGE_DEBUG"] = "1"
    # Warnings of Pillow name neither the image nor a hint; the image is read anyway.
    warnings.filterwarnings("ignore", module=r"PIL\.")


def say_unjudged(folder: Path, judged: bool) -> None:
    if not judged:
        console.warn(f"{folder} was published without a gate: its accuracy was not evaluated")


def check_engine(folder: Path, backend: Backend, threads: int | None) -> Judgement:
    """Judge an engine on its witnesses here. Raises `EngineError` if it has none."""
    from functools import partial

    from edge.engine.judging import judge_apart

    console.stage("check")
    found = judge_apart(folder, backend, threads, partial(console.progress, "images"))
    console.done(str(found))
    return found


def refuse(folder: Path, found: Judgement) -> None:
    """Raises `GateError` for a judgement that refuses an engine."""
    if found.refused:
        raise GateError(
            f"{folder} does not give FP32's answers here: {found.refused}",
            f"make a plan here again: edge compile {folder}; or use another --backend; see "
            "docs/trust.md",
        )


def open_engine(folder: Path, backend: Backend, threads: int | None) -> Engine:
    """Open an engine and report its backend, and why that was chosen."""
    from edge.engine.engine import Engine
    from edge.gpu import nvidia

    model = Engine.open(folder, backend=backend, threads=threads, info=console.info)
    judged = f"; the plan {model.plan_accuracy}" if model.plan_accuracy else ""
    console.info(f"{folder}: {model.backend} ({model.reason}){judged}; {model.frame_path}")
    if model.backend in nvidia.BACKENDS and not judged:
        console.warn(f"the plan of {folder} was never judged; judge it: edge check {folder}")
    say_unjudged(folder, model.passport.judged)
    return model
