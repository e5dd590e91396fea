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
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from onnx import ModelProto

from edge import __version__
from edge.builder import cached_stages, candidates, image_sets, verify
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
from edge.engine.heads import FEATURES
from edge.engine.passport import Passport
from edge.errors import CalibrationError, EngineError, GateError, GraphError
from edge.files.storage import alone, digest, make_folder

__all__ = ["Built", "build"]

CACHE_SCHEMA = 6
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
    checkpoint = read_checkpoint(recipe.checkpoint, recipe.request)
    if recipe.max_drop is not None and checkpoint.head.task == FEATURES:
        raise EngineError(
            "features have no top-1, which --max-drop is about",
            "leave it out: --min-agreement is the percent of embeddings that stay near FP32's",
        )
    calibrating, judging = _two_sets(recipe)
    tools = _tools()
    setting = Setting(
        recipe=recipe,
        checkpoint=checkpoint,
        calibrating=calibrating,
        judging=judging,
        set_sha256=image_sets.digest(calibrating),
        cache=cache,
        # Of what was found, not of what was asked for: the usual may be named, or left out.
        checkpoint_key=_key(
            "checkpoint",
            [digest(path) for path in checkpoint.files],
            [asdict(checkpoint.head), checkpoint.image_size],
            tools,
        ),
        table=digest(recipe.ranges) if recipe.ranges else None,
        # Without a gate nothing is refused, and no Linear returns to FP16 for it.
        gate=verify.Gate(recipe.min_agreement, recipe.max_drop) if recipe.gate else verify.OPEN,
        tools=tools,
    )
    fingerprint = _key(
        "engine",
        [setting.checkpoint_key, setting.set_sha256, image_sets.digest(judging)],
        [recipe.precision, recipe.method, recipe.max_batch, list(recipe.also)],
        [recipe.min_agreement, recipe.max_drop, recipe.gate],
        [setting.table, digest(recipe.graph) if recipe.graph else None],
        compiling.identity(compiling.available()[0]),
    )
    if (known := unchanged(folder, fingerprint)) is not None:
        return Built(folder, known, fresh=False)
    if (there := replaced(folder, setting)) is not None:
        observer.warn(f"this will replace {folder} ({there}); to keep both, choose another --name")
    outcome = _judge(setting, observer)
    report = cache / f"{recipe.engine}-refused.html"
    if (why := outcome.chosen.refused) is not None:
        page.write(gather(setting, outcome), report)
        raise GateError(
            why,
            f"{report} shows more; calibrate and judge with more images of your own domain "
            "(--calibration, --heldout), try --precision auto, or publish it unjudged: --no-gate",
        )
    report.unlink(missing_ok=True)  # of an earlier build
    return Built(folder, publish(setting, outcome, folder, fingerprint, observer), fresh=True)


