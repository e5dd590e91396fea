"""The way of a graph: export -> simplify -> calibrate -> quantize -> verify -> compile -> publish.

Stages whose inputs have not changed are taken from `engines/.cache`. A plan is compiled only for a
graph that passed the gate, since compiling is what takes long on a board. An engine is put together
in a folder of its own and renamed when it is whole: a build that is killed publishes nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from onnx import ModelProto

from edge import __version__
from edge.build import cached, candidates, fp16, graph, images, page, verify
from edge.build import compile as compiling
from edge.build.checkpoint import read_checkpoint
from edge.build.findings import findings
from edge.build.judge import Judge
from edge.build.numbers import NUMBERS
from edge.build.observer import Observer
from edge.build.plan import add_plan, make_forms, time_on_gpu
from edge.build.publish import assembled, recover, unchanged
from edge.build.recipes import Recipe
from edge.errors import CalibrationError, EngineError, GateError, GraphError
from edge.passport import Candidate as Carried
from edge.passport import File, Origin, Passport
from edge.storage import alone, digest, make_folder

__all__ = ["Built", "build"]

CACHE_SCHEMA = 3
ENOUGH = 100  # images for the gate to mean a percent


@dataclass(frozen=True)
class Built:
    folder: Path
    passport: Passport
    fresh: bool  # False: nothing had changed since it was built


def build(recipe: Recipe, observer: Observer) -> Built:
    """Build an engine. Raises the `EdgeError` of a stage that failed, and publishes nothing."""
    folder = recipe.engines / recipe.engine
    cache = make_folder(recipe.engines / ".cache")
    with alone(cache / f"{recipe.engine}.lock"):
        return _build(recipe, folder, cache, observer)


def _build(recipe: Recipe, folder: Path, cache: Path, observer: Observer) -> Built:
    page.check()  # before the work, not after it
    recover(folder)
    if folder.exists() and not (folder / "passport.json").is_file():
        raise EngineError(
            f"{folder} exists and is no engine", "choose another --name; nothing was changed"
        )
    checkpoint = read_checkpoint(recipe.checkpoint)
    calibrating, judging = _two_sets(recipe)
    set_sha256 = images.digest(calibrating)
    backend, why_none = compiling.available()
    tools = _tools()
    checkpoint_key = _key("checkpoint", [digest(path) for path in checkpoint.files], tools)
    table = digest(recipe.ranges) if recipe.ranges else None
    trained = digest(recipe.graph) if recipe.graph else None
    fingerprint = _key(
        "engine",
        [checkpoint_key, set_sha256, images.digest(judging), recipe.precision, recipe.method],
        [recipe.max_batch, recipe.min_agreement, recipe.max_drop, recipe.gate, table],
        [list(recipe.also), trained],
        compiling.identity(backend),
    )
    if (known := unchanged(folder, fingerprint)) is not None:
        return Built(folder, known, fresh=False)

    model = cached.simplified(checkpoint, cache, checkpoint_key, judging, observer)
    # Without a gate nothing is refused, and no Linear returns to FP16 for it.
    gate = verify.Gate(recipe.min_agreement, recipe.max_drop) if recipe.gate else verify.OPEN
    risks = {}
    if recipe.precision != "fp32":
        path = cache / f"peaks-{_key('peaks', checkpoint_key, set_sha256)}.json"
        risks = fp16.risks(model, cached.peaks(model, path, calibrating, checkpoint, observer))
        fp16.set_kept(model, risks)
        for name, why in risks.items():
            observer.warn(f"{name} stays FP32 in FP16: {why}")
    observer.stage("reference")
    judge = Judge(model, judging, checkpoint, observer)
    if gate.max_drop is not None and judge.fp32.top1 is None:
        raise CalibrationError(
            "the classes of the judging images are not known, which --max-drop needs",
            "put each into a folder named like its class, or leave out --max-drop",
        )
    observer.done(f"FP32 on {judge.fp32.images} held-out images")
    wanted = ("fp16", "int8") if recipe.precision == "auto" else (recipe.precision,)
    judged = [candidates.make(model, "fp32", judge, gate)]
    failed: dict[str, str] = {}
    if "fp16" in wanted:
        with _may_fail(recipe, "fp16", failed):
            judged.append(candidates.make(model, "fp16", judge, gate))
    ranges, alone_db = None, {}

    def probe(portable: ModelProto) -> dict[str, float]:
        few = images.few(calibrating, checkpoint.preprocess, cached.PROBED, observer.warn)
        return fp16.peaks(portable, iter(few))

    if recipe.graph is not None:
        observer.stage("verify")
        judged.append(candidates.given(recipe.graph, model, probe, judge, gate))
        observer.done(f"{recipe.graph}: {judged[-1].note}")
    elif quantised := [precision for precision in wanted if precision in NUMBERS]:
        key = _key("ranges", checkpoint_key, set_sha256, recipe.method, table)
        path = cache / f"ranges-{key}.json"
        ranges = cached.ranges(model, path, calibrating, checkpoint, recipe, observer)
        path = cache / f"sensitivity-{key}.json"
        alone_db = cached.sensitivities(model, path, ranges, calibrating, checkpoint, observer)

        def forms(kept: Sequence[str]) -> dict[str, ModelProto]:
            return make_forms(model, quantised[0], ranges, kept, recipe.also, probe)

        observer.stage("quantize, verify")
        with _may_fail(recipe, quantised[0], failed):
            judged.append(
                candidates.make_quantised(quantised[0], forms, alone_db, judge, gate, observer)
            )
        observer.done(failed.get(quantised[0], judged[-1].note))

    observer.stage("choose")
    ms = candidates.timed(judged)
    chosen = judged[-1]
    if recipe.precision == "auto":
        chosen = candidates.choose(judged, ms)
    else:
        gate.check(chosen.accuracy)
    sentence = candidates.verdict(chosen, judged, ms, "onnxruntime")
    sentence += "".join(f"; not {name.upper()}: {why}" for name, why in failed.items())
    observer.done(sentence)
    if recipe.gate and (judges := judge.fp32.images) < ENOUGH:
        observer.warn(f"judged on {judges} images only: one of them is {100 / judges:.1f} %")

    carried = [c for c in judged if c.refused is None] if recipe.precision == "auto" else []
    with assembled(folder) as scratch:
        written = graph.save(chosen.forms["portable"], scratch / "model.onnx")
        known_as = {chosen.precision: "model.onnx"}
        for other in carried:
            if other is not chosen:
                known_as[other.precision] = f"{other.precision}.onnx"
                written += graph.save(other.forms["portable"], scratch / f"{other.precision}.onnx")
        passport = Passport(
            name=recipe.engine,
            fingerprint=fingerprint,
            precision=chosen.precision,
            checkpoint=Origin(
                recipe.checkpoint,
                checkpoint.architecture,
                {path.name: digest(path) for path in checkpoint.files},
            ),
            labels=checkpoint.labels,
            preprocess=checkpoint.preprocess,
            max_batch=recipe.max_batch,
            tools=tools,
            calibration=ranges.origin() if ranges else None,
            judged=recipe.gate,
            accuracy=chosen.accuracy,
            verdict=sentence,
            kept_fp16=tuple(chosen.kept),
            candidates={
                c.precision: Carried(
                    known_as[c.precision], c.accuracy, round(ms[c.precision], 3), tuple(c.kept)
                )
                for c in carried
            },
            files={path.name: File.of(path) for path in written},
        )
        if backend is None:
            observer.warn(f"no plan: {why_none}; the engine is portable (run edge compile there)")
        else:
            preferred = sorted(carried or [chosen], key=lambda c: c is not chosen)
            graphs = {
                c.precision: (
                    known_as[c.precision],
                    partial(c.forms.get, "device", c.forms["portable"]),
                )
                for c in preferred
            }
            passport = add_plan(scratch, passport, graphs, backend, cache, observer, time_on_gpu)
        observer.stage("report")
        found = findings(
            passport, model, judged, chosen, ms, ranges, alone_db, risks, str(gate), judge
        )
        page.write(found, scratch / "report.html")
        report = {"report.html": File.of(scratch / "report.html")}
        passport = replace(passport, files={**passport.files, **report})
        passport.write(scratch)
        observer.done(f"{folder / 'report.html'}")
    return Built(folder, passport, fresh=True)


@contextmanager
def _may_fail(recipe: Recipe, precision: str, failed: dict[str, str]) -> Iterator[None]:
    """Of several candidates one may be impossible: then the verdict says why."""
    try:
        yield
    except (GateError, GraphError) as error:
        if recipe.precision != "auto":
            raise
        failed[precision] = error.what


def _two_sets(recipe: Recipe) -> tuple[list[Path], list[Path]]:
    """The images that calibrate and those that judge; none, under whatever name, does both."""
    calibrating = images.find(recipe.calibration)
    if recipe.heldout is None:
        calibrating, judging = images.hold_out(calibrating)
    else:
        judging = images.find(recipe.heldout)
    seen = set(images.contents(judging)) - {images.UNREADABLE}
    apart = [
        path
        for path, known in zip(calibrating, images.contents(calibrating), strict=True)
        if known not in seen
    ]
    if recipe.heldout is not None and len(apart) < len(calibrating):
        raise CalibrationError(
            f"{len(calibrating) - len(apart)} images of {recipe.calibration} are in "
            f"{recipe.heldout}, too",
            "judge with images that did not calibrate, or leave out --heldout",
        )
    if len(apart) < images.MINIMUM or not judging:
        raise CalibrationError(
            f"{recipe.calibration} leaves {len(apart)} images to calibrate with, at least "
            f"{images.MINIMUM} are needed",
            "add images, or give the judging ones apart: --heldout DIR",
        )
    return apart, judging


def _tools() -> dict[str, str]:
    """The versions of what decides how an engine turns out."""
    tools = {"vit-edge": __version__}
    for name in ("torch", "transformers", "onnx", "onnxsim", "onnxruntime", "numpy", "pillow"):
        try:
            tools[name] = version(name)
        except PackageNotFoundError:
            continue
    return tools


def _key(*parts: object) -> str:
    text = json.dumps([CACHE_SCHEMA, *parts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
