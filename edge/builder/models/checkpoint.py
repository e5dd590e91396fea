"""Checkpoints, read without torch: checked to be complete, safe and of a supported kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.builder.models import folders, hub
from edge.builder.models.families import (
    FAMILIES,
    TIMM,
    Family,
    family_of,
    fused_of,
    task_of,
    vision_of,
)
from edge.builder.models.resolution import check_side
from edge.builder.models.tasks import Request, head_of
from edge.engine.heads import ZERO_SHOT, Head
from edge.errors import CheckpointError
from edge.preprocess.processors import from_processor
from edge.preprocess.sizes import resized
from edge.preprocess.spec import Preprocess
from edge.preprocess.timm_config import from_timm

__all__ = ["Checkpoint", "read_checkpoint"]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose config, weights and processor were found and are supported."""

    name: str  # as the user gave it: a path or a hub id
    folder: Path
    config: Mapping[str, Any]  # the content of config.json
    architecture: str
    family: Family
    head: Head
    preprocess: Preprocess
    image_size: int | None = None  # pixels per side, if another size than it was trained with

    @property
    def files(self) -> list[Path]:
        """The files that a fingerprint must cover."""
        return folders.files(self.folder)

    @property
    def fused(self) -> tuple[str, ...]:
        """Operators that its graph must have as single nodes."""
        return fused_of(self.family, vision_of(self.name, self.config))


def read_checkpoint(name: str, request: Request = Request()) -> Checkpoint:  # noqa: B008 - frozen
    """Read a checkpoint from a folder, or download it by its hub id.

    Raises `CheckpointError` when it is missing or corrupt, has no safetensors, or when its
    architecture or processor is not supported.
    """
    folder = Path(name)
    if folder.is_file():
        raise _file_error(folder)
    if not folder.is_dir():
        folder = hub.fetch(name)
    folders.check_adapter(name, folder)
    config = folders.read_json(
        folder / "config.json", "give the folder of a Hugging Face checkpoint"
    )
    if quantization := config.get("quantization_config"):
        method = quantization.get("quant_method") if isinstance(quantization, dict) else None
        raise CheckpointError(
            f"{name} is quantized already ({method or 'quantization_config in config.json'})",
            "use the checkpoint that it was made from: edge build quantizes it",
        )
    family, architecture = family_of(name, config)
    task = task_of(name, family, architecture, request.task)
    folders.check_weights(name, folder)
    head = head_of(name, config, family, task, request)
    if task == ZERO_SHOT:
        folders.check_tokenizer(name, folder)
    preprocess = _preprocess(name, folder, config, family)
    side = request.image_size
    if side is None or side == preprocess.height == preprocess.width:
        return Checkpoint(name, folder, config, architecture, family, head, preprocess)
    preprocess = _resized(name, config, family, preprocess, side)
    return Checkpoint(name, folder, config, architecture, family, head, preprocess, side)


def _preprocess(name: str, folder: Path, config: dict[str, Any], family: Family) -> Preprocess:
    """The preprocessing for images of the size that the checkpoint was trained with."""
    if family is FAMILIES[TIMM]:
        settings = config.get("pretrained_cfg")
        if not isinstance(settings, dict):
            raise CheckpointError(
                f"{name}: config.json has no pretrained_cfg, which describes timm's preprocessing",
                "download config.json again, or save the model with timm",
            )
        return from_timm(settings)
    vision = vision_of(name, config)
    if vision.get("num_channels", 3) != 3:
        raise CheckpointError(f"{name} takes {vision['num_channels']} channels", "use an RGB model")
    size = _image_size(name, vision) if family.sized else None
    where, processor = folders.read_processor(folder)
    return from_processor(processor, size, family.processor, where)


def _resized(
    name: str, config: dict[str, Any], family: Family, preprocess: Preprocess, side: int
) -> Preprocess:
    """The preprocessing for images of `side` x `side`.

    Raises `CheckpointError` if the checkpoint cannot take images of that size.
    """
    width, height = preprocess.width, preprocess.height
    # transformers assumes that every table of positions is that of a square.
    if width != height and family is not FAMILIES[TIMM]:
        raise CheckpointError(
            f"{name} is a {family.name} that only takes images of {width}x{height}",
            "leave out --image-size",
        )
    try:
        step = family.step(vision_of(name, config))
    except ValueError as error:
        raise CheckpointError(
            f"{name}: config.json has {error}", "correct it, or download it again"
        ) from error
    check_side(name, side, step)
    try:
        return resized(preprocess, side)
    except ValueError as error:
        raise CheckpointError(
            f"{name} cannot have --image-size {side}: {error}", "choose a smaller size"
        ) from error


def _image_size(name: str, config: Mapping[str, Any]) -> tuple[int, int]:
    """The input size of the model, (height, width)."""
    size = config.get("image_size", 224)
    sides = size if isinstance(size, list) and len(size) == 2 else [size, size]
    if not all(type(side) is int and side > 0 for side in sides):
        raise CheckpointError(
            f"{name}: image_size in config.json is {size!r}", "write a number, or [height, width]"
        )
    return sides[0], sides[1]


def _file_error(path: Path) -> CheckpointError:
    """The error for a file that was given as a checkpoint."""
    if path.suffix == ".onnx":
        return CheckpointError(
            f"{path} is an ONNX graph, not a checkpoint",
            "give the folder of the checkpoint from which it was exported; if the graph has Q/DQ "
            f"nodes, add: --graph {path}",
        )
    if path.suffix in (".plan", ".engine", ".trt"):
        return CheckpointError(
            f"{path} is a TensorRT plan, which cannot be built again",
            "give the folder of the Hugging Face checkpoint",
        )
    return CheckpointError(
        f"{path} is a file, not the folder of a checkpoint",
        f"give the folder that has config.json, such as {path.parent}",
    )
