"""Do the weights of a checkpoint fit its config.json? What does not is named, with its numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from edge.builder.models.checkpoint import Checkpoint
from edge.builder.models.families import FAMILIES, TIMM
from edge.engine.heads import FEATURES
from edge.errors import CheckpointError

__all__ = ["check_missing", "check_shapes", "several"]

Shape = Sequence[int]


def check_shapes(checkpoint: Checkpoint, wrong: Mapping[str, tuple[Shape, Shape]]) -> None:
    """Raises `CheckpointError` when there are tensors whose shape is not that of config.json.

    wrong: tensor -> the shape that it was saved with, and the one that it must have.
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
            f"{checkpoint.name} has {tensor} of {list(saved)} among its weights, and by its "
            f"config.json it is of {list(built)}",
            "take config.json and weights of the same model",
        )


def check_missing(checkpoint: Checkpoint, names: Iterable[str]) -> None:
    """Raises `CheckpointError` when one of transformers' models has no weights for what it needs.

    names: its tensors that are in no file; transformers has made them up.
    """
    # A picture is masked in pretraining only.
    missing = [name for name in sorted(names) if not name.endswith("embeddings.mask_token")]
    if checkpoint.head.task == FEATURES:
        # What was trained for classes, or to see what is hidden, has no pooler.
        pooler = [name for name in missing if name.startswith("pooler.")]
        if pooler and checkpoint.head.pooling == "own":
            raise CheckpointError(
                f"{checkpoint.name} was saved without the weights of its pooler",
                "add --pooling cls (or mean)",
            )
        missing = [name for name in missing if name not in pooler]
    if missing:
        raise CheckpointError(
            f"{checkpoint.name} has no weights for {several(missing)}",
            "fine-tune it for your classes first: scripts/train_demo.py --images DIR"
            if all("classifier" in name for name in missing)
            else "download the checkpoint again",
        )


def several(names: Sequence[str]) -> str:
    """The first three of many names, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
