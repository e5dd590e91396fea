"""The table of docs/models.md: family x task x precision, measured with random weights.

Each model of tiny_models.py is exported for each task of its checkpoint in FP32, FP16 and INT8.
Each graph is compared with transformers on the same images, and compiled by TensorRT-RTX. `--full`
measures the published sizes instead (two hours, 16 GB of memory, one process each). Rows of earlier
runs stay in the table; each row has the commit that it was measured with.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from edge.builder import export, graph, image_sets, plan
from edge.builder.compile import compile_plan
from edge.builder.models import network, timm_library
from edge.builder.models.checkpoint import Checkpoint, read_checkpoint
from edge.builder.models.families import FAMILIES, TIMM
from edge.builder.models.tasks import Request
from edge.builder.precision import calibrate, fp16
from edge.builder.precision.coverage import census, in_words
from edge.builder.precision.ranges import Ranges
from edge.builder.precision.sites import linears
from edge.builder.simplify import simplify
from edge.engine import compare
from edge.engine.heads import FEATURES, ZERO_SHOT, Task
from edge.errors import CheckpointError, EdgeError, require
from scripts.bench.figures import commit, machine, versions
from scripts.models import reference as models_reference
from scripts.models.tiny_models import MODELS, save

ROOT = Path(__file__).resolve().parents[2]
FIGURES = ROOT / "docs/measurements/models.json"
TABLE = ROOT / "docs/models.md"
LABELS = ("cat", "dog", "fox", "owl", "bee", "elk", "ant")
PRECISIONS = ("fp32", "fp16", "int8")
IMAGES = 12

Row = dict[str, Any]
Tensor = npt.NDArray[np.float32]


def tasks(name: str) -> tuple[Task, ...]:
    """The tasks that a model of `MODELS` can be built for."""
    return FAMILIES[name.partition(" ")[0]].tasks[MODELS[name].architecture]


def measure(name: str, full: bool) -> list[Row]:
    """The rows of one model: one for each task and precision."""
    model, family = MODELS[name], FAMILIES[name.partition(" ")[0]]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        checkpoint = save(name, folder / "checkpoint", LABELS, full)
        images = _draw(folder / "images")
        rows = []
        for task in tasks(name):
            found = _read(checkpoint, task)
            prepared = image_sets.prepare_first(images, found.preprocess, IMAGES, print)
            with network.quiet():
                architecture = MODELS[name].architecture
                reference = models_reference.outputs(checkpoint, architecture, found.head, prepared)
            about = {
                "model": name,
                "family": family.name,
                "architecture": model.published if family is FAMILIES[TIMM] else model.architecture,
                "published": model.published if full else None,
                "picture": found.preprocess.height,
                "parameters": _parameters(found.files),
                "task": task,
                "pooling": found.head.pooling,
            }
            rows += [{**about, **row} for row in _precisions(found, prepared, reference, folder)]
        return rows


def _read(folder: Path, task: Task) -> Checkpoint:
    """A checkpoint as it is built for a task.

    Embeddings have the pooling of the checkpoint's model; if that has none, or the checkpoint lacks
    its weights, the class token, or else the mean of the tokens.
    """
    if task != FEATURES:
        return read_checkpoint(
            str(folder), Request(task, labels=LABELS if task == ZERO_SHOT else ())
        )
    found = read_checkpoint(str(folder), Request(task, "own"))
    sides = found.preprocess.height, found.preprocess.width
    torch = require("torch")
    try:
        with network.quiet(), torch.inference_mode():
            network.load(found)(torch.zeros(1, 3, *sides))
    except CheckpointError:
        pooling = "cls" if found.family.special else "mean"
        return read_checkpoint(str(folder), Request(task, pooling))
    return found


def _precisions(
    found: Checkpoint, images: Tensor, reference: Tensor, folder: Path
) -> Iterator[Row]:
    """The measurements of each precision of a checkpoint."""
    model, _ = simplify(export.export(found, images[:4])[0], images[:4])
    fp16.set_kept(model, fp16.find_fp32_nodes(model, fp16.peaks(model, iter(images))))
    ranges = Ranges(
        "minmax", len(images), "", calibrate.calibrate(model, iter(images), "minmax", 12)
    )
    for precision in PRECISIONS:
        forms = plan.make_forms(model, precision, ranges)
        form = forms.get("device", forms["portable"])
        session = graph.session(form)
        outputs = np.concatenate([session.logits(image[None]) for image in images])
        del session
        error = outputs.astype(np.float64) - reference
        signal, noise = float((reference.astype(np.float64) ** 2).sum()), float((error**2).sum())
        counts = census(forms["portable"])
        embeds = found.head.task == FEATURES
        yield {
            "precision": precision,
            "max_error": float(f"{abs(error).max():.2g}"),
            "largest": float(f"{abs(reference).max():.3g}"),
            "sqnr_db": round(10 * math.log10(signal / noise), 1),
            "cosine": round(compare.cosines(reference, outputs).min(), 6) if embeds else None,
            "plan_mb": _compiled(form, found, folder),
            "linears": len(linears(model)),
            "quantised": in_words({k: n for k, n in counts.items() if n.quantised}),
            "not_quantised": {k: n.all for k, n in counts.items() if not n.quantised},
            "fp32_nodes": len(fp16.kept(model)),
        }


def _compiled(form: Any, found: Checkpoint, folder: Path) -> float | str:
    """Size in MB of TensorRT-RTX's plan of a graph, or the error of its compilation."""
    path = folder / "form.onnx"
    graph.save(form, path)
    shape = (3, found.preprocess.height, found.preprocess.width)
    try:
        compiled = compile_plan(
            path,
            "tensorrt-rtx",
            input_shape=shape,
            max_batch=4,
            cache=folder,
            progress=lambda *_: None,
        )
    except EdgeError as error:
        return str(error)
    return round(len(compiled.data) / 1e6, 1)


