"""Portable engine -> plan: the last stage of a build, and all of it on a board (no torch)."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from onnx import ModelProto

from edge.build import compile as compiling
from edge.build import fp16, graph, quantize
from edge.build.observer import Observer
from edge.build.ranges import Ranges
from edge.errors import CalibrationError, CompileError
from edge.passport import File, Passport
from edge.storage import alone, write_bytes, writing

__all__ = ["add_plan", "compile_engine", "describe", "make_forms"]


def make_forms(model: ModelProto, precision: str, ranges: Ranges | None) -> dict[str, ModelProto]:
    """The graphs of an engine: `portable` is its model.onnx; `device`, if another, is compiled.

    In an INT8 engine the portable rest is FP32, the fast form on a CPU; on a GPU it is FP16, but
    for the nodes that the graph itself says must stay FP32 (`fp16.set_kept`).
    """
    if precision == "fp32":
        return {"portable": model}
    if precision == "fp16":
        return {"portable": fp16.to_fp16(model, fp16.kept(model))}
    if ranges is None:
        raise CalibrationError("INT8 needs activation ranges", "run edge calibrate first")
    portable = quantize.to_int8(model, ranges.ranges)
    return {"portable": portable, "device": fp16.to_fp16(portable, fp16.kept(portable))}


def describe(precision: str, model: ModelProto) -> str:
    """What the quantize stage made, in words."""
    if precision == "int8":
        return f"{quantize.check_placement(model)} Linears INT8"
    return precision.upper()


def add_plan(
    folder: Path,
    passport: Passport,
    forms: dict[str, ModelProto],
    backend: str,
    cache: Path,
    observer: Observer,
) -> Passport:
    """Write `folder/model.plan`; returns the passport that knows it.

    cache: folder of TensorRT's timing cache.
    """
    observer.stage(f"compile ({backend})")
    with writing(folder), tempfile.TemporaryDirectory(prefix=".graph-", dir=folder) as scratch:
        source = Path(scratch) / "model.onnx"
        graph.save(forms.get("device", forms["portable"]), source)
        compiled = compiling.compile_plan(
            source,
            backend,
            input_shape=passport.input_shape,
            max_batch=passport.max_batch,
            cache=cache,
            progress=observer.progress,
        )
    path = folder / "model.plan"
    write_bytes(path, compiled.data)
    plan = compiled.plan(backend, passport.max_batch, passport.files["model.onnx"].sha256)
    observer.done(f"{len(compiled.data) / 1e6:.1f} MB for {plan.gpu or 'any GPU of this backend'}")
    return passport.with_plan(plan, {"model.plan": File.of(path)})


def compile_engine(folder: Path, backend: str | None, observer: Observer) -> Passport:
    """Make the plan of an engine on the machine that will run it; needs no torch.

    backend: None for the best that is installed. Raises `EngineError` for a damaged engine and
    `CompileError` when nothing here can compile it.
    """
    passport = Passport.read(folder)
    for name in passport.files:
        if name != "model.plan":
            passport.check_file(folder, name)
    found, why = compiling.available()
    backend = backend or found
    if backend is None:
        raise CompileError(why, "on a Jetson: sudo apt install python3-libnvinfer; see edge doctor")
    portable = graph.load(folder / "model.onnx")
    forms = {"portable": portable}
    if passport.precision == "int8":
        forms["device"] = fp16.to_fp16(portable, fp16.kept(portable))
    with alone(folder), _scratch(folder) as scratch:
        compiled = add_plan(scratch, passport, forms, backend, folder, observer)
        # Without its plan the passport is true at every moment in between.
        passport.with_plan(None, {}).write(folder)
        with writing(folder / "model.plan"):
            (scratch / "model.plan").replace(folder / "model.plan")
        compiled.write(folder)
    return compiled


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A folder inside the engine's, so that what is made there can be renamed into place."""
    scratch = folder / ".compile"
    with writing(folder):
        shutil.rmtree(scratch, ignore_errors=True)  # of a compile that was killed
        scratch.mkdir()
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
