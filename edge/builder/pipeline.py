"""The build pipeline: export -> simplify -> calibrate -> quantize -> verify -> compile -> publish.

Stages whose inputs have not changed are taken from `engines/.cache`. A plan is compiled only for a
graph that passed the gate, because compiling takes longest on a board. An engine is assembled in a
temporary folder and renamed when it is complete: a build that is killed publishes nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from onnx import ModelProto

from edge import __version__
from edge.builder import cached_stages, candidates, image_sets, split
from edge.builder import compile as compiling
from edge.builder.evaluator import Evaluator
from edge.builder.models.checkpoint import read_checkpoint
from edge.builder.observer import Observer
from edge.builder.plan import make_forms
from edge.builder.precision import fp16
from edge.builder.precision.dtypes import NUMBERS
from edge.builder.precision.ranges import Ranges
from edge.builder.publish import publish, recover, replaced, unchanged
from edge.builder.recipes import Recipe
from edge.builder.report import page
from edge.builder.report.outcome import Outcome, Setting, gather
from edge.engine.accuracy import OPEN, Gate, images_needed
from edge.engine.heads import FEATURES
from edge.engine.passport import Passport
from edge.errors import CalibrationError, EngineError, GateError, GraphError
from edge.files.storage import alone, digest, make_folder

__all__ = ["Built", "build"]

CACHE_SCHEMA = 6


@dataclass(frozen=True)
class Built:
    """The engine that a build returns."""

    folder: Path
    passport: Passport
    fresh: bool  # False: the engine existed and nothing had changed since it was built


def build(recipe: Recipe, observer: Observer) -> Built:
    """Build an engine.

    A failed stage raises its `EdgeError`; nothing is published then. Only one process builds an
    engine of this name at a time.
    """
    folder = recipe.engines / recipe.engine
    cache = make_folder(recipe.engines / ".cache")
    with alone(cache / f"{recipe.engine}.lock"):
        return _build(recipe, folder, cache, observer)


def _build(recipe: Recipe, folder: Path, cache: Path, observer: Observer) -> Built:
    page.check()  # a missing report package must fail before the work, not after it
    recover(folder)
    if folder.exists() and not (folder / "passport.json").is_file():
        raise EngineError(
            f"{folder} exists and is not an engine", "choose another --name; nothing was changed"
        )
    checkpoint = read_checkpoint(recipe.checkpoint, recipe.request)
    if recipe.max_drop is not None and checkpoint.head.task == FEATURES:
        raise EngineError(
            "--max-drop limits the loss of top-1, but features have no top-1",
            "leave out --max-drop; --min-agreement is the percent of embeddings near FP32's",
        )
    if recipe.graph is not None:  # an unusable graph must fail before minutes of work, too
        spec = checkpoint.preprocess
        candidates.read_graph(recipe.graph, (3, spec.height, spec.width))
    trained = split.read(checkpoint.folder)
    sets = split.choose(recipe.calibration, recipe.heldout, trained)
    tools = _tools()
    setting = Setting(
        recipe=recipe,
        checkpoint=checkpoint,
        sets=sets,
        set_sha256=image_sets.digest(sets.calibration),
        cache=cache,
        # The key covers the settings in effect, not the request: naming a default changes nothing.
        checkpoint_key=_key(
            "checkpoint",
            [digest(path) for path in checkpoint.files],
            [asdict(checkpoint.head), checkpoint.image_size],
            tools,
        ),
        table=digest(recipe.ranges) if recipe.ranges else None,
        # Without a gate nothing is refused, and no Linear is kept FP16 to pass it.
        gate=Gate(recipe.min_agreement, recipe.max_drop) if recipe.gate else OPEN,
        tools=tools,
    )
    fingerprint = _key(
        "engine",
        [setting.checkpoint_key, setting.set_sha256, image_sets.digest(sets.heldout), sets.origin],
        [recipe.precision, recipe.method, recipe.max_batch, list(recipe.also)],
        [recipe.min_agreement, recipe.max_drop, recipe.gate, recipe.witnesses],
        [setting.table, digest(recipe.graph) if recipe.graph else None],
        compiling.identity(compiling.available()[0]),
    )
    if (existing := unchanged(folder, fingerprint)) is not None:
        return Built(folder, existing, fresh=False)
    if (other := replaced(folder, setting)) is not None:
        observer.warn(f"this will replace {folder} ({other}); to keep both, choose another --name")
    for images in filter(None, (recipe.calibration, recipe.heldout)):
        if others := image_sets.others(images):
            observer.warn(
                f"{len(others)} files of {images} are left out, as their names are not those of "
                f"images, such as {others[0]}"
            )
    observer.stage("compare images")
    split.say_near_copies(sets, trained, observer.warn)
    observer.done(f"{len(sets.calibration)} calibrate; {len(sets.heldout)} evaluate: {sets.origin}")
    outcome = _evaluate(setting, observer)
    report = cache / f"{recipe.engine}-refused.html"
    if (why_refused := outcome.chosen.refused) is not None:
        page.write(gather(setting, outcome), report)
        raise GateError(
            why_refused,
            f"see {report}; calibrate and evaluate with more images of your own domain "
            "(--calibration, --heldout), try --precision auto, or publish without a gate: "
            "--no-gate",
        )
    report.unlink(missing_ok=True)  # an earlier build may have been refused
    return Built(folder, publish(setting, outcome, folder, fingerprint, observer), fresh=True)


def _evaluate(setting: Setting, observer: Observer) -> Outcome:
    """Build the candidates, evaluate and time them, and choose one.

    Raises what a stage raises.
    """
    recipe, checkpoint, cache = setting.recipe, setting.checkpoint, setting.cache
    calibration_files, heldout_files = setting.sets.calibration, setting.sets.heldout
    gate = setting.gate
    model = cached_stages.simplified(
        checkpoint, cache, setting.checkpoint_key, heldout_files, observer
    )
    key = _key(setting.checkpoint_key, setting.set_sha256)
    fp32_nodes: dict[str, str] = {}
    if recipe.precision != "fp32":
        path = cache / f"peaks-{key}.json"
        fp32_nodes = fp16.find_fp32_nodes(
            model, cached_stages.peaks(model, path, calibration_files, checkpoint, observer)
        )
        fp16.set_kept(model, fp32_nodes)
        for name, why in fp32_nodes.items():
            observer.warn(f"{name} stays FP32 in FP16: {why}")

    observer.stage("reference")
    evaluator = Evaluator(model, heldout_files, checkpoint, observer)
    if gate.max_drop is not None and evaluator.fp32.top1 is None:
        raise CalibrationError(
            "--max-drop needs the classes of the held-out images, and they are not known",
            "put each image into a folder named like its class, or leave out --max-drop",
        )
    observer.done(f"FP32 on {evaluator.fp32.images} held-out images")

    wanted = ("fp16", "int8") if recipe.precision == "auto" else (recipe.precision,)
    evaluated = [candidates.make(model, "fp32", evaluator, gate)]
    failed: dict[str, str] = {}
    ranges: Ranges | None = None
    sensitivity_db: dict[str, float] = {}

    def probe(portable: ModelProto) -> dict[str, float]:
        images = image_sets.prepare_first(
            calibration_files, checkpoint.preprocess, cached_stages.PEAK_IMAGES, observer.warn
        )
        return fp16.peaks(portable, iter(images))

    if "fp16" in wanted:
        with _may_fail_in_auto(recipe, "fp16", failed):
            evaluated.append(candidates.make(model, "fp16", evaluator, gate))
    if recipe.graph is not None:
        observer.stage("verify")
        evaluated.append(candidates.from_graph(recipe.graph, model, probe, evaluator, gate))
        observer.done(f"{recipe.graph}: {evaluated[-1].note}")
    elif small := next((precision for precision in wanted if precision in NUMBERS), None):
        key = _key(key, recipe.method, setting.table)
        path = cache / f"ranges-{key}.json"
        ranges = cached_stages.ranges(model, path, calibration_files, checkpoint, recipe, observer)
        path = cache / f"sensitivity-{key}.json"
        sensitivity_db = cached_stages.sensitivities(
            model, path, ranges, calibration_files, checkpoint, observer
        )

        def forms(kept: Sequence[str]) -> dict[str, ModelProto]:
            return make_forms(model, small, ranges, kept, recipe.also, probe)

        with _may_fail_in_auto(recipe, small, failed):
            evaluated.append(
                candidates.make_quantised(small, forms, sensitivity_db, evaluator, gate, observer)
            )
        if small in failed:
            observer.done(failed[small])

    observer.stage("choose")
    timing = candidates.timed(evaluated)
    chosen = candidates.choose(evaluated, timing) if recipe.precision == "auto" else evaluated[-1]
    verdict = candidates.verdict(chosen, evaluated, timing, "onnxruntime")
    verdict += "".join(f"; not {name.upper()}: {why}" for name, why in failed.items())
    observer.done(verdict)
    if gate != OPEN and gate.min_agreement < 100 and recipe.precision != "fp32":
        images, needed = evaluator.fp32.images, images_needed(gate.min_agreement)
        if images < needed:
            observer.warn(
                f"{images} held-out images are too few to show an agreement of "
                f"{gate.min_agreement:g} %: when all agree, it is "
                f"{evaluator.fp32.interval[0]:.1f} % or more with 95 % confidence; "
                f"use {needed} or more (--heldout)"
            )
    return Outcome(
        model, evaluator, evaluated, chosen, timing, verdict, ranges, sensitivity_db, fp32_nodes
    )


@contextmanager
def _may_fail_in_auto(recipe: Recipe, precision: str, failed: dict[str, str]) -> Iterator[None]:
    """Under `--precision auto` a candidate may fail: note the reason in `failed`, for the verdict.

    With one precision only, the error is raised.
    """
    try:
        yield
    except (GateError, GraphError) as error:
        if recipe.precision != "auto":
            raise
        failed[precision] = error.problem


def _tools() -> dict[str, str]:
    """The versions of the packages that determine the result of a build."""
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
