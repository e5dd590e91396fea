"""Zero-shot labels: prompts of them become a constant matrix, so that no device runs a text model.

A label is put into each template, the text model makes a vector of each prompt, and their mean is
the label's, as CLIP's authors do it (openai/CLIP, notebooks/Prompt_Engineering_for_ImageNet).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge.builder.models.checkpoint import Checkpoint
from edge.builder.models.features import unit
from edge.errors import CheckpointError, reason, require

__all__ = ["read_labels", "similarity"]

CHUNK = 256  # prompts that the text model runs at once


# How the names of files end that somebody may take for those of labels.
_FILES = (".txt", ".csv", ".tsv", ".json", ".jsonl", ".toml", ".yaml", ".yml", ".md", ".xlsx")


def read_labels(text: str) -> list[str]:
    """`a cat,a dog`, or the lines of a file whose name ends in .txt.

    Raises `CheckpointError` for a file that cannot be read, and for what is named like one.
    """
    if not text.lower().endswith(".txt"):
        return _words(text)
    try:
        lines = Path(text).read_text("utf-8-sig").splitlines()  # an editor's mark is no letter
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"the labels in {text} cannot be read ({error})", 'write them: --labels "a cat,a dog"'
        ) from error
    return [line.strip() for line in lines if line.strip()]


def _words(text: str) -> list[str]:
    labels = [label.strip() for label in text.split(",")]
    hint = 'give words, --labels "a cat,a dog", or a .txt file with one label on each line'
    if odd := [label for label in labels if label.lower().endswith(_FILES)]:
        raise CheckpointError(f"{odd[0]} is named like a file, and is no label", hint)
    if labels == [text] and os.path.exists(text):  # noqa: PTH110 - Path's raises for long names
        raise CheckpointError(
            f"{text} is a file or a folder here, and no .txt file of labels",
            f'{hint}; if it is a label: --labels "{text},"',
        )
    return labels[:-1] if len(labels) > 1 and not labels[-1] else labels  # `a cat,`


def similarity(checkpoint: Checkpoint, model: Any) -> Any:
    """A torch module: image embeddings [N, channels] -> logits [N, labels], text side built in.

    model: a CLIP or SigLIP as transformers has it; afterwards it has no text model. Raises
    `CheckpointError` for a tokenizer that does not fit it, and for a prompt that is too long.
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
    """A vector of length 1 per label, torch [labels, channels]."""
    torch = require("torch")
    labels, templates = checkpoint.head.labels, checkpoint.head.templates
    prompts = [template.replace("{}", label) for label in labels for template in templates]
    tokenizer = _tokenizer(checkpoint)
    room = model.config.text_config.max_position_embeddings
    _check(checkpoint, tokenizer, prompts, room, model.config.text_config.vocab_size)
    # A SigLIP was trained on prompts of full length, and reads the last token, padding or not.
    padding = {"padding": "max_length", "max_length": room, "truncation": True}
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
    except Exception as error:  # its files can be wrong in as many ways as there are tokenizers
        if any(checkpoint.folder.glob("*.model")):
            require("sentencepiece")  # transformers only says that it knows no such tokenizer
        raise CheckpointError(
            f"the tokenizer of {checkpoint.name} cannot be loaded ({reason(error)})",
            "save it beside the model: tokenizer.save_pretrained(folder)",
        ) from error


def _check(
    checkpoint: Checkpoint, tokenizer: Any, prompts: Sequence[str], room: int, vocabulary: int
) -> None:
    """Raises `CheckpointError` for a prompt that the text model has no room or no words for."""
    for prompt, ids in zip(prompts, tokenizer(prompts)["input_ids"], strict=True):
        if len(ids) > room:
            raise CheckpointError(
                f"{prompt!r} has {len(ids)} tokens, {checkpoint.name} takes {room}",
                "shorten that label, or the template",
            )
        if max(ids) >= vocabulary:
            raise CheckpointError(
                f"the tokenizer of {checkpoint.name} gives token {max(ids)}, its text model has "
                f"{vocabulary} words",
                "save the tokenizer that the model was trained with beside it",
            )
