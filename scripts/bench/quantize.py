"""A comparison of INT8 quantisers in one run: edge's, onnxruntime's and NVIDIA's ModelOpt.

    .venv/bin/python -m scripts.bench.quantize [--models demo,x40] [--out FILE.json]

All quantise the same FP32 graph with the same calibration images. onnxruntime runs the results on
the CPU with held-out images; the FP32 graph is the reference. `quantizers.py` has the settings of
each. ModelOpt's environment is created on first use.

Models: `demo` is scripts/demo/vit; `x40` and `x200` are the same with outlier channels 40 and 200
times larger (scripts/bench/outliers.py); `vit-b` is a ViT-B/16 with random weights.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts.bench.figures import machine
from scripts.bench.quantizers import (
    PEERS,
    Job,
    Outcome,
    Peer,
    info,
    modelopt_environment,
    preprocess,
    report,
    run_job,
)

if TYPE_CHECKING:
    import numpy as np
    from rich.table import Table

    from edge.engine.accuracy import Accuracy

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / "engines/.cache"
MODELS = ("demo", "x40", "x200", "vit-b")
CALIBRATION_IMAGES = 128
FEW = 16  # images with which a checkpoint with outliers is compared with its original
PHOTOS, PHOTO_SIZE = 32, 256  # for vit-b: calibration crops, and as many held-out ones
# Deviation of ViT-B's random weights. With transformers' 0.02 all images get similar logits.
SPREAD = 0.05


@dataclass(frozen=True)
class Row:
    model: str
    quantiser: str
    method: str
    sqnr_db: float | None
    agreement: float | None  # percent of held-out images with FP32's top-1
    seconds: float | None
    peak_mb: float | None
    error: str | None


@dataclass(frozen=True)
class Case:
    """A model to quantise, with the images for it."""

    name: str
    checkpoint: Path
    calibration: Path
    heldout: Path


# Evaluation.


class Evaluator:
    """Held-out images and FP32's logits on them."""

    def __init__(self, model: Any, files: list[Path]) -> None:
        from edge.builder import image_sets, verify

        prepared = image_sets.prepare(files, preprocess(model), info)
        self.images: list[np.ndarray] = [tensor for _, tensor in prepared]
        self.reference = verify.outputs({"fp32": model}, self.images)["fp32"]

    def measure(self, path: Path) -> Accuracy:
        """Accuracy of a quantised graph against FP32.

        Raises `EdgeError` if onnxruntime cannot run it, ValueError for infinite logits or NaN.
        """
        import numpy as np

        from edge.builder import graph, verify
        from edge.engine.compare import compare

        logits = verify.outputs({"int8": graph.load(path)}, self.images)["int8"]
        if not np.isfinite(logits).all():
            raise ValueError("its logits are not finite")
        return compare(self.reference, logits, None)


def to_row(model: str, job: Job, outcome: Outcome, accuracy: Accuracy | None) -> Row:
    return Row(
        model=model,
        quantiser=job.quantiser,
        method=job.method,
        sqnr_db=round(accuracy.sqnr_db, 2) if accuracy else None,
        agreement=round(accuracy.agreement, 2) if accuracy else None,
        seconds=None if outcome.seconds is None else round(outcome.seconds, 2),
        peak_mb=None if outcome.peak_mb is None else round(outcome.peak_mb),
        error=outcome.error,
    )


def measure(model: str, job: Job, python: str | None, why_none: str, evaluator: Evaluator) -> Row:
    """The row of one quantiser; a failure is in its `error`.

    python: None if the quantiser could not be installed."""
    info(f"{model}: {job.quantiser}, {job.method}")
    if python is None:
        return to_row(model, job, Outcome(error=why_none), None)
    outcome, accuracy = run_job(job, python), None
    if outcome.error is None:
        try:
            accuracy = evaluator.measure(Path(job.out))
        except Exception as error:  # a graph of another tool can make onnxruntime fail in any way
            outcome = Outcome(outcome.seconds, outcome.peak_mb, f"cannot be run: {error}")
    return to_row(model, job, outcome, accuracy)


