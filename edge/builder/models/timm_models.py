"""Torch modules of timm checkpoints, with the outputs of transformers' TimmWrapper.

config.json of such a checkpoint names an architecture of timm, and its weights have timm's names.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MethodType
from typing import Any

from edge.builder.models import folders
from edge.builder.models.checkpoint import Checkpoint
from edge.builder.models.features import unit
from edge.builder.models.resolution import check_side
from edge.builder.models.timm_library import library
from edge.builder.models.weights import check_missing, check_shapes, not_loaded
from edge.errors import CheckpointError, require
from edge.preprocess.timm_config import from_timm

__all__ = ["for_export", "load", "output"]

# Arguments of create_model that a checkpoint must not set, such as the location of other weights,
# which may be pickles; and arguments that are set here anyway.
_NOT_ARGUMENTS = ("pretrained", "checkpoint", "cache_dir", "features_only", "hf_hub")
_KNOWN = ("num_classes", "in_chans")


def load(checkpoint: Checkpoint) -> Any:
    """The timm model of a checkpoint; every weight comes from its files.

    Raises `CheckpointError` for an unknown architecture, and for weights that do not match.
    """
    timm, torch, name = library(), require("torch"), checkpoint.name
    architecture, arguments = _settings(name, checkpoint.config)
    if not timm.is_model(architecture):
        raise CheckpointError(
            f"{name} is a {architecture}, which timm {timm.__version__} does not know",
            "correct architecture in its config.json",
        )
    try:
        classes = len(checkpoint.head.labels)
        model = timm.create_model(architecture, num_classes=classes, **arguments)
        if not any(isinstance(part, torch.nn.LayerNorm) for part in model.modules()):
            raise CheckpointError(
                f"{name} is a {architecture}, which vit-edge does not support",
                "choose a transformer, such as timm/vit_base_patch16_224.augreg_in21k_ft_in1k",
            )
        _fill(checkpoint, model)
        trained = from_timm(checkpoint.config["pretrained_cfg"])
        _check_size(name, model, (trained.height, trained.width))
        if checkpoint.image_size is not None:
            _resize(name, model, checkpoint.image_size)
    except CheckpointError:
        raise
    except Exception as error:  # invalid values in a config can raise anything in timm
        raise not_loaded(checkpoint, error) from error
    return model


def _settings(name: str, config: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The architecture's name in timm, and the arguments for create_model."""
    architecture, arguments = config.get("architecture"), config.get("model_args") or {}
    if not isinstance(architecture, str) or not isinstance(arguments, dict):
        raise CheckpointError(
            f"{name}: config.json names no timm architecture", "download the checkpoint again"
        )
    for key in arguments:
        if key.startswith(_NOT_ARGUMENTS):
            raise CheckpointError(
                f"{name}: model_args in config.json has {key}, which refers to other weights",
                "remove it",
            )
    return architecture, {key: arguments[key] for key in arguments if key not in _KNOWN}


def _fill(checkpoint: Checkpoint, model: Any) -> None:
    """Load the weights into the model; transformers may have added a prefix to their names."""
    safetensors = require("safetensors.torch")
    tensors: dict[str, Any] = {}
    for path in folders.weights(checkpoint.folder):
        tensors |= safetensors.load_file(path)
    saved = {key.removeprefix("timm_model."): value.float() for key, value in tensors.items()}
    built = {key: value.shape for key, value in model.state_dict().items() if key in saved}
    wrong = {
        key: (saved[key].shape, shape) for key, shape in built.items() if saved[key].shape != shape
    }
    check_shapes(checkpoint, wrong)
    keys = model.load_state_dict(saved, strict=False)
    check_missing(checkpoint, keys.missing_keys, keys.unexpected_keys)


def _check_size(name: str, model: Any, size: tuple[int, int]) -> None:
    """Check that pretrained_cfg prepares images of the model's input size (height, width)."""
    taken = getattr(getattr(model, "patch_embed", None), "img_size", None)
    if taken is not None and tuple(taken) != size and model.patch_embed.strict_img_size:
        raise CheckpointError(
            f"{name} prepares images of {size[1]}x{size[0]} and takes {taken[1]}x{taken[0]}",
            'correct input_size in pretrained_cfg, or add "img_size" to model_args, in config.json',
        )


