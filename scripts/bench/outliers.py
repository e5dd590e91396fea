"""Activation outliers of large ViTs, injected into a ViT checkpoint without changing its function.

Some channels of each LayerNorm are multiplied by a factor, and the Linears that read it divide by
the same factor; likewise for the value projection and the output projection. The activations in
between are then hard for INT8: one range must represent a few huge channels and all others.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

CHANNELS = 3  # in each LayerNorm and each value projection of a block
VALUE_FACTOR = 20.0
TOLERANCE = 1e-4  # times the largest logit (at least 1), as in edge.builder.export

Tensor = npt.NDArray[np.float32]


def inject(source: Path, target: Path, factor: float, value_factor: float = VALUE_FACTOR) -> None:
    """Copy a checkpoint folder and add outliers to every block, in FP32.

    factor: of the LayerNorms' channels; value_factor: of the value projection's.
    """
    from safetensors.numpy import load_file, save_file

    shutil.copytree(source, target)
    config = json.loads((target / "config.json").read_text())
    # In half precision a product and its quotient would round differently.
    (target / "config.json").write_text(json.dumps({**config, "dtype": "float32"}, indent=1))
    path = target / "model.safetensors"
    weights = {name: value.astype(np.float32) for name, value in load_file(path).items()}
    for number, block in enumerate(blocks(weights)):
        rng = np.random.default_rng(number)
        attention = f"{block}.attention.attention"
        readers = [f"{attention}.{name}" for name in ("query", "key", "value")]
        scale(weights, f"{block}.layernorm_before", readers, factor, rng)
        scale(weights, f"{block}.layernorm_after", [f"{block}.intermediate.dense"], factor, rng)
        output = f"{block}.attention.output.dense"
        scale(weights, f"{attention}.value", [output], value_factor, rng)
    save_file(weights, path, {"format": "pt"})


def blocks(weights: dict[str, Tensor]) -> Iterator[str]:
    """The names of the transformer's blocks, `vit.encoder.layer.0` and so on."""
    for name in sorted(weights):
        if found := re.fullmatch(r"(.+\.layer\.\d+)\.layernorm_before\.weight", name):
            yield found[1]


def scale(
    weights: dict[str, Tensor],
    writer: str,
    readers: list[str],
    factor: float,
    rng: np.random.Generator,
) -> None:
    """Multiply some of the writer's channels by `factor`, and divide its readers' columns by it."""
    bias = weights[f"{writer}.bias"]
    channels = rng.choice(len(bias), CHANNELS, replace=False)
    bias[channels] *= factor
    weights[f"{writer}.weight"][channels] *= factor
    for reader in readers:
        weights[f"{reader}.weight"][:, channels] /= factor


def check_preserved(source: Path, target: Path, images: Tensor) -> float:
    """The largest difference of a logit between two checkpoints.

    images: preprocessed images, float32 [N, 3, H, W]. Raises AssertionError if the difference is
    larger than float rounding explains.
    """
    reference, logits = (run(folder, images) for folder in (source, target))
    difference = float(abs(reference - logits).max())
    bound = TOLERANCE * max(1.0, float(abs(reference).max()))
    assert difference <= bound, f"{target} differs from {source} by {difference:.3g}"
    return difference


def run(folder: Path, images: Tensor) -> Tensor:
    """A checkpoint's logits in FP32, computed by transformers."""
    import torch
    from transformers import AutoModelForImageClassification
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    model = AutoModelForImageClassification.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        logits: Tensor = model(pixel_values=torch.from_numpy(images)).logits.numpy()
    return logits
