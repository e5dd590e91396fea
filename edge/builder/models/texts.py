"""Zero-shot labels: converted to a constant matrix, so that devices need no text model.

A label is put into each template, the text model computes a vector of each prompt, and the mean of
these is the label's vector, as CLIP's authors do (openai/CLIP,
notebooks/Prompt_Engineering_for_ImageNet).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge.builder.models.checkpoint import Checkpoint
from edge.builder.models.features import unit
from edge.errors import CheckpointError, reason, require
from edge.files.reading import read_text

__all__ = ["read_labels", "similarity"]

CHUNK = 256  # prompts that the text model runs at once


# Suffixes of files that a user might give instead of a .txt file.
_FILES = (".txt", ".csv", ".tsv", ".json", ".jsonl", ".toml", ".yaml", ".yml", ".md", ".xlsx")


def read_labels(text: str) -> list[str]:
    """The labels of `text`: separated by commas, or the lines of a file whose name ends in .txt.

    Raises `CheckpointError` for a file that cannot be read, and for other file names.
    """
    if not text.lower().endswith(".txt"):
        return _words(text)
    try:
        # utf-8-sig, since some editors write a byte order mark.
        lines = read_text(Path(text), "utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"the labels in {text} cannot be read ({error})",
            'type them instead: --labels "a cat,a dog"',
        ) from error
    return [line.strip() for line in lines if line.strip()]


def _words(text: str) -> list[str]:
    labels = [label.strip() for label in text.split(",")]
    hint = 'give labels, --labels "a cat,a dog", or a .txt file with one label per line'
    if files := [label for label in labels if label.lower().endswith(_FILES)]:
        raise CheckpointError(f"{files[0]} is named like a file, not like a label", hint)
    if labels == [text] and os.path.exists(text):  # noqa: PTH110 - Path's raises for long names
        raise CheckpointError(
            f"{text} is an existing file or folder, but not a .txt file with labels",
            f'{hint}; if it is a label: --labels "{text},"',
        )
    return labels[:-1] if len(labels) > 1 and not labels[-1] else labels  # `a cat,`


def similarity(checkpoint: Checkpoint, model: Any) -> Any:
    """A torch module: image embeddings [N, channels] -> logits [N, labels], for fixed labels.

    model: a CLIP or SigLIP of transformers; its text model is removed. Raises `CheckpointError` for
    a tokenizer that does not match the model, and for a prompt that is too long.
    """
    torch = require("torch")

    class Similarity(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self, matrix: Any, bias: Any) -> None:
            super().__init__()
            self.register_buffer("matrix", matrix)
            self.register_buffer("bias", bias)

        def forward(self, output: Any) -> Any:
            logits = unit(output.pooler_output) @ self.matrix
            return logits if self.bias is None else logits + self.bias

    with torch.no_grad():
        matrix = (_vectors(checkpoint, model) * model.logit_scale.exp()).T.contiguous()
    bias = getattr(model, "logit_bias", None)
    model.text_model = model.text_projection = None
    return Similarity(matrix, None if bias is None else bias.detach())


def _vectors(checkpoint: Checkpoint, model: Any) -> Any:
    """A vector of length 1 for each label, torch [labels, channels]."""
    torch = require("torch")
    labels, templates = checkpoint.head.labels, checkpoint.head.templates
    prompts = [template.replace("{}", label) for label in labels for template in templates]
    tokenizer = _tokenizer(checkpoint)
    max_tokens = model.config.text_config.max_position_embeddings
    _check(checkpoint, tokenizer, prompts, max_tokens, model.config.text_config.vocab_size)
    # SigLIP was trained with prompts padded to full length, and reads the last token in any case.
    padding = {"padding": "max_length", "max_length": max_tokens, "truncation": True}
    parts = []
    for first in range(0, len(prompts), CHUNK):
        tokens = tokenizer(
            prompts[first : first + CHUNK],
            return_tensors="pt",
            **(padding if checkpoint.family.sigmoid else {"padding": True}),
        )
        parts.append(unit(model.get_text_features(**tokens).pooler_output))
    return unit(torch.cat(parts).reshape(len(labels), len(templates), -1).mean(1))


def _tokenizer(checkpoint: Checkpoint) -> Any:
    transformers = require("transformers")
    try:
        return transformers.AutoTokenizer.from_pretrained(
            checkpoint.folder, trust_remote_code=False, local_files_only=True
        )
    except Exception as error:  # each tokenizer class raises other exceptions for damaged files
        if any(checkpoint.folder.glob("*.model")):
            require("sentencepiece")  # transformers does not report that it is missing
        raise CheckpointError(
            f"the tokenizer of {checkpoint.name} cannot be loaded ({reason(error)})",
            "save it with the model: tokenizer.save_pretrained(folder)",
        ) from error


def _check(
    checkpoint: Checkpoint, tokenizer: Any, prompts: Sequence[str], max_tokens: int, vocabulary: int
) -> None:
    """Raise `CheckpointError` for a prompt that is too long or has tokens unknown to the model."""
    for prompt, ids in zip(prompts, tokenizer(prompts)["input_ids"], strict=True):
        if len(ids) > max_tokens:
            raise CheckpointError(
                f"{prompt!r} has {len(ids)} tokens, {checkpoint.name} takes {max_tokens}",
                "shorten that label, or the template",
            )
        if max(ids) >= vocabulary:
            raise CheckpointError(
                f"the tokenizer of {checkpoint.name} gives token {max(ids)}, its text model has "
                f"{vocabulary} words",
                "save the tokenizer that the model was trained with in its folder",
            )
