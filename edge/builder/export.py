"""Export of a checkpoint to an ONNX graph, checked against the checkpoint on real images."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto

from edge.builder import graph
from edge.builder.models import network
from edge.builder.models.checkpoint import Checkpoint
from edge.engine.choices import MAX_BATCH
from edge.engine.heads import FEATURES
from edge.errors import CheckpointError, GraphError, reason, require

__all__ = ["export"]

OPSET = 20  # the first with a single Gelu node, and the last that TensorRT 10.3 documents
# Permitted difference between graph and checkpoint, times the largest output (at least 1).
TOLERANCE = 1e-4


def export(checkpoint: Checkpoint, images: npt.NDArray[np.float32]) -> tuple[ModelProto, float]:
    """Export a checkpoint with a dynamic batch.

    images: prepared images, float32 [N, 3, H, W], on which graph and checkpoint must agree.
    Returns the graph and the largest absolute difference of an output. Raises `CheckpointError` for
    weights that do not match the config, `GraphError` when the graph breaks a rule or disagrees.
    """
    torch = require("torch")
    head = checkpoint.head
    with network.quiet():
        model = network.load(checkpoint)
        reference = _reference(checkpoint, model, images)
        if not np.isfinite(reference).all():
            raise CheckpointError(
                f"{checkpoint.name} itself outputs NaN or infinity on real images",
                "train it again: its weights are damaged",
            )
        if head.labels and reference.shape[1] != len(head.labels):
            raise CheckpointError(
                f"{checkpoint.name} has {reference.shape[1]} outputs and {len(head.labels)} labels",
                "correct id2label in its config.json",
            )
        network.for_export(model, torch.from_numpy(images[:1]))
        proto = _trace(model, images, head.output)
    del model
    graph.set_metadata(
        proto,
        {
            "checkpoint": checkpoint.name,
            "head": asdict(head),
            "preprocess": checkpoint.preprocess.to_dict(),
        },
    )
    graph.check_operators(proto, checkpoint.fused)
    difference = compare(proto, images, reference, "the exported graph", "the checkpoint")
    return proto, difference


def _reference(
    checkpoint: Checkpoint, model: Any, images: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """The outputs of the checkpoint in torch, float32 [N, outputs]. Raises `CheckpointError`."""
    torch, (height, width) = require("torch"), images.shape[2:]
    try:
        with torch.inference_mode():
            outputs: npt.NDArray[np.float32] = model(torch.from_numpy(images)).numpy()
    except CheckpointError:
        raise
    except Exception as error:  # for example windows larger than the last map of a Swin
        raise CheckpointError(
            f"{checkpoint.name} cannot process images of {width}x{height} ({reason(error)})",
            "choose another --image-size"
            if checkpoint.image_size
            else "correct its config.json, or download it again",
        ) from error
    if outputs.ndim == 2:
        return outputs
    # A timm model whose global_pool is empty outputs tokens, or a map, without pooling them.
    if outputs.ndim > 3:
        hint = 'write "global_pool": "avg" into model_args in its config.json'
    elif checkpoint.head.task == FEATURES:
        hint = "choose --pooling cls or mean"
    else:
        hint = f"add --task {FEATURES} --pooling cls (or mean)"
    shape = list(outputs.shape[1:])
    raise CheckpointError(f"{checkpoint.name} outputs {shape} numbers per image, not one row", hint)


def compare(
    model: ModelProto,
    images: npt.NDArray[np.float32],
    reference: npt.NDArray[np.float32],
    this: str,
    that: str,
) -> float:
    """The largest absolute difference between a graph's outputs and `reference` [N, outputs].

    The images run both as one batch and one by one. this, that: names of the two for the error.
    Raises `GraphError` when it is above `TOLERANCE` times the largest output (at least 1).
    """
    session = graph.session(model)
    together = session.logits(images)
    alone = np.concatenate([session.logits(image[None]) for image in images])
    difference = float(max(abs(together - reference).max(), abs(alone - reference).max()))
    bound = TOLERANCE * max(1.0, float(abs(reference).max()))
    if not difference <= bound:  # written so that NaN fails, too
        raise GraphError(
            f"{this} differs from {that} by {difference:.3g} on real images, more than {bound:.3g}",
            "use the transformers and torch of constraints.txt: make setup",
        )
    return difference


def _trace(model: Any, images: npt.NDArray[np.float32], output: str) -> ModelProto:
    """Export a torch module to ONNX with a dynamic batch and an output named `output`."""
    torch = require("torch")
    outside = f"{output}_of_the_graph"  # a tensor inside the model may have the output's name
    example = torch.from_numpy(np.repeat(images[:1], 2, axis=0))
    batch = torch.export.Dim("batch", min=1, max=MAX_BATCH)
    program = torch.onnx.export(
        model,
        (example,),
        dynamo=True,
        opset_version=OPSET,
        input_names=["pixel_values"],
        output_names=[outside],
        dynamic_shapes={"pixel_values": {0: batch}},
        verbose=False,
    )
    proto: ModelProto = program.model_proto
    # torch stores the stack trace and source file of every node: several MB, and private paths.
    del proto.metadata_props[:]
    names = {output: f"{output}_inside", outside: output}
    for value in (*proto.graph.output, *proto.graph.initializer):
        value.name = names.get(value.name, value.name)
    for node in proto.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        node.doc_string = ""
        del node.metadata_props[:]
    del proto.graph.value_info[:]
    return proto
