"""What a checkpoint's folder holds: its JSON read, its weights looked at.

Weights are taken from safetensors only: a pickle can run code when it is opened, so one is refused
rather than read, and code that travels with a checkpoint is never run.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from edge.errors import CheckpointError, require

__all__ = [
    "FETCHED",
    "check_pickles",
    "check_tokenizer",
    "check_weights",
    "files",
    "read_json",
    "read_processor",
    "weights",
]

# What the words of a tokenizer are in, and what else it is made of.
_WORDS = ("tokenizer.json", "vocab.json", "*.model")
_TOKENIZERS = (
    *_WORDS,
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
# Of pictures alone; of texts, too, with that of pictures in it.
_PROCESSOR, _PROCESSORS = "preprocessor_config.json", "processor_config.json"
# All weights, or which of them is in which shard.
_WEIGHTS, _SHARDS = "model.safetensors", "model.safetensors.index.json"
_SMALL = ("config.json", _PROCESSOR, _PROCESSORS, *_TOKENIZERS, _SHARDS)
# What is read of a repository; a star stands for slashes, too, where these are used.
FETCHED = (*_SMALL, _WEIGHTS, "model-*-of-*.safetensors")
_PICKLES = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt")


def files(folder: Path) -> list[Path]:
    """What a fingerprint must cover: config, processor, tokenizer and weights."""
    small = {path for pattern in _SMALL for path in folder.glob(pattern)}
    return sorted(small.union(weights(folder)))


def weights(folder: Path) -> list[Path]:
    """The files of its weights that transformers reads: the one that has all, or an index's shards.

    What else there is, such as weights averaged in training or another library's, is not read.
    Raises `CheckpointError` for an index that is none.
    """
    if (folder / _WEIGHTS).is_file():
        return [folder / _WEIGHTS]
    if not (folder / _SHARDS).is_file():
        return []
    again = "download the checkpoint again"
    places = read_json(folder / _SHARDS, again).get("weight_map")
    shards = set(places.values()) if isinstance(places, dict) else set()
    if not shards or not all(isinstance(one, str) and one == Path(one).name for one in shards):
        raise CheckpointError(f"{folder / _SHARDS} names no files of weights", again)
    return [folder / shard for shard in sorted(shards)]


def read_json(path: Path, hint: str) -> dict[str, Any]:
    """A file's object. Raises `CheckpointError`, with `hint` when there is no such file."""
    try:
        data = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path.parent} has no {path.name}", hint) from None
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
    hint = "save the processor beside the model: processor.save_pretrained(folder)"
    if (folder / _PROCESSORS).is_file():
        inside = read_json(folder / _PROCESSORS, hint).get("image_processor")
        if isinstance(inside, dict):
            return _PROCESSORS, inside
    return _PROCESSOR, read_json(folder / _PROCESSOR, hint)


def check_tokenizer(name: str, folder: Path) -> None:
    """Raises `CheckpointError` when there is none."""
    if not any(any(folder.glob(words)) for words in _WORDS):
        raise CheckpointError(
            f"{name} has no tokenizer, which zero-shot labels need",
            "save it beside the model: tokenizer.save_pretrained(folder)",
        )


def check_pickles(name: str, names: Iterable[str]) -> None:
    """Raises `CheckpointError` when there are pickles among the names of a checkpoint's files."""
    if any(fnmatchcase(one, pattern) for one in names for pattern in _PICKLES):
        code = (
            f"import transformers as t; n = {json.dumps(name)}; "
            f"d = {json.dumps(Path(name).name + '-safetensors')}; "
            "a = t.AutoConfig.from_pretrained(n).architectures[0]; "
            "getattr(t, a).from_pretrained(n).save_pretrained(d); "
            "t.AutoProcessor.from_pretrained(n).save_pretrained(d)"
        )
        raise CheckpointError(
            f"{name} has pickled weights only, which can run code when opened",
            f"if you trust them, make a folder with safetensors: python -c {shlex.quote(code)}",
        )


def check_weights(name: str, folder: Path) -> None:
    """See that there are safetensors, and whole ones. Raises `CheckpointError`."""
    found = weights(folder)
    if not found:
        check_pickles(name, (path.name for path in folder.iterdir()))
        raise CheckpointError(
            f"{name} has no weights ({_WEIGHTS}, or the shards of {_SHARDS})",
            "download it again, whole, or choose one that has safetensors",
        )
    safetensors = require("safetensors")
    for path in found:
        if not path.is_file():
            raise CheckpointError(
                f"{path} is missing, which {_SHARDS} names", "download the checkpoint again"
            )
        try:
            with safetensors.safe_open(str(path), framework="np"):
                pass
        except Exception as error:  # SafetensorError has no public base
            raise CheckpointError(
                f"{path} is corrupt or cut off ({error})", "download the checkpoint again"
            ) from error
