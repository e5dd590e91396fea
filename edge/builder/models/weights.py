"""Checks that the weights of a checkpoint match its config.json; errors name tensor and shapes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from edge.builder.models.checkpoint import Checkpoint
from edge.builder.models.families import FAMILIES, TIMM
from edge.engine.heads import FEATURES
from edge.errors import CheckpointError, reason
from edge.files.reading import ACCESS

__all__ = ["check_missing", "check_shapes", "not_loaded", "shortened"]

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


def check_missing(checkpoint: Checkpoint, names: Iterable[str], unused: Iterable[str]) -> None:
    """Raise `CheckpointError` when a model lacks weights that its task needs.

    names: tensors that are in no weight file. unused: tensors of the files that it does not have.
    """
    # Pictures are masked in pretraining only, so the mask token is not needed.
    missing = needed = [
        name for name in sorted(names) if not name.endswith("embeddings.mask_token")
    ]
    if checkpoint.head.task == FEATURES:
        # Models trained for classification or masked-image modelling have no pooler.
        needed = [name for name in missing if not name.startswith("pooler.")]
    if needed and (wrapper := _wrapper(needed, set(unused))):
        raise CheckpointError(
            f"{checkpoint.name} has weights whose names begin with {wrapper!r}: not the model was "
            "saved, but an object around it",
            f"save the model itself: model.{wrapper}save_pretrained(folder)",
        )
    if missing != needed and checkpoint.head.pooling == "own":
        raise CheckpointError(
            f"{checkpoint.name} was saved without the weights of its pooler",
            "add --pooling cls (or mean)",
        )
    if needed:
        raise CheckpointError(
            f"{checkpoint.name} has no weights for {shortened(needed)}",
            "fine-tune it for your classes first: scripts/train_demo.py --images DIR"
            if all("classifier" in name for name in needed)
            else "use config.json and weights of the same model, or download it again",
        )


def _wrapper(missing: Sequence[str], unused: set[str]) -> str:
    """What all missing names begin with in the files, such as `module.`; "" if they are not there.

    torch's DataParallel and compile, among others, hold the model in an attribute.
    """
    found = (name.removesuffix(missing[0]) for name in unused if name.endswith(f".{missing[0]}"))
    return next(
        (start for start in found if unused.issuperset(start + name for name in missing)), ""
    )


def not_loaded(checkpoint: Checkpoint, error: Exception) -> CheckpointError:
    """The error for whatever another library raises while it loads a checkpoint."""
    hint = "correct the values in its config.json, or download it again"
    if isinstance(error, ImportError):
        hint = "install the package that it needs, or use another checkpoint"
    elif isinstance(error, OSError) and error.errno is not None:
        hint = ACCESS
    return CheckpointError(f"{checkpoint.name} cannot be loaded ({reason(error)})", hint)


def shortened(names: Sequence[str]) -> str:
    """The first three of many names and the number of the others: "a, b, c and 4 more"."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