def measure_case(
    case: Case, chosen: list[tuple[str, str]], peer: Peer, scratch: Path
) -> tuple[dict[str, int], list[Row]]:
    """The numbers of images, and a row for each quantiser and method, for one model."""
    import numpy as np

    from edge.builder import graph, image_sets

    fp32, prepared = scratch / "fp32.onnx", scratch / "calibration.npy"
    info(f"{case.name}: FP32 graph")
    model = fp32_graph(case)
    graph.save(model, fp32)
    files = image_sets.find(case.calibration)
    tensors = image_sets.prepare(files, preprocess(model), info)
    calibrating = np.stack([tensor for _, tensor in tensors])
    np.save(prepared, calibrating)
    evaluator = Evaluator(model, image_sets.find(case.heldout))
    rows = []
    for quantiser, method in chosen:
        out = scratch / "int8.onnx"
        job = Job(quantiser, method, str(fp32), str(case.calibration), str(prepared), str(out))
        python = peer.python if quantiser == "ModelOpt" else sys.executable
        rows.append(measure(case.name, job, python, peer.why_none, evaluator))
        for old in (out, report(job)):
            old.unlink(missing_ok=True)
    facts = {
        "calibration_images": len(calibrating),
        "heldout_images": len(evaluator.reference),
        # Agreement means little if FP32 itself predicts one class for all images.
        "classes_seen": len(np.unique(evaluator.reference.argmax(1))),
    }
    return facts, rows


def fp32_graph(case: Case) -> Any:
    """The checkpoint's graph, exported and simplified."""
    from edge.builder import export, image_sets, simplify
    from edge.builder.models.checkpoint import read_checkpoint

    checkpoint = read_checkpoint(str(case.checkpoint))
    few = image_sets.prepare_first(
        image_sets.find(case.calibration), checkpoint.preprocess, 4, info
    )
    exported, _ = export.export(checkpoint, few)
    return simplify.simplify(exported, few)[0]


# The models and their images.


def make_case(name: str, scratch: Path) -> Case:
    if name == "vit-b":
        return vit_b(scratch)
    demo, data = ROOT / "scripts/demo/vit", demo_data()
    checkpoint = demo
    if name != "demo":
        checkpoint = scratch / "checkpoint"
        with_outliers(demo, checkpoint, float(name.removeprefix("x")), data / "heldout")
    return Case(name, checkpoint, data / "calibration", data / "heldout")


def demo_data() -> Path:
    """The folder of the demo's digits; writes them as `make demo` does if they are missing."""
    from scripts.demo.digits import HELD_OUT, HELD_OUT_PHOTO, TRAIN_PHOTO, photo, split, write_set

    data = CACHE / "demo"
    train, held = split()
    if count(data / "calibration") != CALIBRATION_IMAGES:
        write_set(data / "calibration", train, photo(TRAIN_PHOTO), 1, CALIBRATION_IMAGES)
    if count(data / "heldout") != HELD_OUT:
        write_set(data / "heldout", held, photo(HELD_OUT_PHOTO), seed=2, count=HELD_OUT)
    return data


def count(folder: Path) -> int:
    return sum(1 for _ in folder.rglob("*.png"))


def with_outliers(source: Path, target: Path, factor: float, folder: Path) -> None:
    from edge.builder import image_sets
    from edge.builder.models.checkpoint import read_checkpoint
    from scripts.bench import outliers

    outliers.inject(source, target, factor)
    spec = read_checkpoint(str(target)).preprocess
    images = image_sets.prepare_first(image_sets.find(folder), spec, FEW, info)
    difference = outliers.check_preserved(source, target, images)
    info(f"x{factor:g}: FP32 logits differ from the demo's by {difference:.2g}")


def vit_b(scratch: Path) -> Case:
    """A ViT-B/16 with random weights, and crops of scikit-learn's two photos."""
    import torch
    from transformers import ViTConfig, ViTForImageClassification
    from transformers import ViTImageProcessorPil as Processor
    from transformers.utils.logging import disable_progress_bar

    from scripts.demo.digits import HELD_OUT_PHOTO, TRAIN_PHOTO

    disable_progress_bar()
    torch.manual_seed(0)
    checkpoint = scratch / "checkpoint"
    config = ViTConfig(num_labels=1000, initializer_range=SPREAD)
    ViTForImageClassification(config).save_pretrained(checkpoint)
    Processor().save_pretrained(checkpoint)
    write_crops(scratch / "calibration", TRAIN_PHOTO, seed=1)
    write_crops(scratch / "heldout", HELD_OUT_PHOTO, seed=2)
    return Case("vit-b", checkpoint, scratch / "calibration", scratch / "heldout")


