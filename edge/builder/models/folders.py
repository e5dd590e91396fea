"""The files of a checkpoint's folder: reads its JSON and checks its weights.

Weights are read from safetensors only. Pickles can run code when they are opened, so they are
refused; code that comes with a checkpoint is never run.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from edge.errors import CheckpointError, require
from edge.files.reading import ACCESS, opened, read_text

__all__ = [
    "FETCHED",
    "check_adapter",
    "check_pickles",
    "check_tokenizer",
    "check_weights",
    "files",
    "read_json",
    "read_processor",
    "weights",
]

# The files with a tokenizer's vocabulary, and all files of tokenizers.
_VOCABULARIES = ("tokenizer.json", "vocab.json", "*.model")
_TOKENIZERS = (
    *_VOCABULARIES,
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
# An image processor; a processor of texts and images that contains one.
_PROCESSOR, _PROCESSORS = "preprocessor_config.json", "processor_config.json"
# All weights in one file; the index of weights in several shards.
_WEIGHTS, _SHARDS = "model.safetensors", "model.safetensors.index.json"
_ADAPTER = "adapter_config.json"  # of PEFT
_SMALL = ("config.json", _PROCESSOR, _PROCESSORS, *_TOKENIZERS, _SHARDS)
# The files that are downloaded from the hub; there, a star also matches slashes.
FETCHED = (*_SMALL, _ADAPTER, _WEIGHTS, "model-*-of-*.safetensors")
_PICKLES = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt")


def files(folder: Path) -> list[Path]:
    """The files that a fingerprint must cover: config, processor, tokenizer and weights."""
    small = {path for pattern in _SMALL for path in folder.glob(pattern)}
    return sorted(small.union(weights(folder)))


def weights(folder: Path) -> list[Path]:
    """The weight files that transformers reads: the single file, or the shards of the index.

    Other weights, such as weights averaged in training or another library's, are not read. Returns
    [] without weights. Raises `CheckpointError` for an invalid index.
    """
    if (folder / _WEIGHTS).is_file():
        return [folder / _WEIGHTS]
    if not (folder / _SHARDS).is_file():
        return []
    again = "download the checkpoint again"
    places = read_json(folder / _SHARDS, again).get("weight_map")
    shards = set(places.values()) if isinstance(places, dict) else set()
    if not shards or not all(isinstance(name, str) and name == Path(name).name for name in shards):
        raise CheckpointError(f"{folder / _SHARDS} lists no weight files", again)
    return [folder / shard for shard in sorted(shards)]


def read_json(path: Path, hint: str) -> dict[str, Any]:
    """Read a JSON object. Raises `CheckpointError`, with `hint` when the file does not exist."""
    try:
        data = json.loads(read_text(path))
    except FileNotFoundError:
        raise CheckpointError(f"{path.parent} has no {path.name}", hint) from None
    except OSError as error:
        raise _unreadable(path, error) from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is damaged ({error})", "download the checkpoint again"
        ) from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} is not a JSON object", "download the checkpoint again")
    return data


def _unreadable(path: Path, error: OSError) -> CheckpointError:
    """The error for a file that the system does not let this user read."""
    return CheckpointError(f"{path} cannot be read ({error.strerror or error})", ACCESS)


def read_processor(folder: Path) -> tuple[str, dict[str, Any]]:
    """The name of the file with the image processor, and the processor's configuration.

    If both files have one, transformers uses the one in the processor of texts and images. Raises
    `CheckpointError` when there is none.
    """
    hint = "save the processor with the model: processor.save_pretrained(folder)"
    if (folder / _PROCESSORS).is_file():
        inside = read_json(folder / _PROCESSORS, hint).get("image_processor")
        if isinstance(inside, dict):
            return _PROCESSORS, inside
    return _PROCESSOR, read_json(folder / _PROCESSOR, hint)


def check_tokenizer(name: str, folder: Path) -> None:
    """Raise `CheckpointError` when the folder has no tokenizer."""
    if not any(any(folder.glob(pattern)) for pattern in _VOCABULARIES):
        raise CheckpointError(
            f"{name} has no tokenizer, which zero-shot labels need",
            "save it with the model: tokenizer.save_pretrained(folder)",
        )


def check_adapter(name: str, folder: Path) -> None:
    """Raise `CheckpointError` when the folder has a PEFT adapter.

    transformers applies it if peft is installed, and ignores it without a word if it is not.
    """
    if not (folder / _ADAPTER).is_file():
        return
    found = read_json(folder / _ADAPTER, "")
    mapping = found.get("auto_mapping")
    model = mapping.get("base_model_class") if isinstance(mapping, dict) else None
    code = (
        "import transformers as t; from peft import PeftModel; "
        f"b = {json.dumps(found.get('base_model_name_or_path'))}; "
        f"d = {json.dumps(folder.name + '-merged')}; "
        f"m = t.{model or 'AutoModelForImageClassification'}.from_pretrained(b); "
        f"PeftModel.from_pretrained(m, {json.dumps(name)}).merge_and_unload().save_pretrained(d); "
        "t.AutoImageProcessor.from_pretrained(b).save_pretrained(d)"
    )
    raise CheckpointError(
        f"{name} is a PEFT adapter ({_ADAPTER}), which belongs on top of another checkpoint",
        f"merge the two, with peft installed: python -c {shlex.quote(code)}",
    )


def check_pickles(name: str, names: Iterable[str]) -> None:
    """Raise `CheckpointError` when there are pickles among the file names of a checkpoint."""
    if any(fnmatchcase(file, pattern) for file in names for pattern in _PICKLES):
        code = (
            f"import transformers as t; n = {json.dumps(name)}; "
            f"d = {json.dumps(Path(name).name + '-safetensors')}; "
            "a = t.AutoConfig.from_pretrained(n).architectures[0]; "
            "getattr(t, a).from_pretrained(n).save_pretrained(d); "
            "t.AutoProcessor.from_pretrained(n).save_pretrained(d)"
        )
        raise CheckpointError(
            f"{name} only has pickled weights, which can run code when opened",
            f"if you trust them, convert them to safetensors: python -c {shlex.quote(code)}",
        )


def check_weights(name: str, folder: Path) -> None:
    """Check that there are safetensors and that they are intact. Raises `CheckpointError`."""
    found = weights(folder)
    if not found:
        check_pickles(name, (path.name for path in folder.iterdir()))
        raise CheckpointError(
            f"{name} has no weights ({_WEIGHTS}, or the shards of {_SHARDS})",
            "download the complete checkpoint, or choose one that has safetensors",
        )
    safetensors = require("safetensors")
    for path in found:
        if not path.is_file():
            raise CheckpointError(
                f"{path} is missing, but {_SHARDS} lists it", "download the checkpoint again"
            )
        try:
            with opened(path):
                pass
        except OSError as error:
            raise _unreadable(path, error) from error
        try:
            with safetensors.safe_open(str(path), framework="np"):
                pass
        except Exception as error:  # SafetensorError has no public base
            raise CheckpointError(
                f"{path} is corrupt or truncated ({error})", "download the checkpoint again"
            ) from error