def _resize(name: str, model: Any, side: int) -> None:
    """Adapt the model to images of `side` x `side`; timm resamples its position embeddings."""
    embed: Any = getattr(model, "patch_embed", None)
    if hasattr(embed, "feat_ratio"):
        check_side(name, side, embed.feat_ratio())
    if hasattr(model, "set_input_size"):
        model.set_input_size(img_size=(side, side))
    elif getattr(embed, "strict_img_size", False):
        raise CheckpointError(
            f"timm cannot build {name} for images of another size", "leave out --image-size"
        )


def output(checkpoint: Checkpoint, model: Any) -> Any:
    """A function from images, float32 [N, 3, H, W], to logits or one vector per image.

    Raises `CheckpointError` for a pooling that the model does not have.
    """
    head = checkpoint.head
    if head.labels:
        return model
    prefix = getattr(model, "num_prefix_tokens", None)
    if head.pooling != "own" and prefix is None:
        raise CheckpointError(
            f"{checkpoint.name} has no tokens for {head.pooling} pooling", "leave out --pooling"
        )
    if head.pooling == "cls" and not _has_class_token(model):
        raise CheckpointError(
            f"{checkpoint.name} is a {checkpoint.config['architecture']}, which has no class token",
            "choose --pooling mean, or leave it out",
        )

    def vector(images: Any) -> Any:
        tokens = model.forward_features(images)
        found = {
            "own": lambda: model.forward_head(tokens),
            "cls": lambda: tokens[:, 0],
            "mean": lambda: tokens[:, prefix:].mean(1),
        }[head.pooling or "own"]()
        return unit(found) if head.normalised else found

    return vector


def _has_class_token(model: Any) -> bool:
    """Whether the model's first token is a class token; otherwise it may be a register."""
    own = getattr(model, "cls_token", None) is not None
    return bool(getattr(model, "has_class_token", own))


def for_export(model: Any) -> None:
    """Change a timm model to the form that TensorRT fuses."""
    timm, torch = library(), require("torch")
    for module in model.modules():
        if getattr(module, "fused_attn", False):
            module.fused_attn = False  # explicit products, with a scaled query
        if type(module) is timm.layers.Attention and module.gate is None:
            module.forward = MethodType(_attend, module)
        if isinstance(module, (timm.layers.StdConv2d, timm.layers.StdConv2dSame)):
            with torch.no_grad():
                _standardise(module)


def _attend(module: Any, tokens: Any, attn_mask: Any = None, is_causal: bool = False) -> Any:
    """timm's attention on tokens [batch, tokens, channels], with q, k, v split before the heads.

    This order shows in the graph which columns of the common weight are the values, so that
    outliers of the attention's output can migrate into them.
    """
    batch, count, _ = tokens.shape
    parts = module.qkv(tokens).split([module.attn_dim] * 3, dim=-1)
    shape = (batch, count, module.num_heads, module.head_dim)
    query, key, value = (part.reshape(shape).transpose(1, 2) for part in parts)
    query, key = module.q_norm(query) * module.scale, module.k_norm(key)
    mixed = (query @ key.transpose(2, 3)).softmax(-1) @ value
    return module.proj(module.norm(mixed.transpose(1, 2).reshape(batch, count, module.attn_dim)))


def _standardise(module: Any) -> None:
    """Store the standardised weight of a convolution, instead of computing it in every run.

    Over all inputs of an output channel its mean is 0 and its variance 1.
    """
    weight = module.weight
    rows = weight.double().flatten(1)
    variance, mean = (each[:, None] for each in (rows.var(1, correction=0), rows.mean(1)))
    weight.copy_(((rows - mean) / (variance + module.eps).sqrt()).reshape(weight.shape))
    plain = library().layers.Conv2dSame if getattr(module, "same_pad", False) else None
    module.forward = MethodType((plain or require("torch").nn.Conv2d).forward, module)
