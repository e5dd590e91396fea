"""`Head`: the task of an engine and the meaning of its outputs.

The tasks and their names are those of Hugging Face's pipelines. A zero-shot engine holds its text
embeddings as a constant matrix, so a device runs it like any other classifier.
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

# Tolerances for independent labels (sigmoid), whose answer is yes from a probability of 0.5 on.
# Rounding moves a logit by some tenths. Near 0.5, 0.4 of a logit is 0.1 of probability: if a label
# crosses 0.5 by no more than that, FP32 itself is unsure of it. Far below 0.5 the ratio of two
# probabilities tells labels apart, and a ratio of TIED is the same 0.4 of a logit.
CROSSING = 0.1
TIED = 1.5

Tensor = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Head:
    """The meaning of a graph's outputs.

    labels      class id -> name; empty for feature extraction
    activation  turns logits into probabilities; "none" for feature extraction
    pooling     feature extraction only: how the tokens become one vector. own: as the checkpoint's
                model does (`pooler_output`); cls: the first token; mean: of all patch tokens
    normalised  the embeddings have length 1
    templates   zero-shot only: the prompts into which each label was put; their text embeddings
                are averaged
    """

    task: Task = "image-classification"
    labels: tuple[str, ...] = ()
    activation: Literal["softmax", "sigmoid", "none"] = "softmax"
    pooling: Pooling | None = None
    normalised: bool = False
    templates: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises ValueError for a combination that no build writes."""
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
            with np.errstate(
                over="ignore"
            ):  # exp overflows for logits below -88: the probability is 0
                result: Tensor = (1 / (1 + np.exp(-logits))).astype(np.float32)
            return result
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        result = weights / weights.sum(-1, keepdims=True)
        return result

    def agree(self, reference: Tensor, found: Tensor) -> Bools:
        """Whether both predict the same for each image: [..., classes] -> bool [...].

        reference and found are probabilities. With a softmax, the most probable class must be the
        same. With sigmoids, the yes or no of every label must be the same (see `labels_agree`);
        where the reference answers no to every label, `found`'s most probable label must also be
        the reference's, or one that is `TIED` with it.
        """
        best = found.argmax(-1)
        if self.activation != "sigmoid":
            return np.asarray(best == reference.argmax(-1))
        highest = reference.max(-1)
        chosen = np.take_along_axis(reference, best[..., None], -1)[..., 0]
        same_top = (highest >= 0.5) | (TIED * chosen >= highest)
        return np.asarray(labels_agree(reference, found).all(-1) & same_top)


def labels_agree(reference: Tensor, found: Tensor) -> Bools:
    """Whether each label's yes or no is the same, or differs by at most `CROSSING`.

    reference and found are probabilities of one shape, any; the result has it too.
    """
    same = (reference >= 0.5) == (found >= 0.5)
    return np.asarray(same | (abs(reference - found) <= CROSSING))
