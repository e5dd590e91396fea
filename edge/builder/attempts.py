"""Attempts: plans that are compiled and judged, until one passes.

Nothing is trusted that was not judged: TensorRT 10.3, which JetPack 6 ships, is known to compile
some transformers to plans that answer wrongly, without a word.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from onnx import ModelProto

from edge.builder import compile as compiling
from edge.builder import graph
from edge.builder.fixes import FIXES, Fix
from edge.builder.observer import Observer
from edge.engine.judge import Judgement
from edge.engine.passport import File, Passport, PlanAccuracy
from edge.engine.timing import Timing
from edge.engine.witnesses import ANSWERS, IMAGES
from edge.errors import BackendError, CompileError, EngineError, GateError
from edge.files.storage import write_bytes
from edge.gpu import nvidia

__all__ = ["Attempt", "Attempts", "Graphs", "Judge", "Timer"]

# Precision -> (its file in the passport, a function that loads the graph to compile).
Graphs = Mapping[str, tuple[str, Callable[[], ModelProto]]]
# Plans by name, each with a passport that lists it -> their times.
Timer = Callable[[Mapping[str, tuple[Path, Passport]]], Timing]
# The folder of an engine with a plan, called with (images done, of) -> the judgement of the plan.
Judge = Callable[[Path, Callable[[int, int], None]], Judgement]


@dataclass(frozen=True)
class Attempt:
    """A compiled plan in a folder of its own, with a passport that lists it.

    precision  of its graph
    judgement  None: it was not judged, without a GPU or without witnesses
    fix        what was changed to compile it; None: nothing
    """

    folder: Path
    passport: Passport
    precision: str
    judgement: Judgement | None
    fix: Fix | None = None

    @property
    def plan(self) -> tuple[Path, Passport]:
        """For a `Timer`."""
        return self.folder / "model.plan", self.passport

    @property
    def refused(self) -> str:
        """Why it was refused, after its name; "" if it passed or was not judged."""
        if self.judgement is None or not self.judgement.refused:
            return ""
        fix = f" {self.fix.name}" if self.fix else ""
        return f"{self.precision.upper()}{fix}: {self.judgement.refused}"


class Attempts:
    """Compiles and judges the plans of one engine.

    refused  why each attempt that failed did
    """

    def __init__(
        self,
        scratch: Path,
        engine: Path,
        passport: Passport,
        backend: str,
        cache: Path,
        observer: Observer,
        judge: Judge | None,
    ):
        """scratch: for the attempts' folders. engine: the folder with the witnesses. cache: of
        TensorRT's timings. judge: None where nothing can run the plans.
        """
        self._scratch, self._engine, self._passport = scratch, engine, passport
        self._backend, self._cache, self._observer = backend, cache, observer
        self._judge = judge if passport.witnesses else None
        self.refused: list[str] = []
        self._count = 0

    def attempt(
        self, precision: str, file: str, model: ModelProto, fix: Fix | None = None
    ) -> Attempt:
        """Compile a graph and judge the plan. file: the graph's in the passport.

        Raises `MissingPackage`, `CompileError`, `StorageError`.
        """
        passport, observer = self._passport, self._observer
        what = f"{precision} {fix.name}" if fix else precision
        observer.stage(f"compile {what} ({self._backend})")
        self._count += 1
        folder = self._scratch / str(self._count)
        folder.mkdir()
        source = folder / "model.onnx"
        graph.save(model, source)
        compiled = compiling.compile_plan(
            source,
            self._backend,
            input_shape=passport.input_shape,
            max_batch=passport.max_batch,
            cache=self._cache,
            progress=observer.progress,
            restraint=fix.restraint if fix else compiling.Restraint(),
        )
        for path in folder.iterdir():  # the graph and its weights
            path.unlink()
        sha256 = passport.files[file].sha256
        plan = compiled.plan(self._backend, file, passport.max_batch, sha256)
        write_bytes(folder / "model.plan", compiled.data)
        listed = passport.with_plan(plan, {"model.plan": File.of(folder / "model.plan")})
        observer.done(f"{len(compiled.data) / 1e6:.1f} MB for {plan.gpus}")
        found = Attempt(folder, listed, precision, None, fix)
        if self._judge is not None:
            observer.stage(f"judge {what} ({self._backend})")
            found = self._judged(found, self._judge)
            if found.refused:
                self.refused.append(found.refused)
        return found

    def _judged(self, attempt: Attempt, judge: Judge) -> Attempt:
        folder, observer = attempt.folder, self._observer
        attempt.passport.write(folder)
        for name in (IMAGES, ANSWERS):
            (folder / name).symlink_to((self._engine / name).resolve())
        try:
            found = judge(folder, lambda done, total: observer.progress("images", done, total))
        except (BackendError, EngineError) as error:  # it cannot even be loaded
            found = Judgement(self._backend, None, (), 0, error.problem, 0.0)
        if found.refused or found.accuracy is None:
            found = replace(found, refused=found.refused or "no witness ran")
            observer.done(f"refused: {found.refused}")
            return replace(attempt, judgement=found)
        measured = PlanAccuracy(
            found.accuracy,
            found.batches,
            found.runs,
            attempt.fix.name if attempt.fix else "",
            tuple(self.refused),
        )
        observer.done(f"{measured} in {found.runs} runs")
        listed = replace(attempt.passport, plan_accuracy=measured)
        return replace(attempt, passport=listed, judgement=found)

    def fixed(
        self, failed: Attempt, load: Callable[[], ModelProto], timer: Timer | None
    ) -> Attempt:
        """The first attempt to fix a refused plan that passes.

        load: the graph that was compiled. timer: compares the two plans, if the refused one ran.
        Raises `GateError` when none passes.
        """
        plan = failed.passport.plan
        assert plan is not None
        for fix in FIXES:
            model = fix.change(load())
            if model is None:
                continue
            try:
                found = self.attempt(failed.precision, plan.graph, model, fix)
            except CompileError as error:
                self.give_up(f"{failed.precision} {fix.name}", error)
                continue
            if not found.refused:
                return self._explained(found, failed, timer)
            shutil.rmtree(found.folder)  # a board's disk is small, and a plan is not
        raise self.nothing_passed()

    def give_up(self, what: str, error: CompileError) -> None:
        """Note that there is no plan of a graph: precision, and name of the fix."""
        self._observer.done(f"refused: {error.problem}")
        precision, space, fix = what.partition(" ")
        self.refused.append(f"{precision.upper()}{space}{fix}: {error.problem}")

    def nothing_passed(self) -> GateError:
        """The error when every attempt was refused."""
        here = f"{self._backend} {nvidia.version(self._backend)}"
        return GateError(
            f"no plan of {self._passport.name} gives FP32's answers with {here} here: "
            f"{'; '.join(self.refused)}",
            "use another version of TensorRT, or --backend onnxruntime; see docs/trust.md",
        )

    def _explained(self, found: Attempt, failed: Attempt, timer: Timer | None) -> Attempt:
        """The attempt, whose plan says what was wrong and what fixed it."""
        plan, judgement, fix = found.passport.plan, failed.judgement, found.fix
        assert plan is not None and judgement is not None and fix is not None
        speed = ""
        if timer is not None and judgement.accuracy is not None:
            timing = timer({"refused": failed.plan, "fixed": found.plan})
            speed = f"; it is {timing.speed('fixed', 'refused')} the refused one"
            plan = replace(plan, ms=timing.ms("fixed"))
        why = (
            f"{plan.backend} {plan.version} on {plan.gpu}: {failed.refused}; the plan {fix.name}: "
            f"{found.passport.plan_accuracy}{speed}"
        )
        return replace(found, passport=replace(found.passport, plan=replace(plan, why=why)))
