"""Reference outputs for the table of models: transformers', and timm's for timm models.

edge's own networks are not used.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge.builder.models import timm_library
from edge.engine.heads import CLASSIFICATION, FEATURES, Head
from edge.errors import require

__all__ = ["outputs"]

# Architectures for which AutoModel is wrong: it expects a text model, or has no projection.
_BACKBONES = {
    "CLIPVisionModelWithProjection": "CLIPVisionModelWithProjection",
    "CLIPForImageClassification": "CLIPVisionModel",
    "SiglipForImageClassification": "SiglipVisionModel",
}

Tensor = npt.NDArray[np.float32]


def outputs(folder: Path, architecture: str, head: Head, images: Tensor) -> Tensor:
    """Logits, or embeddings with the head's pooling (own or cls), float32 [N, outputs].

    images: preprocessed images, float32 [N, 3, H, W].
    """
    torch, transformers = require("torch"), require("transformers")
    batch = torch.from_numpy(images)
    with torch.inference_mode():
        if architecture.startswith("TimmWrapper"):
            found = _timm(folder, head, batch)
        elif head.task == CLASSIFICATION:
            auto = transformers.AutoModelForImageClassification
            found = auto.from_pretrained(folder).eval()(batch).logits
        elif head.task == FEATURES:
            found = _embeddings(folder, architecture, head, batch)
        else:
            found = _zero_shot(folder, head, batch)
    result: Tensor = found.numpy()
    return result


def _embeddings(folder: Path, architecture: str, head: Head, batch: Any) -> Any:
    transformers = require("transformers")
    if architecture == "ViTMAEForPreTraining":  # no masked patches, in their original order
        config = transformers.ViTMAEConfig.from_pretrained(folder, mask_ratio=0.0)
        model = transformers.ViTMAEModel.from_pretrained(folder, config=config).eval()
        patches = (config.image_size // config.patch_size) ** 2
        order = require("torch").arange(float(patches)).expand(len(batch), -1)
        output = model(batch, noise=order)
    else:
        kind = getattr(transformers, _BACKBONES.get(architecture, "AutoModel"))
        model = kind.from_pretrained(folder).eval()
        output = getattr(model, "get_image_features", model)(batch)
    if head.pooling == "cls":
        return output.last_hidden_state[:, 0]
    if head.pooling == "mean":  # of a model without a class token
        return output.last_hidden_state.mean(1)
    return output.get("image_embeds", output.get("pooler_output"))


def _zero_shot(folder: Path, head: Head, batch: Any) -> Any:
    transformers = require("transformers")
    prompts = [head.templates[0].replace("{}", label) for label in head.labels]
    padding = {"padding": "max_length", "max_length": 64} if head.activation == "sigmoid" else {}
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer(prompts, return_tensors="pt", **{"padding": True, **padding})
    model = transformers.AutoModel.from_pretrained(folder).eval()
    return model(pixel_values=batch, **tokens).logits_per_image


def _timm(folder: Path, head: Head, batch: Any) -> Any:
    model = timm_library.library().create_model(f"local-dir:{folder}", pretrained=True).eval()
    if head.task == CLASSIFICATION:
        return model(batch)
    tokens = model.forward_features(batch)
    return tokens[:, 0] if head.pooling == "cls" else model.forward_head(tokens, pre_logits=True)