def write_crops(folder: Path, name: str, seed: int) -> None:
    """Random square crops of one photo."""
    import numpy as np
    from PIL import Image

    from scripts.demo.digits import photo

    folder.mkdir()
    image = Image.fromarray(photo(name))
    rng = np.random.default_rng(seed)
    for number in range(PHOTOS):
        side = int(rng.integers(96, min(image.size)))
        left, top = (int(rng.integers(length - side + 1)) for length in image.size)
        crop = image.crop((left, top, left + side, top + side))
        crop.resize((PHOTO_SIZE, PHOTO_SIZE)).save(folder / f"{number:02d}.png")


# Output.


def to_table(model: str, rows: list[Row]) -> Table:
    from rich.table import Table

    table = Table(title=f"{model}: INT8 against FP32, held-out images", title_justify="left")
    for column in ("quantiser", "method", "SQNR dB", "agrees %", "seconds", "peak MB"):
        table.add_column(column, justify="left" if column in ("quantiser", "method") else "right")
    for row in rows:
        figures = [
            "-" if value is None else f"{value:.{digits}f}"
            for value, digits in (
                (row.sqnr_db, 2),
                (row.agreement, 2),
                (row.seconds, 1),
                (row.peak_mb, 0),
            )
        ]
        table.add_row(row.quantiser, row.method, *figures)
    failures = [f"{row.quantiser}, {row.method}: {row.error}" for row in rows if row.error]
    table.caption, table.caption_justify = "\n".join(failures) or None, "left"
    return table


def versions(peer: Peer) -> dict[str, str]:
    """The versions of the quantisers and of what ran the results."""
    code = (
        "import json, sys; from importlib.metadata import version; "
        "print(json.dumps({name: version(name) for name in sys.argv[1:]}))"
    )

    def ask(python: str, *names: str) -> dict[str, str]:
        done = subprocess.run([python, "-c", code, *names], capture_output=True, check=True)
        return dict(json.loads(done.stdout))

    found = {"python": platform.python_version()}
    found |= ask(sys.executable, "vit-edge", "onnx", "onnxruntime", "numpy", "torch")
    if peer.python:
        theirs = ask(peer.python, "nvidia-modelopt", "onnx", "onnxruntime", "torch")
        found |= {f"ModelOpt's {name}": number for name, number in theirs.items()}
    return found


def our_methods(asked: str | None) -> list[str]:
    from edge.builder.precision.calibrate import METHODS

    methods = asked.split(",") if asked else ["auto"] if "auto" in METHODS else ["mse", "minmax"]
    if unknown := sorted({*methods} - {*METHODS}):
        raise SystemExit(f"error: no method {', '.join(unknown)}; choose of: {', '.join(METHODS)}")
    return methods


def combinations(methods: list[str]) -> Iterator[tuple[str, str]]:
    """(quantiser, method) of every row."""
    for quantiser, known in (("vit-edge", tuple(methods)), *PEERS):
        for method in known:
            yield quantiser, method


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default=",".join(MODELS), help="some of: %(default)s")
    parser.add_argument("--methods", help="our calibration methods (default: auto)")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    arguments = parser.parse_args()
    names = arguments.models.split(",")
    if unknown := sorted({*names} - {*MODELS}):
        parser.error(f"no model {', '.join(unknown)}; choose of: {', '.join(MODELS)}")
    from edge.errors import EdgeError

    try:
        compare(names, our_methods(arguments.methods), arguments.out)
    except EdgeError as error:
        raise SystemExit(f"error: {error}") from error


def compare(names: list[str], methods: list[str], out: Path | None) -> None:
    from rich.console import Console as Terminal

    from edge.files.storage import check_target, write_bytes

    if out:
        check_target(out)
    peer = modelopt_environment(CACHE / "modelopt-venv")
    rows: list[Row] = []
    models: dict[str, dict[str, int]] = {}
    for name in names:
        with tempfile.TemporaryDirectory() as scratch:
            case = make_case(name, Path(scratch))
            models[name], found = measure_case(
                case, list(combinations(methods)), peer, Path(scratch)
            )
        Terminal().print(to_table(name, found))
        rows += found
    if out:
        figures = {
            "machine": machine(),
            "versions": versions(peer),
            "models": models,
            "rows": [asdict(row) for row in rows],
        }
        write_bytes(out, f"{json.dumps(figures, indent=1)}\n".encode())


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit("stopped by Ctrl-C; nothing was written") from None
