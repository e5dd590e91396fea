"""The way of a graph: export -> simplify -> calibrate -> quantize -> verify -> compile -> publish.

Stages whose inputs have not changed are taken from `engines/.cache`. A plan is compiled only for a
graph that passed the gate, since compiling is what takes long on a board. An engine is put together
in a folder of its own and renamed when it is whole: a build that is killed publishes nothing.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import numpy.typing as npt
from onnx import ModelProto

from edge import __version__
from edge.build import compile as compiling
from edge.build import export as exporting
from edge.build import graph, images, verify
from edge.build.cache import is_kept, keep
from edge.build.calibrate import METHODS, from_images
from edge.build.checkpoint import Checkpoint, read_checkpoint
from edge.build.observer import Observer
from edge.build.plan import add_plan, describe, make_forms
from edge.build.publish import assembled, recover, unchanged
from edge.build.ranges import Ranges
from edge.build.simplify import simplify
from edge.errors import CalibrationError, EngineError
from edge.passport import Accuracy, File, Origin, Passport
from edge.storage import alone, digest, make_folder

__all__ = ["PRECISIONS", "Built", "Recipe", "build"]

PRECISIONS = ("fp32", "fp16", "int8")
CACHE_SCHEMA = 2
MAX_BATCH = exporting.MAX_BATCH
ENOUGH = 100  # images for the gate to mean a percent
COMPARED = 4  # images on which graph and checkpoint are compared after export

Tensor = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Recipe:
    """What to build: the arguments of `edge build`, or of a `engines/*.toml`."""

    checkpoint: str
    calibration: Path  # a folder of images from the user's own domain
    heldout: Path | None = None  # images that judge; None: every fifth of the calibration set
    precision: str = "int8"
    method: str = "auto"
    max_batch: int = 1
    name: str | None = None
    min_agreement: float = 99.0  # the gate, percent of top-1 that must stay
    gate: bool = True
    engines: Path = Path("engines")

    def __post_init__(self) -> None:
        """Raises `EngineError` for a setting that cannot be."""
        for key, choices in (("precision", PRECISIONS), ("method", METHODS)):
            if getattr(self, key) not in choices:
                raise EngineError(
                    f"there is no {key} {getattr(self, key)!r}",
                    f"choose one of: {', '.join(choices)}",
                )
        if not 1 <= self.max_batch <= MAX_BATCH:
            raise EngineError(f"max_batch is {self.max_batch}", f"use 1 to {MAX_BATCH}")
        if not 0 <= self.min_agreement <= 100:
            raise EngineError(f"min_agreement is {self.min_agreement}", "use a percent, 0 to 100")

    @property
    def engine(self) -> str:
        """The engine's name, which is its folder's. Raises `EngineError` when it cannot be one."""
        name = self.name or f"{Path(self.checkpoint).name}-{self.precision}"
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise EngineError(
                f"{name!r} cannot be the name of an engine",
                "use letters, digits, '.', '-' and '_': --name my-engine",
            )
        return name


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
    fingerprint = _key(
        "engine",
        [checkpoint_key, set_sha256, images.digest(judging), recipe.precision, recipe.method],
        [recipe.max_batch, recipe.min_agreement, recipe.gate, compiling.identity(backend)],
    )
    if (known := unchanged(folder, fingerprint)) is not None:
        return Built(folder, known, fresh=False)

    model = _simplified(checkpoint, cache, checkpoint_key, judging, observer)
    ranges = None
    if recipe.precision == "int8":
        key = _key("ranges", checkpoint_key, set_sha256, recipe.method)
        path = cache / f"ranges-{key}.json"
        ranges = _ranges(model, path, calibrating, checkpoint, recipe.method, observer)
    observer.stage("quantize")
    forms = make_forms(model, recipe.precision, ranges)
    observer.done(describe(recipe.precision, forms["portable"]))

    observer.stage("verify")
    accuracy = _verify(model, forms, checkpoint, judging, observer)
    if recipe.gate:
        verify.check_gate(accuracy, recipe.min_agreement)
        judges = accuracy["portable"].images
        if judges < ENOUGH:
            observer.warn(f"judged on {judges} images only: one of them is {100 / judges:.1f} %")

    with assembled(folder) as scratch:
        written = graph.save(forms["portable"], scratch / "model.onnx")
        passport = Passport(
            name=recipe.engine,
            fingerprint=fingerprint,
            precision=recipe.precision,
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
            accuracy=accuracy,
            files={path.name: File.of(path) for path in written},
        )
        if backend is None:
            observer.warn(f"no plan: {why_none}; the engine is portable (run edge compile there)")
        else:
            passport = add_plan(scratch, passport, forms, backend, cache, observer)
        passport.write(scratch)
    return Built(folder, passport, fresh=True)


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


def _simplified(
    checkpoint: Checkpoint, cache: Path, key: str, judging: list[Path], observer: Observer
) -> ModelProto:
    """The checkpoint's graph, exported and simplified, or both from the cache."""
    path = cache / f"simplified-{key}.onnx"
    if is_kept(path, observer.warn):
        observer.stage("export, simplify")
        observer.done("unchanged, from the cache")
        return graph.load(path)
    few = images.few(judging, checkpoint.preprocess, COMPARED, observer.warn)
    observer.stage("export")
    model, difference = exporting.export(checkpoint, few)
    nodes = len(model.graph.node)
    observer.done(f"{nodes} nodes; max difference to the checkpoint {difference:.2g}")
    observer.stage("simplify")
    model, difference = simplify(model, few)
    observer.done(f"{len(model.graph.node)} nodes; max difference {difference:.2g}")
    keep(graph.save(model, path))
    return model


def _ranges(
    model: ModelProto,
    path: Path,
    files: list[Path],
    checkpoint: Checkpoint,
    method: str,
    observer: Observer,
) -> Ranges:
    """The graph's activation ranges on these images, or those from the cache."""
    observer.stage("calibrate")
    if is_kept(path, observer.warn):
        observer.done("unchanged, from the cache")
        return Ranges.read(path)
    ranges = from_images(model, files, checkpoint.preprocess, method, observer)
    ranges.write(path)
    keep([path])
    observer.done(f"{len(ranges.ranges)} activations on {ranges.images} images, {method}")
    return ranges


def _verify(
    model: ModelProto,
    forms: dict[str, ModelProto],
    checkpoint: Checkpoint,
    judging: list[Path],
    observer: Observer,
) -> dict[str, Accuracy]:
    classes: list[int | None] = []
    done = 0

    def prepared() -> Iterator[Tensor]:
        for path, tensor in images.prepare(judging, checkpoint.preprocess, observer.warn):
            classes.append(images.class_of(path, checkpoint.labels))
            yield tensor

    def ran(count: int) -> None:
        nonlocal done
        done += count
        observer.progress("images", done, len(judging))

    logits = verify.outputs({"reference": model, **forms}, prepared(), ran)
    known = [label for label in classes if label is not None]
    right = known if len(known) == len(classes) else None
    reference = logits.pop("reference")
    accuracy = {form: verify.compare(reference, out, right) for form, out in logits.items()}
    worst = min(accuracy.values(), key=lambda measured: measured.agreement)
    observer.done(
        f"agrees with FP32 on {worst.agreement:.2f} % of {worst.images} images, "
        f"SQNR {worst.sqnr_db:.1f} dB"
    )
    return accuracy


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