def _judge(setting: Setting, observer: Observer) -> Outcome:
    """Build the candidates, judge and time them, and choose. Raises what a stage raises."""
    recipe, checkpoint, cache = setting.recipe, setting.checkpoint, setting.cache
    judging, calibrating, gate = setting.judging, setting.calibrating, setting.gate
    model = cached_stages.simplified(checkpoint, cache, setting.checkpoint_key, judging, observer)
    key = _key(setting.checkpoint_key, setting.set_sha256)
    risks: dict[str, str] = {}
    if recipe.precision != "fp32":
        path = cache / f"peaks-{key}.json"
        risks = fp16.risks(
            model, cached_stages.peaks(model, path, calibrating, checkpoint, observer)
        )
        fp16.set_kept(model, risks)
        for name, why in risks.items():
            observer.warn(f"{name} stays FP32 in FP16: {why}")

    observer.stage("reference")
    judge = Evaluator(model, judging, checkpoint, observer)
    if gate.max_drop is not None and judge.fp32.top1 is None:
        raise CalibrationError(
            "the classes of the judging images are not known, which --max-drop needs",
            "put each into a folder named like its class, or leave out --max-drop",
        )
    observer.done(f"FP32 on {judge.fp32.images} held-out images")

    wanted = ("fp16", "int8") if recipe.precision == "auto" else (recipe.precision,)
    judged = [candidates.make(model, "fp32", judge, gate)]
    failed: dict[str, str] = {}
    ranges: Ranges | None = None
    alone_db: dict[str, float] = {}

    def probe(portable: ModelProto) -> dict[str, float]:
        few = image_sets.few(
            calibrating, checkpoint.preprocess, cached_stages.PROBED, observer.warn
        )
        return fp16.peaks(portable, iter(few))

    if "fp16" in wanted:
        with _may_fail(recipe, "fp16", failed):
            judged.append(candidates.make(model, "fp16", judge, gate))
    if recipe.graph is not None:
        observer.stage("verify")
        judged.append(candidates.given(recipe.graph, model, probe, judge, gate))
        observer.done(f"{recipe.graph}: {judged[-1].note}")
    elif small := next((precision for precision in wanted if precision in NUMBERS), None):
        key = _key(key, recipe.method, setting.table)
        path = cache / f"ranges-{key}.json"
        ranges = cached_stages.ranges(model, path, calibrating, checkpoint, recipe, observer)
        path = cache / f"sensitivity-{key}.json"
        alone_db = cached_stages.sensitivities(
            model, path, ranges, calibrating, checkpoint, observer
        )

        def forms(kept: Sequence[str]) -> dict[str, ModelProto]:
            return make_forms(model, small, ranges, kept, recipe.also, probe)

        observer.stage("quantize, verify")
        with _may_fail(recipe, small, failed):
            judged.append(candidates.make_quantised(small, forms, alone_db, judge, gate, observer))
        observer.done(failed.get(small, judged[-1].note))

    observer.stage("choose")
    ms = candidates.timed(judged)
    chosen = candidates.choose(judged, ms) if recipe.precision == "auto" else judged[-1]
    verdict = candidates.verdict(chosen, judged, ms, "onnxruntime")
    verdict += "".join(f"; not {name.upper()}: {why}" for name, why in failed.items())
    observer.done(verdict)
    if recipe.gate and (judges := judge.fp32.images) < ENOUGH:
        observer.warn(f"judged on {judges} images only: one of them is {100 / judges:.1f} %")
    return Outcome(model, judge, judged, chosen, ms, verdict, ranges, alone_db, risks)


@contextmanager
def _may_fail(recipe: Recipe, precision: str, failed: dict[str, str]) -> Iterator[None]:
    """Of several candidates one may be impossible: then the verdict says why."""
    try:
        yield
    except (GateError, GraphError) as error:
        if recipe.precision != "auto":
            raise
        failed[precision] = error.problem


def _two_sets(recipe: Recipe) -> tuple[list[Path], list[Path]]:
    """The images that calibrate and those that judge; none, under whatever name, does both."""
    calibrating = found = image_sets.find(recipe.calibration)
    if recipe.heldout is None:
        calibrating, judging = image_sets.hold_out(found)
    else:
        judging = image_sets.find(recipe.heldout)
    seen = set(image_sets.contents(judging)) - {image_sets.UNREADABLE}
    apart = [
        path
        for path, known in zip(calibrating, image_sets.contents(calibrating), strict=True)
        if known not in seen
    ]
    if recipe.heldout is not None and len(apart) < len(calibrating):
        raise CalibrationError(
            f"{len(calibrating) - len(apart)} images of {recipe.calibration} are in "
            f"{recipe.heldout}, too",
            "judge with images that did not calibrate, or leave out --heldout",
        )
    if len(apart) < image_sets.MINIMUM:
        what = f"{recipe.calibration} has {len(found)} images"
        if recipe.heldout is not None:
            raise CalibrationError(
                f"{what}, and {image_sets.MINIMUM} must calibrate",
                f"add {image_sets.MINIMUM - len(apart)} or more",
            )
        same = len(calibrating) - len(apart)
        raise CalibrationError(
            f"{what}: {len(judging)} judge, {f'{same} are copies of these, ' if same else ''}"
            f"{len(apart)} calibrate, and {image_sets.MINIMUM} must",
            f"put at least {image_sets.SPLIT_MINIMUM} different images into it, or name those that "
            "judge apart: --heldout DIR",
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
