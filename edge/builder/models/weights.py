"""Checks that the weights of a checkpoint match its config.json; errors name tensor and shapes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from edge.builder.models.checkpoint import Checkpoint
from edge.builder.models.families import FAMILIES, TIMM
from edge.engine.heads import FEATURES
from edge.errors import CheckpointError

__all__ = ["check_missing", "check_shapes", "shortened"]

Shape = Sequence[int]


def check_shapes(checkpoint: Checkpoint, wrong: Mapping[str, tuple[Shape, Shape]]) -> None:
    """Raise `CheckpointError` when a tensor's shape does not match config.json.

    wrong: tensor -> the shape in the file, and the shape that config.json requires.
    """
    for tensor, (saved, built) in sorted(wrong.items(), reverse=True):  # a weight before its bias
        if built[0] == len(checkpoint.head.labels) and saved[1:] == built[1:]:
            timm = checkpoint.family is FAMILIES[TIMM]
            keys = "num_classes and label_names" if timm else "id2label"
            raise CheckpointError(
                f"{checkpoint.name} has {saved[0]} outputs ({tensor}), and its config.json "
                f"{built[0]} labels",
                f"correct {keys} in config.json: one label for each of the {saved[0]} outputs",
            )
    for tensor, (saved, built) in sorted(wrong.items()):
        raise CheckpointError(
            f"{checkpoint.name} has {tensor} of {list(saved)} among its weights, but its "
            f"config.json requires {list(built)}",
            "use config.json and weights of the same model",
        )


def check_missing(checkpoint: Checkpoint, names: Iterable[str]) -> None:
    """Raise `CheckpointError` when a transformers model lacks weights that its task needs.

    names: tensors that are in no weight file, which transformers initialised itself.
    """
    # Pictures are masked in pretraining only, so the mask token is not needed.
    missing = [name for name in sorted(names) if not name.endswith("embeddings.mask_token")]
    if checkpoint.head.task == FEATURES:
        # Models trained for classification or masked-image modelling have no pooler.
        pooler = [name for name in missing if name.startswith("pooler.")]
        if pooler and checkpoint.head.pooling == "own":
            raise CheckpointError(
                f"{checkpoint.name} was saved without the weights of its pooler",
                "add --pooling cls (or mean)",
            )
        missing = [name for name in missing if name not in pooler]
    if missing:
        raise CheckpointError(
            f"{checkpoint.name} has no weights for {shortened(missing)}",
            "fine-tune it for your classes first: scripts/train_demo.py --images DIR"
            if all("classifier" in name for name in missing)
            else "download the checkpoint again",
        )


def shortened(names: Sequence[str]) -> str:
    """The first three of many names and the number of the others: "a, b, c and 4 more"."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
