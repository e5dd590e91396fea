"""Engines appear whole: put together in a folder of their own, then renamed into place."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from edge.builder import compile as compiling
from edge.builder import graph
from edge.builder.models.weights import several
from edge.builder.observer import Observer
from edge.builder.plan import add_plan, time_on_gpu
from edge.builder.report import page
from edge.builder.report.outcome import Outcome, Setting, gather
from edge.engine.passport import Carried, File, Origin, Passport
from edge.errors import EngineError
from edge.files.storage import digest, writing

__all__ = ["assembled", "publish", "recover", "replaced", "unchanged"]


def unchanged(folder: Path, fingerprint: str) -> Passport | None:
    """The passport of an engine that was built from the very same, and is whole."""
    try:
        passport = Passport.read(folder)
        if passport.fingerprint != fingerprint:
            return None
        for name in passport.files:
            passport.check_file(folder, name)
    except EngineError:
        return None
    return passport


def replaced(folder: Path, setting: Setting) -> str | None:
    """In words the engine that is there, when the one to come is what people call another."""
    try:
        there = Passport.read(folder)
    except EngineError:  # there is none, or none that can be read
        return None
    recipe, checkpoint = setting.recipe, setting.checkpoint
    name, precision = there.checkpoint.name, "auto" if there.candidates else there.precision
    old = (Path(name), there.head, there.input_shape, precision)
    to_come = (3, checkpoint.preprocess.height, checkpoint.preprocess.width)
    if old == (Path(recipe.checkpoint), checkpoint.head, to_come, recipe.precision):
        return None
    details = (there.head.pooling, several(there.head.labels) if there.head.templates else None)
    size = f"{there.preprocess.width}x{there.preprocess.height}"
    return ", ".join(filter(None, (name, there.head.task, *details, size, precision.upper())))


def recover(folder: Path) -> None:
    """Clear away what a killed build left, and put back an engine that it had moved aside.

    Only one process may build `folder` at a time: see `storage.alone`.
    """
    new, old = _beside(folder)
    with writing(folder):
        if (old / "passport.json").is_file() and not folder.exists():
            old.replace(folder)
        for left in (new, old):
            if left.exists():
                shutil.rmtree(left)


def publish(
    setting: Setting, outcome: Outcome, folder: Path, fingerprint: str, observer: Observer
) -> Passport:
    """Put the engine together, with its plan and its report."""
    carried = outcome.carried(setting.recipe.precision)
    names = {one.precision: f"{one.precision}.onnx" for one in carried}
    names[outcome.chosen.precision] = "model.onnx"
    with assembled(folder) as scratch:
        files = {
            path.name: File.of(path)
            for one in carried
            for path in graph.save(one.forms["portable"], scratch / names[one.precision])
        }
        passport = _passport(setting, outcome, names, files, fingerprint)
        backend, why_none = compiling.available()
        if backend is None:
            observer.warn(f"no plan: {why_none}; make one on the board: edge compile {folder}")
        else:
            graphs = {
                one.precision: (
                    names[one.precision],
                    partial(one.forms.get, "device", one.forms["portable"]),
                )
                for one in carried
            }
            passport = add_plan(
                scratch, passport, graphs, backend, setting.cache, observer, time_on_gpu
            )
        observer.stage("report")
        page.write(gather(setting, outcome), scratch / "report.html")
        report = {"report.html": File.of(scratch / "report.html")}
        passport = replace(passport, files={**passport.files, **report})
        passport.write(scratch)
        observer.done(f"{folder / 'report.html'}")
    return passport


@contextmanager
def assembled(folder: Path) -> Iterator[Path]:
    """A folder to put an engine together in; it takes `folder`'s place when all went well.

    A link is followed: the engine that it points to is replaced.
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
        # Interrupted between the two renames, the old engine comes back.
        recover(folder)


def _passport(
    setting: Setting,
    outcome: Outcome,
    names: dict[str, str],
    files: dict[str, File],
    fingerprint: str,
) -> Passport:
    """What the engine is, but for its plan. names: precision -> file of each that it carries."""
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
        accuracy=chosen.accuracy,
        verdict=outcome.verdict,
        kept_fp16=tuple(chosen.kept),
        candidates={
            one.precision: Carried(
                names[one.precision],
                one.accuracy,
                round(outcome.ms[one.precision], 3),
                tuple(one.kept),
            )
            for one in outcome.carried(recipe.precision)
            if recipe.precision == "auto"
        },
        files=files,
    )


def _beside(folder: Path) -> tuple[Path, Path]:
    """Where the new engine is made, and where the old one waits for a moment."""
    return folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")