def _parameters(files: list[Path]) -> int:
    safetensors = require("safetensors")
    total = 0
    for path in files:
        if path.suffix == ".safetensors":
            with safetensors.safe_open(str(path), framework="np") as weights:
                shapes = [weights.get_slice(name).get_shape() for name in weights.keys()]  # noqa: SIM118
                total += sum(math.prod(shape) for shape in shapes)
    return total


def _draw(folder: Path) -> list[Path]:
    """Write smooth random images of different shapes."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(IMAGES):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8))
        size = (320 - 9 * number, 240 + 7 * number)
        coarse.resize(size, Image.Resampling.BICUBIC).save(folder / f"{number:02d}.png")
    return image_sets.find(folder)


def table(figures: dict[str, Any]) -> str:
    """The text of docs/models.md, from docs/measurements/models.json."""
    text = [INTRODUCTION]
    for title, full in (("Published sizes", True), ("Tiny models", False)):
        rows = [row for row in figures["rows"] if bool(row["published"]) is full]
        text.append(f"## {title}\n")
        heads = "family, shape, parameters, image, task, precision, max abs error, SQNR dB"
        heads += ", cosine, TensorRT-RTX, quantised"
        text.append(f"| {' | '.join(heads.split(', '))} |")
        text.append("|" + " --- |" * len(heads.split(", ")))
        text += [f"| {' | '.join(_cells(row))} |" for row in rows]
        text.append("")
    return "\n".join(text)


def _cells(row: Row) -> list[str]:
    size, mb, cosine = row["parameters"], row["plan_mb"], row["cosine"]
    return [
        row["family"],
        row["published"] or row["architecture"],
        f"{size / 1e6:.1f} M" if size >= 1e6 else f"{size / 1e3:.0f} k",
        f"{row['picture']}",
        row["task"] + (f", {row['pooling']}" if row["pooling"] else ""),
        row["precision"].upper(),
        f"{row['max_error']:.2g} of {row['largest']:.3g}",
        f"{row['sqnr_db']:.0f}",
        "–" if cosine is None else f"{cosine:.5f}",
        f"{mb:.1f} MB" if isinstance(mb, float) else mb,
        row["quantised"] or "–",
    ]


INTRODUCTION = """# Models

`.venv/bin/python -m scripts.models.table` (`--full` for the published sizes) wrote this page from
[measurements/models.json](measurements/models.json). A test checks that every family is here. The
weights are random, because the question is whether a graph is correct. The SQNR of a trained
checkpoint's INT8 is in its own report.

* **task**: for embeddings with the pooling. `own` is the pooling of the model itself; if a
  checkpoint has none, or a classifier was saved without it, `cls` or `mean` is measured
* **max abs error**: the largest difference of an output from transformers (timm's models: from
  timm) on 12 images, and the largest output. FP16 and INT8 are the graphs that are compiled, run
  with onnxruntime. INT8 is calibrated (min-max) on these same images, so this is its best case
* **cosine**: the lowest cosine of an embedding with that of transformers
* **TensorRT-RTX**: megabytes of the plan that it makes of this graph
* **quantised**: Linears by kind

Notes:

* By default a convolution, an attention product and a classifier are never quantised: patch
  embeddings, ConvNeXt's 7x7 and downsampling convolutions, and all 1x1 convolutions of MobileViT's
  inverted residuals stay FP16. ConvNeXt's pointwise convolutions are Linears (fc1, fc2), and so is
  Swin's merging of patches (merge). CLIP's projection and the matrix of the labels' texts count as
  classifiers.
* A fine-tuned MAE is a ViT: `transformers` has no classifier for it, and checkpoints are saved as
  `ViTForImageClassification`.
* DINOv3 and Pixio give embeddings: transformers has no classifiers of them. Rotary positions are
  constants in the graph, without `Tile`, `Sin` or `Cos`.
* Checkpoints of SigLIP 2 for one image size are SigLIPs with the tokenizer of Gemma. Those for any
  size (model_type `siglip2`) are not supported.
* An engine contains its checkpoint's weights, so the checkpoint's licence applies to it. DINOv3 has
  the DINOv3 License, and Pixio the FAIR Noncommercial Research License; read the model card.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="the published sizes")
    parser.add_argument("--only", nargs="*", default=list(MODELS), choices=list(MODELS))
    given = parser.parse_args()
    known = json.loads(FIGURES.read_text()) if FIGURES.is_file() else {"rows": []}
    rows = {(r["model"], bool(r["published"]), r["task"], r["precision"]): r for r in known["rows"]}
    here = {"commit": commit()}  # before this run changes files
    tools = versions("torch", "transformers", "onnxruntime", "onnxsim")
    # Before the pool starts: its processes get this one's path, see timm_library.
    tools["timm"] = timm_library.library().__version__
    # One process per model, so that the memory of torch and TensorRT is returned.
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for name in given.only:
            for row in pool.apply(measure, (name, given.full)):
                rows[name, given.full, row["task"], row["precision"]] = {**row, **here}
                print(" ".join(_cells(row)), file=sys.stderr)
            figures = {
                "machine": machine(),
                "versions": tools,
                "rows": sorted(rows.values(), key=_place),
            }
            FIGURES.write_text(json.dumps(figures, indent=1) + "\n")
            TABLE.write_text(table(figures))


def _place(row: Row) -> tuple[int, int, int]:
    """Where a row belongs in the table."""
    able = tasks(row["model"])
    return (
        list(MODELS).index(row["model"]),
        able.index(row["task"]),
        PRECISIONS.index(row["precision"]),
    )


if __name__ == "__main__":
    main()
