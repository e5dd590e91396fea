"""Plans for engines: the last stage of a build, and all of `edge compile` (needs no torch)."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
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
from edge.engine.passport import File, Passport
from edge.engine.tensorrt import TensorRT
from edge.engine.timing import Timing, measure
from edge.errors import CalibrationError, CompileError
from edge.files.storage import alone, write_bytes, writing
from edge.gpu import nvidia

__all__ = ["add_plan", "compile_engine", "describe", "device_form", "gpu_timer", "make_forms"]

# Plans by name, each with a passport that lists it -> their times.
Timer = Callable[[Mapping[str, tuple[Path, Passport]]], Timing]


def make_forms(
    model: ModelProto,
    precision: str,
    ranges: Ranges | None,
    not_quantised: Collection[str] = (),
    also: Collection[str] = (),
    peaks: Callable[[ModelProto], Mapping[str, float]] = lambda _: {},
) -> dict[str, ModelProto]:
    """The graphs of an engine, by form: `portable` is its model.onnx, `device` is compiled.

    Without `device` the portable form is compiled. The nodes of an INT8 engine that are not
    quantised are FP32 in the portable form, which is fast on a CPU, and FP16 in the device form,
    except those that the graph itself keeps FP32 (`fp16.set_kept`).

    not_quantised: MatMuls of Linears that stay unquantised. also: further places to quantise, of
    `placement.PLACES`; peaks: measures the tensors of a graph for those. Raises `CalibrationError`
    when `ranges` are missing.
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
    timer: Timer | None = None,
) -> Passport:
    """Write `folder/model.plan`; returns the passport that lists it.

    graphs: precision -> (its file in the passport, a function that loads the graph to compile), the
    preferred one first. Graphs are loaded one by one, since a board cannot hold all of them. cache:
    folder of TensorRT's timing cache. timer: times two plans side by side; a plan replaces the
    preferred one only if it is faster for certain. Without a timer the preferred one is compiled
    alone. Raises `MissingPackage`, `CompileError`, `StorageError`.
    """
    best, duels = "", list[str]()
    with writing(folder), tempfile.TemporaryDirectory(prefix=".plans-", dir=folder) as scratch:
        made: dict[str, tuple[Path, Passport]] = {}
        for precision, (name, load) in graphs.items():
            observer.stage(f"compile {precision} ({backend})")
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
            path = Path(scratch) / f"{precision}.plan"
            write_bytes(path, compiled.data)
            made[precision] = path, passport.with_plan(plan, {"model.plan": File.of(path)})
            text = f"{len(compiled.data) / 1e6:.1f} MB for {plan.gpus}"
            best = best or precision
            if timer is not None and precision != best:
                timing = timer({one: made[one] for one in (best, precision)})
                made = {one: (made[one][0], _timed(made[one][1], timing.ms(one))) for one in made}
                speed = timing.speed(precision, best)
                duels.append(f"{precision.upper()} is {speed} {best.upper()}")
                text += f", {duels[-1]}"
                best = precision if speed.faster else best
                made = {best: made[best]}
            observer.done(text)
            if timer is None:
                break
        path, found = made[best]
        path.replace(folder / "model.plan")
    if duels and found.plan:
        why = f"{best.upper()} was chosen by speed on {found.plan.gpu}: {'; '.join(duels)}"
        found = replace(found, plan=replace(found.plan, why=why))
    return found


def _timed(passport: Passport, ms: float) -> Passport:
    """The passport of a plan that takes `ms` for one image."""
    assert passport.plan is not None
    return replace(passport, plan=replace(passport.plan, ms=ms))


def time_on_gpu(plans: Mapping[str, tuple[Path, Passport]]) -> Timing:
    """Time one image with each plan (name -> its file and a passport that lists it), in turns."""
    with ExitStack() as stack:

        def call(path: Path, passport: Passport) -> Callable[[], object]:
            assert passport.plan is not None
            runner = TensorRT(passport.plan.backend, path, passport)
            stack.callback(runner.close)
            batch = np.random.default_rng(0).standard_normal((1, *passport.input_shape))
            return partial(runner.infer, batch.astype(np.float32))

        return measure({name: call(*plan) for name, plan in plans.items()})


def gpu_timer() -> Timer | None:
    """`time_on_gpu` on a machine with a GPU."""
    return time_on_gpu if nvidia.gpu() is not None else None


def compile_engine(
    folder: Path, backend: str | None, observer: Observer, timer: Timer | None = None
) -> Passport:
    """Compile the plan of an engine on the machine that will run it; needs no torch.

    backend: None for the best that is installed. An engine that carries candidates gets the plan
    of the fastest one, measured by `timer` (default: `gpu_timer`). Raises `EngineError` for a
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
            scratch, passport, graphs, backend, folder, observer, timer or gpu_timer()
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
