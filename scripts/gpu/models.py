"""The networks of the GPU check, small enough to carry to a machine without an internet connection.

    .venv/bin/python -m scripts.gpu.models FOLDER

writes the tiny engine of the tests, FOLDER/tiny-int8, and the device form of a ViT-B/16 with random
weights, FOLDER/vit-b16-{fp16,int8}.onnx. Random weights have half a gigabyte and do not compress,
so only the mean and deviation of each array are written, and `filled` draws the values again.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, helper, numpy_helper

LARGE = 4096  # elements; smaller arrays are written unchanged
IMAGES, MAX_BATCH = 24, 8


def emptied(model: ModelProto) -> ModelProto:
    """Replace each large array of weights by its mean and deviation. Changes `model`."""
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.size > LARGE:
            real = values.astype(np.float64)
            tensor.doc_string = f"{real.mean()} {real.std()}"
            tensor.ClearField("raw_data")
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
    return model


def filled(model: ModelProto) -> ModelProto:
    """Draw the weights that `emptied` removed; always the same values. Changes `model`."""
    rng = np.random.default_rng(0)
    for tensor in model.graph.initializer:
        if not tensor.doc_string:
            continue
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
        mean, deviation = map(float, tensor.doc_string.split())
        values = mean + deviation * rng.standard_normal(tuple(tensor.dims), np.float32)
        if np.issubdtype(dtype, np.integer):
            values = np.clip(np.rint(values), -127, 127)
        tensor.raw_data = values.astype(dtype).tobytes()
        tensor.doc_string = ""
    return model


def make(folder: Path) -> None:
    """Build the engine and the graphs; needs the extra `build`."""
    import torch
    from PIL import Image
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

    from edge.builder import graph
    from edge.builder.pipeline import build
    from edge.builder.plan import device_form
    from edge.builder.recipes import Recipe
    from edge.cli.console import Console
    from tests.conftest import save_checkpoint

    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        (scratch / "images").mkdir()
        rng = np.random.default_rng(0)
        for number in range(IMAGES):
            coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8))
            image = coarse.resize((320, 240), Image.Resampling.BICUBIC)
            image.save(scratch / f"images/{number:02d}.png")
        save_checkpoint(scratch / "tiny")
        common = {"engines": scratch, "gate": False}
        tiny = str(scratch / "tiny")
        images = scratch / "images"
        build(Recipe(tiny, images, name="tiny-int8", max_batch=4, **common), Console())
        (scratch / "tiny-int8").rename(folder / "tiny-int8")

        torch.manual_seed(0)
        checkpoint = scratch / "vit-b16"
        ViTForImageClassification(ViTConfig(num_labels=1000)).save_pretrained(checkpoint)
        ViTImageProcessorPil().save_pretrained(checkpoint)
        for precision in ("fp16", "int8"):
            recipe = Recipe(
                str(checkpoint),
                images,
                precision=precision,
                name=precision,
                max_batch=MAX_BATCH,
                **common,
            )
            build(recipe, Console())
            model = graph.load(scratch / precision / "model.onnx")
            onnx.save(emptied(device_form(model, precision)), folder / f"vit-b16-{precision}.onnx")


if __name__ == "__main__":
    make(Path(sys.argv[1]).absolute())
