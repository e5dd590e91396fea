"""The labels of a checkpoint's classes, found as in transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edge.builder.models.timm_library import library
from edge.errors import CheckpointError

__all__ = ["labels", "timm_labels"]


def labels(name: str, config: Mapping[str, Any]) -> tuple[str, ...]:
    """The labels of a transformers checkpoint: those of `id2label`, or else numbered ones.

    Raises `CheckpointError` when they are not numbered from 0.
    """
    return _of_ids(name, config) or _numbered(name, "num_labels", config.get("num_labels", 2))


def timm_labels(name: str, config: Mapping[str, Any]) -> tuple[str, ...]:
    """The labels of a timm checkpoint.

    They are `label_names`, or else ImageNet's, chosen by the number of classes, or else `id2label`,
    or else numbered ones. Raises `CheckpointError` when their number is not that of the classes.
    """
    count, names = config.get("num_classes"), config.get("label_names")
    numbered = _numbered(name, "num_classes", count)
    if names is None:
        data = library().data
        if subset := data.infer_imagenet_subset({"num_classes": count}):
            return tuple(data.ImageNetInfo(subset).label_descriptions())
        found = _of_ids(name, config) or numbered
        if len(found) != count:
            raise CheckpointError(
                f"{name}: config.json has {len(found)} labels in id2label and {count} num_classes",
                "correct them: one label for each class",
            )
        return found
    if not isinstance(names, list) or len(names) != count:
        raise CheckpointError(
            f"{name}: label_names in config.json is not a list of {count} names",
            'write a list such as ["cat", "dog"] with num_classes names',
        )
    return tuple(str(each) for each in names)


def _of_ids(name: str, config: Mapping[str, Any]) -> tuple[str, ...]:
    """The labels of `id2label`; () without it."""
    names = config.get("id2label") or {}
    if not isinstance(names, dict):
        raise CheckpointError(
            f"{name}: id2label in config.json is {names!r:.40}, not an object",
            'write {"0": "cat", "1": "dog"}',
        )
    try:
        return tuple(str(names[str(index)]) for index in range(len(names)))
    except KeyError as error:
        raise CheckpointError(
            f"{name}: id2label in config.json has no class {error}", "number classes from 0"
        ) from error


def _numbered(name: str, key: str, count: Any) -> tuple[str, ...]:
    """The default labels of transformers."""
    if type(count) is not int or count < 1:
        raise CheckpointError(
            f"{name}: {key} in config.json is {count!r}", "write the number of classes"
        )
    return tuple(f"LABEL_{index}" for index in range(count))
