"""What is asked of a checkpoint, and what its graph will end in for that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from edge.builder.models import timm_library
from edge.builder.models.families import FAMILIES, TIMM, Family
from edge.engine.heads import FEATURES, ZERO_SHOT, Head, Pooling, Task
from edge.errors import CheckpointError

__all__ = ["Request", "head_of"]

TEMPLATE = "This is a photo of {}."  # where none is given, as in transformers' pipeline


@dataclass(frozen=True)
class Request:
    """What is wanted of a checkpoint, where it leaves a choice."""

    task: Task | None = None  # None: the usual one of its architecture
    pooling: Pooling | None = None  # of features; None: the model's own
    normalise: bool = False  # features to length 1
    labels: tuple[str, ...] = ()  # of zero-shot
    templates: tuple[str, ...] = ()  # that they are put into; none: `TEMPLATE`
    image_size: int | None = None  # pixels of a side; None: those that it was trained with


def head_of(
    name: str, config: dict[str, Any], family: Family, task: Task, request: Request
) -> Head:
    """What its graph will end in. Raises `CheckpointError` for what the task cannot have."""
    if task != FEATURES and (request.pooling or request.normalise):
        raise CheckpointError(
            f"--pooling and --normalise are for {FEATURES}, {name} is built for {task}",
            f"leave them out, or add: --task {FEATURES}",
        )
    if task != ZERO_SHOT and (request.labels or request.templates):
        raise CheckpointError(
            f"--labels and --template are for {ZERO_SHOT}, {name} is built for {task}",
            "leave them out, or build a CLIP or SigLIP",
        )
    if task == FEATURES:
        if request.pooling == "cls" and not family.special:
            raise CheckpointError(
                f"{name} is a {family.name}, which has no class token",
                "choose --pooling mean, or leave it out",
            )
        return Head(task, (), "none", request.pooling or "own", request.normalise)
    if task == ZERO_SHOT:
        _check_texts(name, family, request)
        activation: Literal["softmax", "sigmoid"] = "sigmoid" if family.sigmoid else "softmax"
        templates = request.templates or (TEMPLATE,)
        return Head(task, request.labels, activation, templates=templates)
    if config.get("problem_type") == "regression":
        raise CheckpointError(
            f"{name} was trained for regression: it gives numbers, no probabilities of classes",
            f"build what it sees instead: --task {FEATURES} --pooling mean",
        )
    labels = (timm_library.labels if family is FAMILIES[TIMM] else _labels)(name, config)
    several = config.get("problem_type") == "multi_label_classification" or len(labels) == 1
    return Head(task, labels, "sigmoid" if several else "softmax")


def _check_texts(name: str, family: Family, request: Request) -> None:
    labels = request.labels
    hint = 'such as --labels "a cat,a dog", or a file with one per line: --labels labels.txt'
    if not labels:
        raise CheckpointError(f"{name} is a {family.name}, which needs labels", hint)
    if not all(label.strip() for label in labels):
        raise CheckpointError("one of the labels is empty", hint)
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise CheckpointError(f"the label {twice[0]!r} is given twice", "give each label once")
    if len(labels) == 1 and not family.sigmoid:
        raise CheckpointError(
            f"{name} is a {family.name}, which compares labels, and one alone always has 100 %",
            f"add what else a picture may show, {hint}",
        )
    if odd := [template for template in request.templates if template.count("{}") != 1]:
        raise CheckpointError(
            f"the template {odd[0]!r} has not one {{}}, where the label goes",
            'such as --template "a photo of a {}."',
        )


def _labels(name: str, config: dict[str, Any]) -> tuple[str, ...]:
    names, count = config.get("id2label"), config.get("num_labels", 2)
    if not names:
        if type(count) is not int or count < 1:
            raise CheckpointError(
                f"{name}: num_labels in config.json is {count!r}", "write the number of classes"
            )
        # As transformers names them.
        names = {str(index): f"LABEL_{index}" for index in range(count)}
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
