"""Tasks: what is requested of a checkpoint, and the head of its graph for that."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from edge.builder.models.families import FAMILIES, TIMM, Family
from edge.builder.models.labels import labels, timm_labels
from edge.engine.heads import FEATURES, ZERO_SHOT, Head, Pooling, Task
from edge.errors import CheckpointError

__all__ = ["Request", "head_of"]

TEMPLATE = "This is a photo of {}."  # the default, as in transformers' pipeline


@dataclass(frozen=True)
class Request:
    """The settings that a checkpoint leaves open."""

    task: Task | None = None  # None: the default of its architecture
    pooling: Pooling | None = None  # of features; None: the model's own
    normalise: bool = False  # features to length 1
    labels: tuple[str, ...] = ()  # of zero-shot classification
    templates: tuple[str, ...] = ()  # prompts with {} for the label; empty: `TEMPLATE`
    image_size: int | None = None  # pixels per side; None: the size that it was trained with


def head_of(
    name: str, config: dict[str, Any], family: Family, task: Task, request: Request
) -> Head:
    """The head of a checkpoint's graph for a task.

    Raises `CheckpointError` for settings that do not apply to the task.
    """
    if task != FEATURES and (request.pooling or request.normalise):
        raise CheckpointError(
            f"--pooling and --normalise are for {FEATURES}, but {name} is built for {task}",
            f"leave them out, or add: --task {FEATURES}",
        )
    if task != ZERO_SHOT and (request.labels or request.templates):
        raise CheckpointError(
            f"--labels and --template are for {ZERO_SHOT}, but {name} is built for {task}",
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
        _check_characters(name, (*request.labels, *templates))
        return Head(task, request.labels, activation, templates=templates)
    if config.get("problem_type") == "regression":
        raise CheckpointError(
            f"{name} was trained for regression: its outputs are not probabilities of classes",
            f"build its features instead: --task {FEATURES} --pooling mean",
        )
    names = (timm_labels if family is FAMILIES[TIMM] else labels)(name, config)
    _check_characters(name, names)
    independent = config.get("problem_type") == "multi_label_classification" or len(names) == 1
    return Head(task, names, "sigmoid" if independent else "softmax")


def _check_texts(name: str, family: Family, request: Request) -> None:
    labels = request.labels
    hint = 'for example --labels "a cat,a dog", or a file with one per line: --labels labels.txt'
    if not labels:
        raise CheckpointError(f"{name} is a {family.name}, which needs labels", hint)
    if not all(label.strip() for label in labels):
        raise CheckpointError("one of the labels is empty", hint)
    if duplicates := sorted({label for label in labels if labels.count(label) > 1}):
        raise CheckpointError(f"the label {duplicates[0]!r} is given twice", "give each label once")
    if len(labels) == 1 and not family.sigmoid:
        raise CheckpointError(
            f"{name} is a {family.name}, which compares labels: a single label always has 100 %",
            f"add labels for what else an image may show, {hint}",
        )
    if invalid := [template for template in request.templates if template.count("{}") != 1]:
        raise CheckpointError(
            f"the template {invalid[0]!r} must contain {{}} once, for the label",
            'for example --template "a photo of a {}."',
        )


def _check_characters(name: str, texts: Iterable[str]) -> None:
    """Refuse halves of a surrogate pair, which JSON can name and no file in UTF-8 can hold."""
    for text in texts:
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            raise CheckpointError(f"{name}: the text {text!r} is not UTF-8", "write it in UTF-8")
