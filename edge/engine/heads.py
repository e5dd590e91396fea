"""`Head`: what an engine is for, and what the numbers that it gives for a picture mean.

The tasks and their names are those of Hugging Face's pipelines. A zero-shot engine holds its text
side as a constant matrix, so that for a device it is a classifier like any other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

__all__ = [
    "CLASSIFICATION",
    "CROSSING",
    "FEATURES",
    "POOLINGS",
    "TASKS",
    "ZERO_SHOT",
    "Head",
    "Pooling",
    "Task",
    "labels_agree",
]

Task: TypeAlias = Literal[
    "image-classification", "image-feature-extraction", "zero-shot-image-classification"
]
Pooling: TypeAlias = Literal["own", "cls", "mean"]

TASKS: tuple[Task, ...] = get_args(Task)
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)
CLASSIFICATION, FEATURES, ZERO_SHOT = TASKS

# Of labels that each have a probability of their own, which is a yes from a half on. Rounding moves
# a logit by some tenths, and at a half 0.4 of a logit is a tenth of probability: a label that moves
# by no more across it is one that FP32 itself is unsure of. Far below the half it is the ratio that
# tells labels apart: TIED is as much of a logit there.
CROSSING = 0.1
TIED = 1.5

Tensor = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Head:
    """What a graph ends in.

    labels      class id -> name; none for features
    activation  what turns logits into probabilities; of features there are none
    pooling     of features: how the tokens become one vector. own: as the checkpoint's model does
                (`pooler_output`), cls: the first token, mean: of all tokens of patches
    normalised  features have length 1
    templates   of zero-shot: the prompts that a label was put into, averaged
    """

    task: Task = "image-classification"
    labels: tuple[str, ...] = ()
    activation: Literal["softmax", "sigmoid", "none"] = "softmax"
    pooling: Pooling | None = None
    normalised: bool = False
    templates: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises ValueError for what no build makes."""
        features = self.task == FEATURES
        if bool(self.labels) is features:
            raise ValueError(f"{len(self.labels)} labels for {self.task}")
        if (self.activation == "none") is not features or (self.pooling is None) is features:
            raise ValueError(f"{self.activation}, pooling {self.pooling} for {self.task}")
        if bool(self.templates) is not (self.task == ZERO_SHOT):
            raise ValueError(f"{len(self.templates)} templates for {self.task}")

    @property
    def output(self) -> str:
        """The name of the graph's output."""
        return "embedding" if self.task == FEATURES else "logits"

    def probabilities(self, logits: Tensor) -> Tensor:
        """Logits float32 [..., classes] -> probabilities, as Hugging Face's pipelines give them."""
        if self.activation == "sigmoid":
            with np.errstate(over="ignore"):  # a logit below -88 is a probability of 0
                result: Tensor = (1 / (1 + np.exp(-logits))).astype(np.float32)
            return result
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        result = weights / weights.sum(-1, keepdims=True)
        return result

    def agree(self, reference: Tensor, found: Tensor) -> Bools:
        """Of each picture: is the same said of it? Probabilities [..., classes] -> bool [...].

        With a softmax that is the likeliest class. With sigmoids it is each label, yes or no; and
        where the reference says no to all, its likeliest label, or one that is `TIED` with it.
        """
        best = found.argmax(-1)
        if self.activation != "sigmoid":
            return np.asarray(best == reference.argmax(-1))
        highest = reference.max(-1)
        held = np.take_along_axis(reference, best[..., None], -1)[..., 0]
        told = (highest >= 0.5) | (TIED * held >= highest)
        return np.asarray(labels_agree(reference, found).all(-1) & told)


def labels_agree(reference: Tensor, found: Tensor) -> Bools:
    """Of each label's own probability: the same yes or no, or `CROSSING`? Both of any one shape."""
    same = (reference >= 0.5) == (found >= 0.5)
    return np.asarray(same | (abs(reference - found) <= CROSSING))
