"""Read a checkpoint's folder without torch: is it whole, safe, and of a kind that we build?

Weights are taken from safetensors only: a pickle can run code when it is opened, so one is refused
rather than read, and code that travels with a checkpoint is never run.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edge.build.families import Family, family_of, task_of
from edge.errors import CheckpointError, require
from edge.heads import FEATURES, ZERO_SHOT, Head, Pooling, Task
from edge.preprocess.processors import from_processor
from edge.preprocess.spec import Preprocess

__all__ = ["Checkpoint", "Request", "read_checkpoint"]

TEMPLATE = "This is a photo of {}."  # where none is given, as in transformers' pipeline

# What a tokenizer is made of: the first three hold its words.
_TOKENIZERS = (
    "tokenizer.json",
    "vocab.json",
    "*.model",
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
_PROCESSORS = ("preprocessor_config.json", "processor_config.json")
_FETCHED = ("*.json", "*.safetensors", "merges.txt", "*.model")
_PICKLES = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclass(frozen=True)
class Request:
    """What is wanted of a checkpoint, where it leaves a choice."""

    task: Task | None = None  # None: the usual one of its architecture
    pooling: Pooling | None = None  # of features; None: the model's own
    normalise: bool = False  # features to length 1
    labels: tuple[str, ...] = ()  # of zero-shot
    templates: tuple[str, ...] = ()  # that they are put into; none: `TEMPLATE`


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose config, weights and processor were found and understood."""

    name: str  # as the user gave it: a path or a hub id
    folder: Path
    architecture: str
    family: Family
    head: Head
    preprocess: Preprocess

    @property
    def files(self) -> list[Path]:
        """What a fingerprint must cover: config, processor, tokenizer and weights."""
        patterns = ("config.json", *_PROCESSORS, *_TOKENIZERS, "*.safetensors")
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
    vision = config.get("vision_config", config)  # of a model that reads texts, too
    if not isinstance(vision, dict):
        raise CheckpointError(
            f"{name}: vision_config in config.json is no object", "download the checkpoint again"
        )
    if vision.get("num_channels", 3) != 3:
        raise CheckpointError(f"{name} takes {vision['num_channels']} channels", "use an RGB model")
    head = _head(name, config, family, task, request)
    if task == ZERO_SHOT and not any(any(folder.glob(words)) for words in _TOKENIZERS[:3]):
        raise CheckpointError(
            f"{name} has no tokenizer, which zero-shot labels need",
            "save it beside the model: tokenizer.save_pretrained(folder)",
        )
    size = _image_size(name, vision) if family.sized else None
    preprocess = from_processor(_processor(folder), size)
    return Checkpoint(name, folder, architecture, family, head, preprocess)


def _processor(folder: Path) -> dict[str, Any]:
    """The processor of pictures; one that was saved with a tokenizer's keeps it inside."""
    if not (folder / _PROCESSORS[0]).is_file() and (folder / _PROCESSORS[1]).is_file():
        whole = _json(folder / _PROCESSORS[1], "save the processor beside the model")
        if isinstance(whole.get("image_processor"), dict):
            return dict(whole["image_processor"])
    return _json(
        folder / _PROCESSORS[0],
        "save the processor beside the model: processor.save_pretrained(folder)",
    )


def _head(name: str, config: dict[str, Any], family: Family, task: Task, request: Request) -> Head:
    """What its graph will end in. Raises `CheckpointError` for what the task cannot have."""
    if task != FEATURES and (request.pooling or request.normalise):
        raise CheckpointError(
            f"--pooling and --normalise are for {FEATURES}, {name} is built for {task}",
            f"leave them out, or add: --task {FEATURES}",
        )
    if task != ZERO_SHOT and (request.labels or request.templates):
        raise CheckpointError(
            f"--labels and --template are for {ZERO_SHOT}, {name} is built for {task}",
            "leave them out, or build a CLIP or SigLIP",
        )
    if task == FEATURES:
        if request.pooling == "cls" and not family.special:
            raise CheckpointError(
                f"{name} is a {family.name}, which has no class token",
                "choose --pooling mean, or leave it out",
            )
        return Head(task, (), "none", request.pooling or "own", request.normalise)
    if task == ZERO_SHOT:
        _check_texts(name, family, request)
        activation: Literal["softmax", "sigmoid"] = "sigmoid" if family.sigmoid else "softmax"
        templates = request.templates or (TEMPLATE,)
        return Head(task, request.labels, activation, templates=templates)
    labels = _labels(name, config)
    several = config.get("problem_type") == "multi_label_classification" or len(labels) == 1
    return Head(task, labels, "sigmoid" if several else "softmax")


def _check_texts(name: str, family: Family, request: Request) -> None:
    labels = request.labels
    mend = 'such as --labels "a cat,a dog", or a file with one per line: --labels labels.txt'
    if not labels:
        raise CheckpointError(f"{name} is a {family.name}, which needs labels", mend)
    if not all(label.strip() for label in labels):
        raise CheckpointError("one of the labels is empty", mend)
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise CheckpointError(f"the label {twice[0]!r} is given twice", "give each label once")
    if len(labels) == 1 and not family.sigmoid:
        raise CheckpointError(
            f"{name} is a {family.name}, which compares labels, and one alone always has 100 %",
            f"add what else a picture may show, {mend}",
        )
    if odd := [template for template in request.templates if template.count("{}") != 1]:
        raise CheckpointError(
            f"the template {odd[0]!r} has not one {{}}, where the label goes",
            'such as --template "a photo of a {}."',
        )


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
        folder = hub.snapshot_download(name, allow_patterns=[*_FETCHED])
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
