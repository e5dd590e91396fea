"""Plans for engines: the last stage of a build, and all of `edge compile` (needs no torch)."""

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
from edge.engine.passport import File, Passport, Plan
from edge.engine.tensorrt import TensorRT
from edge.engine.timing import interleave
from edge.errors import CalibrationError, CompileError
from edge.files.storage import alone, write_bytes, writing
from edge.gpu import nvidia

__all__ = ["add_plan", "compile_engine", "describe", "device_form", "make_forms", "time_on_gpu"]

ROUNDS = 50  # of the timing on a GPU

Timer = Callable[[Path, Passport], float | None]  # (plan file, passport that lists it) -> ms


def make_forms(
    model: ModelProto,
    precision: str,
    ranges: Ranges | None,
    not_quantised: Collection[str] = (),
    also: Collection[str] = (),
    peaks: Callable[[ModelProto], Mapping[str, float]] = lambda _: {},
) -> dict[str, ModelProto]:
    """The graphs of an engine, by form: `portable` is its model.onnx, `device` is compiled.

    Without `device` the portable form is compiled. What is not quantised in an INT8 engine is FP32
    in the portable form, which is fast on a CPU, and FP16 in the device form, except the nodes that
    the graph itself keeps FP32 (`fp16.set_kept`). not_quantised: MatMuls of Linears that stay
    unquantised. also: further places to quantise, of `placement.PLACES`; peaks: measures the
    tensors of a graph for those. Raises `CalibrationError` when `ranges` are missing.
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
    """The graph that is compiled for a GPU, made from the portable graph of an engine."""
    return fp16.to_fp16(portable, fp16.kept(portable)) if precision in NUMBERS else portable


def describe(precision: str, model: ModelProto) -> str:
    """The result of the quantize stage, in words."""
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
    """Write `folder/model.plan`; returns the passport that lists it.

    graphs: precision -> (its file in the passport, a function that loads the graph to compile), the
    preferred one first. Graphs are loaded one by one, since a board cannot hold all of them. With a
    GPU all are compiled and the fastest is kept; without, the first is. cache: folder of TensorRT's
    timing cache. timer: the milliseconds that a plan takes here; None where it cannot be measured.
    Raises `MissingPackage`, `CompileError`, `StorageError`.
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
        with_plan = passport.with_plan(plan, {"model.plan": File.of(path)})
        ms = timer(path, with_plan) if len(graphs) > 1 else None
        speed = f", {ms:.2f} ms" if ms is not None else ""
        observer.done(f"{len(compiled.data) / 1e6:.1f} MB for {plan.gpus}{speed}")
        if ms is None:
            if best is None:
                best = (0.0, precision, plan, compiled.data)
            break  # without times the preferred one is kept
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
    """Compile the plan of an engine on the machine that will run it; needs no torch.

    backend: None for the best that is installed. An engine that carries candidates gets the plan
    of the fastest one, measured by `timer` (default: `time_on_gpu`). Raises `EngineError` for a
    damaged engine and `CompileError` when no installed backend can compile it.
    """
    passport = Passport.read(folder)
    passport.check_files(folder, set(passport.files) - {"model.plan"})
    best, why_none = compiling.available()
    backend = backend or best
    if backend is None:
        hint = "on a Jetson: sudo apt install python3-libnvinfer; see edge doctor"
        raise CompileError(why_none, hint)
    files = {passport.precision: "model.onnx"}
    files |= {name: carried.graph for name, carried in passport.candidates.items()}

    def load(precision: str) -> ModelProto:
        return device_form(graph.load(folder / files[precision]), precision)

    graphs = {precision: (name, partial(load, precision)) for precision, name in files.items()}
    with alone(folder), _scratch(folder) as scratch:
        compiled = add_plan(
            scratch, passport, graphs, backend, folder, observer, timer or time_on_gpu
        )
        # The passport first drops the old plan, so that it is correct at every moment.
        passport.with_plan(None, {}).write(folder)
        with writing(folder / "model.plan"):
            (scratch / "model.plan").replace(folder / "model.plan")
        compiled.write(folder)
    return compiled


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A temporary folder inside the engine's: files can be renamed from it into place."""
    scratch = folder / ".compile"
    with writing(folder):
        shutil.rmtree(scratch, ignore_errors=True)  # a killed compile may have left one
        scratch.mkdir()
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
