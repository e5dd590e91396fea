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
from edge.builder.attempts import Attempt, Attempts, Graphs, Judge, Timer
from edge.builder.observer import Observer
from edge.builder.precision import fp16, placement, quantize
from edge.builder.precision.dtypes import NUMBERS
from edge.builder.precision.ranges import Ranges
from edge.engine.judging import judge_apart
from edge.engine.passport import Passport
from edge.engine.tensorrt import TensorRT
from edge.engine.timing import Timing, measure
from edge.errors import CalibrationError, CompileError
from edge.files.storage import alone, writing
from edge.gpu import nvidia

__all__ = [
    *("add_plan", "compile_engine", "describe", "device_form", "gpu_judge", "gpu_timer"),
    "make_forms",
]


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
    graphs: Graphs,
    backend: str,
    cache: Path,
    observer: Observer,
    timer: Timer | None = None,
    judge: Judge | None = None,
    witnesses: Path | None = None,
) -> Passport:
    """Write `folder/model.plan`; returns the passport that lists it.

    graphs: the preferred one first. They are loaded one by one, since a board cannot hold all of
    them. cache: folder of TensorRT's timing cache. timer: times two plans side by side; a plan
    replaces the preferred one only if it is faster for certain. Without a timer the first plan that
    passes is taken. judge: judges each plan on the witnesses in the folder `witnesses`, by default
    `folder`. If no graph gives a plan that passes, the first is tried again with each of
    `fixes.FIXES`.

    Raises `MissingPackage`, `CompileError`, `StorageError`, and `GateError` if no plan passes.
    """
    with writing(folder), tempfile.TemporaryDirectory(prefix=".plans-", dir=folder) as scratch:
        attempts = Attempts(
            Path(scratch), witnesses or folder, passport, backend, cache, observer, judge
        )
        best: Attempt | None = None
        failed: Attempt | None = None
        unbuilt: CompileError | None = None
        duels = list[str]()
        for precision, (name, load) in graphs.items():
            try:
                found = attempts.attempt(precision, name, load())
            except CompileError as error:
                unbuilt = unbuilt or error
                attempts.give_up(precision, error)
                continue
            if found.refused:
                failed = failed or found
                continue
            if best is None:
                best = found
            elif timer is not None:
                observer.stage(f"time {best.precision}, {found.precision}")
                best, duel = _faster(best, found, timer)
                duels.append(duel)
                observer.done(duel)
            if timer is None:
                break
        if best is None and failed is None and unbuilt is not None:
            raise unbuilt
        if best is None:
            assert failed is not None  # there is at least one graph
            best = attempts.fixed(failed, graphs[failed.precision][1], timer)
        (best.folder / "model.plan").replace(folder / "model.plan")
    made = best.passport
    if duels and made.plan:
        why = f"{best.precision.upper()} was chosen by speed on {made.plan.gpu}: {'; '.join(duels)}"
        made = replace(made, plan=replace(made.plan, why=why))
    return made


def _faster(best: Attempt, other: Attempt, timer: Timer) -> tuple[Attempt, str]:
    """The faster of two plans, and their speed in words. Unless told apart, it is `best`."""
    timing = timer({one.precision: one.plan for one in (best, other)})
    speed = timing.speed(other.precision, best.precision)
    duel = f"{other.precision.upper()} is {speed} {best.precision.upper()}"
    won = other if speed.faster else best
    return replace(won, passport=_timed(won.passport, timing.ms(won.precision))), duel


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


def gpu_judge(backend: str, passport: Passport, warn: Callable[[str], None]) -> Judge | None:
    """`judge_apart` on a machine with a GPU; None, and a warning, where plans cannot be judged."""
    if nvidia.gpu() is None:
        warn("there is no GPU here, so the plan is not judged; where it runs: edge check ENGINE")
        return None
    if passport.witnesses is None:
        warn("the plan is not judged: the engine has no witnesses; build it again: edge build")
        return None
    return lambda folder, progress: judge_apart(folder, backend, progress=progress)


def compile_engine(
    folder: Path,
    backend: str | None,
    observer: Observer,
    timer: Timer | None = None,
    judge: Judge | None = None,
) -> Passport:
    """Compile the plan of an engine on the machine that will run it; needs no torch.

    backend: None for the best that is installed. The plan is judged on the engine's witnesses by
    `judge` (default: `gpu_judge`), and one that is refused is not published: see `add_plan`. An
    engine that carries candidates gets the plan of the fastest one, measured by `timer` (default:
    `gpu_timer`).

    Raises `EngineError` for a damaged engine, `CompileError` when no installed backend can compile
    it, and `GateError` when every plan is refused. The engine then stays as it was.
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
    timer, judge = timer or gpu_timer(), judge or gpu_judge(backend, passport, observer.warn)
    with alone(folder), _scratch(folder) as scratch:
        compiled = add_plan(
            scratch, passport, graphs, backend, folder, observer, timer, judge, folder
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
