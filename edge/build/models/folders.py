"""What a checkpoint's folder holds: fetched without code, its JSON read, its weights looked at.

Weights are taken from safetensors only: a pickle can run code when it is opened, so one is refused
rather than read, and code that travels with a checkpoint is never run.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edge.errors import CheckpointError, require

__all__ = [
    "check_tokenizer",
    "check_weights",
    "fetch",
    "files",
    "read_json",
    "read_processor",
]

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
# Of pictures alone; of texts, too, with that of pictures in it.
_PROCESSOR, _PROCESSORS = "preprocessor_config.json", "processor_config.json"
_FETCHED = ("*.json", "*.safetensors", "merges.txt", "*.model")
_PICKLES = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt")


def files(folder: Path) -> list[Path]:
    """What a fingerprint must cover: config, processor, tokenizer and weights."""
    patterns = ("config.json", _PROCESSOR, _PROCESSORS, *_TOKENIZERS, "*.safetensors")
    return sorted(path for pattern in patterns for path in folder.glob(pattern))


def fetch(name: str) -> Path:
    """Download a hub id, without pickles and without code. Raises `CheckpointError`."""
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


def read_json(path: Path, mend: str) -> dict[str, Any]:
    """A file's object. Raises `CheckpointError`, with `mend` when there is no such file."""
    try:
        data = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path.parent} has no {path.name}", mend) from None
    except (ValueError, OSError, RecursionError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({error})", "download the checkpoint again"
        ) from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} is not a JSON object", "download the checkpoint again")
    return data


def read_processor(folder: Path) -> tuple[str, dict[str, Any]]:
    """The file that has the processor of pictures, and its configuration.

    Where there are two, transformers takes that of the processor of texts and pictures.
    """
    mend = "save the processor beside the model: processor.save_pretrained(folder)"
    if (folder / _PROCESSORS).is_file():
        inside = read_json(folder / _PROCESSORS, mend).get("image_processor")
        if isinstance(inside, dict):
            return _PROCESSORS, inside
    return _PROCESSOR, read_json(folder / _PROCESSOR, mend)


def check_tokenizer(name: str, folder: Path) -> None:
    """Raises `CheckpointError` when there is none."""
    if not any(any(folder.glob(words)) for words in _TOKENIZERS[:3]):
        raise CheckpointError(
            f"{name} has no tokenizer, which zero-shot labels need",
            "save it beside the model: tokenizer.save_pretrained(folder)",
        )


def check_weights(name: str, folder: Path) -> None:
    """See that there are safetensors, and whole ones. Raises `CheckpointError`."""
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
