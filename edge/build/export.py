"""Checkpoint -> graph: a Hugging Face ViT as ONNX, compared with the checkpoint on real images."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto

from edge.build import graph
from edge.build.checkpoint import Checkpoint
from edge.errors import CheckpointError, GraphError, require

__all__ = ["export"]

OPSET = 20  # the first with a single Gelu node, and the last that TensorRT 10.3 documents
# The graph may differ from the checkpoint by this, times the largest logit (at least 1).
TOLERANCE = 1e-4
ATTENTION = "edge_vit"
MAX_BATCH = 4096  # of the graph's dynamic batch


def export(checkpoint: Checkpoint, pictures: npt.NDArray[np.float32]) -> tuple[ModelProto, float]:
    """Export a checkpoint with a dynamic batch.

    pictures: prepared images, float32 [N, 3, H, W], on which graph and checkpoint must agree.
    Returns the graph and the largest absolute difference of a logit. Raises `CheckpointError` for
    weights that do not fit the config, `GraphError` when the graph breaks a rule or disagrees.
    """
    torch = require("torch")
    with _quiet():
        model = _load(checkpoint)
        with torch.inference_mode():
            reference = model(pixel_values=torch.from_numpy(pictures)).logits.numpy()
        if not np.isfinite(reference).all():
            raise CheckpointError(
                f"{checkpoint.name} itself gives NaN or infinity on real images",
                "train it again: its weights are broken",
            )
        if reference.shape[1] != len(checkpoint.labels):
            raise CheckpointError(
                f"{checkpoint.name} has {reference.shape[1]} outputs and "
                f"{len(checkpoint.labels)} labels",
                "correct id2label in its config.json",
            )
        model.set_attn_implementation(ATTENTION)
        proto = _trace(model, pictures)
    del model
    graph.set_metadata(
        proto,
        {
            "checkpoint": checkpoint.name,
            "labels": checkpoint.labels,
            "preprocess": checkpoint.preprocess.to_dict(),
        },
    )
    graph.check_operators(proto)
    difference = compare(proto, pictures, reference, "the exported graph", "the checkpoint")
    return proto, difference


def compare(
    model: ModelProto,
    pictures: npt.NDArray[np.float32],
    reference: npt.NDArray[np.float32],
    this: str,
    that: str,
) -> float:
    """The largest absolute difference of a logit, in one batch and one by one.

    Raises `GraphError` when it is above `TOLERANCE` times the largest logit (at least 1).
    """
    session = graph.session(model)
    together = session.logits(pictures)
    alone = np.concatenate([session.logits(picture[None]) for picture in pictures])
    difference = float(max(abs(together - reference).max(), abs(alone - reference).max()))
    bound = TOLERANCE * max(1.0, float(abs(reference).max()))
    if not difference <= bound:  # NaN fails too
        raise GraphError(
            f"{this} differs from {that} by {difference:.3g} on real images, more than {bound:.3g}",
            "use the transformers and torch of constraints.txt: make setup",
        )
    return difference


def _load(checkpoint: Checkpoint) -> Any:
    """The checkpoint as a torch module, every weight of it from the file."""
    transformers, torch = require("transformers"), require("torch")
    try:
        model, info = transformers.AutoModelForImageClassification.from_pretrained(
            checkpoint.folder,
            attn_implementation="eager",
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
    except Exception as error:  # a config of odd values can raise anything in transformers
        reason = str(error).strip().partition("\n")[0][:200] or type(error).__name__
        raise CheckpointError(
            f"{checkpoint.name} cannot be loaded ({reason})", "download the checkpoint again"
        ) from error
    missing = sorted(info["missing_keys"])
    if missing:
        raise CheckpointError(
            f"{checkpoint.name} has no weights for {', '.join(missing[:3])}"
            + (f" and {len(missing) - 3} more" if len(missing) > 3 else ""),
            "fine-tune it for your classes first: scripts/train_demo.py --images DIR",
        )
    return model.eval()


def _attention(
    module: Any, query: Any, key: Any, value: Any, mask: Any, scaling: float, **_: Any
) -> tuple[Any, None]:
    """Eager attention with the scale on the query, [batch, heads, tokens, head size] each.

    Scaling the query before the product, not the product after it, keeps FP16 scores small, and is
    the one form that every TensorRT fuses rightly (TensorRT issues 4328 and 4333). An image has no
    padding, so there is no mask, whose Where would break the fusion.
    """
    scores = (query * scaling) @ key.transpose(2, 3)
    return (scores.softmax(-1) @ value).transpose(1, 2).contiguous(), None


def _trace(model: Any, pictures: npt.NDArray[np.float32]) -> ModelProto:
    torch = require("torch")

    class Logits(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, pixel_values: Any) -> Any:
            return self.model(pixel_values=pixel_values).logits

    example = torch.from_numpy(np.repeat(pictures[:1], 2, axis=0))
    batch = torch.export.Dim("batch", min=1, max=MAX_BATCH)
    program = torch.onnx.export(
        Logits().eval(),
        (example,),
        dynamo=True,
        opset_version=OPSET,
        input_names=["pixel_values"],
        output_names=["logits"],
        dynamic_shapes={"pixel_values": {0: batch}},
        verbose=False,
    )
    proto: ModelProto = program.model_proto
    # torch notes the stack trace and source file of every node: several MB, and private paths.
    del proto.metadata_props[:]
    for node in proto.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    del proto.graph.value_info[:]
    return proto


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch's and transformers' chatter off the terminal; our errors say what matters."""
    transformers = require("transformers")
    transformers.AttentionInterface.register(ATTENTION, _attention)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
