"""Publishing of engines: assembled in a temporary folder, then renamed into place."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from edge.builder import compile as compiling
from edge.builder import graph
from edge.builder.models.weights import shortened
from edge.builder.observer import Observer
from edge.builder.plan import add_plan, gpu_judge, gpu_timer
from edge.builder.report import page
from edge.builder.report.outcome import Outcome, Setting, gather
from edge.builder.witnesses import collect
from edge.engine.passport import Carried, File, Origin, Passport, Witnessed
from edge.errors import EngineError, GateError
from edge.files.storage import digest, writing

__all__ = ["assembled", "publish", "recover", "replaced", "unchanged"]


def unchanged(folder: Path, fingerprint: str) -> Passport | None:
    """The passport of the engine in `folder`, if its inputs are the same and its files intact.

    None when the fingerprint differs, a file is damaged, or there is no engine.
    """
    try:
        passport = Passport.read(folder)
        if passport.fingerprint != fingerprint:
            return None
        passport.check_files(folder)
    except EngineError:
        return None
    return passport


def replaced(folder: Path, setting: Setting) -> str | None:
    """A description of the engine in `folder`, if the new one is of another kind; else None.

    Another kind: another checkpoint, task, labels, input size or precision.
    """
    try:
        old = Passport.read(folder)
    except EngineError:  # there is no engine, or it cannot be read
        return None
    recipe, checkpoint = setting.recipe, setting.checkpoint
    name, precision = old.checkpoint.name, "auto" if old.candidates else old.precision
    old_kind = (Path(name), old.head, old.input_shape, precision)
    new_shape = (3, checkpoint.preprocess.height, checkpoint.preprocess.width)
    if old_kind == (Path(recipe.checkpoint), checkpoint.head, new_shape, recipe.precision):
        return None
    details = (old.head.pooling, shortened(old.head.labels) if old.head.templates else None)
    size = f"{old.preprocess.width}x{old.preprocess.height}"
    return ", ".join(filter(None, (name, old.head.task, *details, size, precision.upper())))


def recover(folder: Path) -> None:
    """Delete what a killed build left, and restore an engine that it had moved aside.

    Only one process may build `folder` at a time: see `storage.alone`. Raises `StorageError`.
    """
    new, old = _beside(folder)
    with writing(folder):
        if (old / "passport.json").is_file() and not folder.exists():
            old.replace(folder)
        for leftover in (new, old):
            if leftover.exists():
                shutil.rmtree(leftover)


def publish(
    setting: Setting, outcome: Outcome, folder: Path, fingerprint: str, observer: Observer
) -> Passport:
    """Write the engine's folder with graphs, passport, report and, where possible, a plan.

    Raises `StorageError`, `CompileError`.
    """
    carried = outcome.carried(setting.recipe.precision)
    names = {one.precision: f"{one.precision}.onnx" for one in carried}
    names[outcome.chosen.precision] = "model.onnx"
    with assembled(folder) as scratch:
        files = {
            path.name: File.of(path)
            for one in carried
            for path in graph.save(one.forms["portable"], scratch / names[one.precision])
        }
        witnesses, about = collect(
            outcome,
            carried,
            setting.checkpoint.preprocess,
            setting.checkpoint.head,
            private=not setting.recipe.witnesses,
        )
        files |= {path.name: File.of(path) for path in witnesses.save(scratch)}
        passport = _passport(setting, outcome, names, about, files, fingerprint)
        backend, why_none = compiling.available()
        if backend is None:
            observer.warn(f"no plan: {why_none}; on the board, run: edge compile {folder}")
        else:
            graphs = {
                one.precision: (
                    names[one.precision],
                    partial(one.forms.get, "device", one.forms["portable"]),
                )
                for one in carried
            }
            judge = gpu_judge(backend, passport, observer.warn)
            try:
                passport = add_plan(
                    scratch, passport, graphs, backend, setting.cache, observer, gpu_timer(), judge
                )
            except GateError as refused:  # the graphs passed: the engine runs without a plan
                observer.warn(f"no plan: {refused}")
        observer.stage("report")
        page.write(gather(setting, outcome), scratch / "report.html")
        report = {"report.html": File.of(scratch / "report.html")}
        passport = replace(passport, files={**passport.files, **report})
        passport.write(scratch)
        observer.done(f"{folder / 'report.html'}")
    return passport


@contextmanager
def assembled(folder: Path) -> Iterator[Path]:
    """A temporary folder for a new engine; it replaces `folder` when the block succeeds.

    If `folder` is a symbolic link, the engine that it points to is replaced. Raises `StorageError`.
    """
    folder = folder.resolve()
    new, old = _beside(folder)
    recover(folder)
    try:
        with writing(folder):
            new.mkdir()
        yield new
        with writing(folder):
            if folder.exists():
                folder.replace(old)
            new.replace(folder)
    finally:
        # Restores the old engine after an interruption between the two renames.
        recover(folder)


def _passport(
    setting: Setting,
    outcome: Outcome,
    names: dict[str, str],
    witnesses: Witnessed,
    files: dict[str, File],
    fingerprint: str,
) -> Passport:
    """The engine's passport, without its plan. names: precision -> file of each carried graph."""
    recipe, checkpoint, chosen = setting.recipe, setting.checkpoint, outcome.chosen
    return Passport(
        name=recipe.engine,
        fingerprint=fingerprint,
        precision=chosen.precision,
        checkpoint=Origin(
            recipe.checkpoint,
            checkpoint.architecture,
            {path.name: digest(path) for path in checkpoint.files},
            checkpoint.image_size,
        ),
        head=checkpoint.head,
        outputs=outcome.model.graph.output[0].type.tensor_type.shape.dim[1].dim_value,
        preprocess=checkpoint.preprocess,
        max_batch=recipe.max_batch,
        tools=setting.tools,
        calibration=outcome.ranges.origin() if outcome.ranges else None,
        judged=recipe.gate,
        gate=setting.gate if recipe.gate else None,
        heldout=setting.sets.origin,
        witnesses=witnesses,
        timing=outcome.timed(),
        accuracy=chosen.accuracy,
        verdict=outcome.verdict,
        kept_fp16=tuple(chosen.kept),
        candidates={
            one.precision: Carried(
                names[one.precision],
                one.accuracy,
                round(outcome.timing.ms(one.precision), 3),
                tuple(one.kept),
            )
            for one in outcome.carried(recipe.precision)
            if recipe.precision == "auto"
        },
        files=files,
    )


def _beside(folder: Path) -> tuple[Path, Path]:
    """The temporary folders beside `folder`: for the new engine, and for the old one."""
    return folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")
