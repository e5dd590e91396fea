"""Portable engine -> plan: the last stage of a build, and all of it on a board (no torch)."""

from __future__ import annotations

import shutil
import statistics
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from onnx import ModelProto

from edge.builder import compile as compiling
from edge.builder import graph
from edge.builder.observer import Observer
from edge.builder.precision import fp16, placement, quantize
from edge.builder.precision.dtypes import NUMBERS
from edge.builder.precision.ranges import Ranges
from edge.engine.bench import interleave
from edge.engine.passport import File, Passport, Plan
from edge.engine.tensorrt import TensorRT
from edge.errors import CalibrationError, CompileError
from edge.files.storage import alone, write_bytes, writing
from edge.gpu import nvidia

__all__ = ["add_plan", "compile_engine", "describe", "device_form", "make_forms", "time_on_gpu"]

ROUNDS = 50  # of the timing on a GPU

Timer = Callable[[Path, Passport], float | None]  # (plan file, passport that knows it) -> ms


def make_forms(
    model: ModelProto,
    precision: str,
    ranges: Ranges | None,
    not_quantised: Collection[str] = (),
    also: Collection[str] = (),
    peaks: Callable[[ModelProto], Mapping[str, float]] = lambda _: {},
) -> dict[str, ModelProto]:
    """The graphs of an engine: `portable` is its model.onnx; `device`, if another, is compiled.

    In an INT8 engine the portable rest is FP32, the fast form on a CPU; on a GPU it is FP16, but
    for the nodes that the graph itself says must stay FP32 (`fp16.set_kept`). not_quantised:
    MatMuls of Linears that stay as they are. also: of `placement.PLACES`; peaks:
    what measures a graph's tensors for those.
    """
    if precision == "fp32":
        return {"portable": model}
    if precision == "fp16":
        return {"portable": fp16.to_fp16(model, fp16.kept(model))}
    if ranges is None:
        raise CalibrationError(
            f"{precision.upper()} needs activation ranges", "run edge calibrate first"
        )
    portable = quantize.to_qdq(model, ranges.ranges, not_quantised, NUMBERS[precision])
    if also:
        portable = placement.add(portable, peaks(portable), also, NUMBERS[precision])
    return {"portable": portable, "device": device_form(portable, precision)}


def device_form(portable: ModelProto, precision: str) -> ModelProto:
    """The graph that is compiled for a GPU, from the one that an engine's folder holds."""
    return fp16.to_fp16(portable, fp16.kept(portable)) if precision in NUMBERS else portable


def describe(precision: str, model: ModelProto) -> str:
    """What the quantize stage made, in words."""
    if precision in NUMBERS:
        return f"{placement.check(model)} Linears {precision.upper()}"
    return precision.upper()


def add_plan(
    folder: Path,
    passport: Passport,
    graphs: Mapping[str, tuple[str, Callable[[], ModelProto]]],
    backend: str,
    cache: Path,
    observer: Observer,
    timer: Timer = lambda *_: None,
) -> Passport:
    """Write `folder/model.plan`; returns the passport that knows it.

    graphs: precision -> (its file in the passport, what gives the graph that is compiled of it,
    since a board cannot hold all at once), the preferred one first. With a GPU all are compiled and
    the fastest stays; without, the first. cache: folder of TensorRT's timing cache. timer: how long
    a plan takes here, None where that cannot be told.
    """
    best: tuple[float, str, Plan, bytes] | None = None
    taken: dict[str, float] = {}
    path = folder / "model.plan"
    for precision, (name, load) in graphs.items():
        observer.stage(f"compile {precision} ({backend})")
        with writing(folder), tempfile.TemporaryDirectory(prefix=".graph-", dir=folder) as scratch:
            source = Path(scratch) / "model.onnx"
            graph.save(load(), source)
            compiled = compiling.compile_plan(
                source,
                backend,
                input_shape=passport.input_shape,
                max_batch=passport.max_batch,
                cache=cache,
                progress=observer.progress,
            )
        plan = compiled.plan(backend, name, passport.max_batch, passport.files[name].sha256)
        write_bytes(path, compiled.data)
        known = passport.with_plan(plan, {"model.plan": File.of(path)})
        ms = timer(path, known) if len(graphs) > 1 else None
        speed = f", {ms:.2f} ms" if ms is not None else ""
        observer.done(f"{len(compiled.data) / 1e6:.1f} MB for {plan.gpus}{speed}")
        if ms is None:
            if best is None:
                best = (0.0, precision, plan, compiled.data)
            break  # nothing to compare with: the preferred one it is
        taken[precision] = ms
        if best is None or ms < best[0]:
            best = (ms, precision, plan, compiled.data)
    assert best is not None
    _, precision, plan, data = best
    if taken:
        others = ", ".join(f"{name.upper()} {ms:.2f} ms" for name, ms in taken.items())
        why = f"{precision.upper()} is the fastest that passed the gate on {plan.gpu}: {others}"
        plan = replace(plan, ms=taken[precision], why=why)
        write_bytes(path, data)
    return passport.with_plan(plan, {"model.plan": File.of(path)})


def time_on_gpu(plan: Path, passport: Passport) -> float | None:
    """Median milliseconds of one picture with this plan; None on a machine without a GPU."""
    if nvidia.gpu() is None or passport.plan is None:
        return None
    runner = TensorRT(passport.plan.backend, plan, passport)
    try:
        batch = np.random.default_rng(0).standard_normal((1, *passport.input_shape))
        calls = {"plan": lambda: runner.infer(batch.astype(np.float32))}
        return statistics.median(interleave(calls, ROUNDS)["plan"])
    finally:
        runner.close()


def compile_engine(
    folder: Path, backend: str | None, observer: Observer, timer: Timer | None = None
) -> Passport:
    """Make the plan of an engine on the machine that will run it; needs no torch.

    backend: None for the best that is installed. An engine that carries candidates gets the plan
    of the fastest, by `timer` (by default the backend itself, where there is a GPU). Raises
    `EngineError` for a damaged engine and `CompileError` when nothing here can compile it.
    """
    passport = Passport.read(folder)
    for name in passport.files:
        if name != "model.plan":
            passport.check_file(folder, name)
    found, why = compiling.available()
    backend = backend or found
    if backend is None:
        raise CompileError(why, "on a Jetson: sudo apt install python3-libnvinfer; see edge doctor")
    files = {passport.precision: "model.onnx"}
    files |= {name: carried.graph for name, carried in passport.candidates.items()}

    def load(precision: str) -> ModelProto:
        return device_form(graph.load(folder / files[precision]), precision)

    graphs = {precision: (name, partial(load, precision)) for precision, name in files.items()}
    with alone(folder), _scratch(folder) as scratch:
        compiled = add_plan(
            scratch, passport, graphs, backend, folder, observer, timer or time_on_gpu
        )
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
