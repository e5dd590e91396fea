"""Read a checkpoint's folder without torch: is it whole, safe, and of a kind that we build?

Weights are taken from safetensors only: a pickle can run code when it is opened, so one is refused
rather than read, and code that travels with a checkpoint is never run.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.build import timm_library
from edge.build.families import FAMILIES, TIMM, Family, family_of, task_of
from edge.build.resolution import check_side
from edge.errors import CheckpointError, require
from edge.heads import FEATURES, Head, Pooling, Task
from edge.preprocess.processors import from_processor, from_timm
from edge.preprocess.sizes import resized
from edge.preprocess.spec import Preprocess

__all__ = ["Checkpoint", "Request", "read_checkpoint"]

_PICKLES = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclass(frozen=True)
class Request:
    """What is wanted of a checkpoint, where it leaves a choice."""

    task: Task | None = None  # None: the usual one of its architecture
    pooling: Pooling = "own"  # of features
    normalise: bool = False  # features to length 1
    image_size: int | None = None  # pixels of a side; None: those that it was trained with


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose config, weights and processor were found and understood."""

    name: str  # as the user gave it: a path or a hub id
    folder: Path
    architecture: str
    family: Family
    head: Head
    preprocess: Preprocess
    image_size: int | None = None  # pixels of a side, if others than it was trained with

    @property
    def files(self) -> list[Path]:
        """What a fingerprint must cover: config, processor and weights."""
        patterns = ("config.json", "preprocessor_config.json", "*.safetensors")
        return sorted(path for pattern in patterns for path in self.folder.glob(pattern))


def read_checkpoint(name: str, request: Request = Request()) -> Checkpoint:
    """Read a checkpoint folder, or fetch a hub id's.

    Raises `CheckpointError` when it is missing, corrupt, has no safetensors, or is of an
    architecture or with a processor that is not supported.
    """
    folder = Path(name)
    if not folder.is_dir():
        folder = _fetch(name)
    config = _json(folder / "config.json", "this is no Hugging Face checkpoint")
    family, architecture = family_of(name, config)
    task = task_of(name, family, architecture, request.task)
    _check_weights(name, folder)
    if config.get("num_channels", 3) != 3:
        raise CheckpointError(f"{name} takes {config['num_channels']} channels", "use an RGB model")
    preprocess = _preprocess(name, folder, config, family)
    side = request.image_size
    if side in (preprocess.height, None) and side in (preprocess.width, None):
        side = None
    else:
        preprocess = _resized(name, config, family, preprocess, side)
    head = _head(name, config, family, task, request)
    return Checkpoint(name, folder, architecture, family, head, preprocess, side)


def _preprocess(name: str, folder: Path, config: dict[str, Any], family: Family) -> Preprocess:
    """How pictures are prepared of the size that it was trained with."""
    if family is FAMILIES[TIMM]:
        return from_timm(config["pretrained_cfg"])
    processor = _json(
        folder / "preprocessor_config.json",
        "save the processor beside the model: processor.save_pretrained(folder)",
    )
    return from_processor(processor, _image_size(name, config))


def _resized(
    name: str, config: dict[str, Any], family: Family, preprocess: Preprocess, side: int
) -> Preprocess:
    """How pictures of `side` x `side` are prepared. Raises `CheckpointError` if it takes none."""
    width, height = preprocess.width, preprocess.height
    # transformers takes any table of positions for that of a square.
    if family.step is None or (width != height and family is not FAMILIES[TIMM]):
        raise CheckpointError(
            f"{name} is a {family.name} that takes pictures of {width}x{height} only",
            "leave out --image-size",
        )
    check_side(name, side, family.step(config))
    try:
        return resized(preprocess, side)
    except ValueError as error:
        raise CheckpointError(
            f"{name} cannot have --image-size {side}: {error}", "choose a smaller one"
        ) from error


def _head(name: str, config: dict[str, Any], family: Family, task: Task, request: Request) -> Head:
    """What its graph will end in."""
    if task == FEATURES:
        return Head(task, (), "none", request.pooling, request.normalise)
    labels = (timm_library.labels if family is FAMILIES[TIMM] else _labels)(name, config)
    several = config.get("problem_type") == "multi_label_classification" or len(labels) == 1
    return Head(task, labels, "sigmoid" if several else "softmax")


def _image_size(name: str, config: dict[str, Any]) -> tuple[int, int]:
    """(height, width) that the model takes."""
    size = config.get("image_size", 224)
    sides = size if isinstance(size, list) and len(size) == 2 else [size, size]
    if not all(type(side) is int and side > 0 for side in sides):
        raise CheckpointError(
            f"{name}: image_size in config.json is {size!r}", "write a number, or [height, width]"
        )
    return sides[0], sides[1]


def _labels(name: str, config: dict[str, Any]) -> tuple[str, ...]:
    names = config.get("id2label")
    if not names and type(config.get("num_labels", 2)) is int:
        # As transformers names them.
        names = {str(index): f"LABEL_{index}" for index in range(config.get("num_labels", 2))}
    if not isinstance(names, dict):
        raise CheckpointError(
            f"{name}: id2label in config.json is {names!r:.40}, not an object",
            'write {"0": "cat", "1": "dog"}',
        )
    try:
        return tuple(str(names[str(index)]) for index in range(len(names)))
    except KeyError as error:
        raise CheckpointError(
            f"{name}: id2label in config.json has no class {error}", "number classes from 0"
        ) from error


def _fetch(name: str) -> Path:
    """Download a hub id, without pickles and without code."""
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or not name.strip():
        raise CheckpointError(f"there is no checkpoint at {name}", "check the path")
    hub = require("huggingface_hub")
    try:
        folder = hub.snapshot_download(name, allow_patterns=["*.json", "*.safetensors"])
    except Exception as error:  # every kind of network and hub failure
        reason = str(error).strip().partition("\n")[0][:160] or type(error).__name__
        raise CheckpointError(
            f"{name} is neither a folder here nor a hub id that can be fetched ({reason})",
            "check the path, or the id and the network (a gated model: hf auth login)",
        ) from error
    return Path(folder)


def _json(path: Path, mend: str) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text())
    except FileNotFoundError:
        raise CheckpointError(f"{path.parent} has no {path.name}", mend) from None
    except (ValueError, OSError, RecursionError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({error})", "download the checkpoint again"
        ) from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} is not a JSON object", "download the checkpoint again")
    return data


def _check_weights(name: str, folder: Path) -> None:
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        if any(path for pattern in _PICKLES for path in folder.glob(pattern)):
            raise CheckpointError(
                f"{name} has pickled weights only, which can run code when opened",
                "save it as safetensors: model.save_pretrained(folder) with transformers >= 4.45",
            )
        raise CheckpointError(
            f"{name} has no weights (*.safetensors; pickled ones are neither fetched nor read)",
            "download it again, whole, or choose one that has safetensors",
        )
    safetensors = require("safetensors")
    for path in weights:
        try:
            with safetensors.safe_open(str(path), framework="np"):
                pass
        except Exception as error:  # SafetensorError has no public base
            raise CheckpointError(
                f"{path} is corrupt or cut off ({error})", "download the checkpoint again"
            ) from error
