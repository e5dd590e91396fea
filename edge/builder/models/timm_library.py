"""The timm package, which is installed in a folder of its own, and its labels of checkpoints.

timm needs only Python code of torchvision. But transformers imports any torchvision that it finds,
and fails with one that was made for another build of torch, as PyPI's is for a CPU build of torch.
So make setup installs both packages into `FOLDER`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from edge.errors import CheckpointError, require

__all__ = ["labels", "library"]

FOLDER = Path(sys.prefix) / "timm"


def library() -> Any:
    """The timm module. Raises `MissingPackage` with the command that installs it in `FOLDER`."""
    if "timm" in sys.modules:
        return sys.modules["timm"]
    require("transformers")  # looks for torchvision once on import, and must not find timm's
    sys.path.append(str(FOLDER))
    try:
        _declare_operators()
        return require("timm")
    finally:
        sys.path.remove(str(FOLDER))


def _declare_operators() -> None:
    """Make a torchvision importable whose own operators do not match this torch.

    Its import needs the signatures of two operators, which no vision transformer calls.
    """
    torch, found = require("torch"), find_spec("torchvision")
    if found is None or not found.submodule_search_locations:
        return
    try:
        torch.ops.load_library(str(Path(found.submodule_search_locations[0]) / "_C.so"))
    except OSError:
        for name in ("nms", "qnms"):
            if not hasattr(torch.ops.torchvision, name):
                signature = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
                torch.library.define(f"torchvision::{name}", signature)


def labels(name: str, config: Mapping[str, Any]) -> tuple[str, ...]:
    """The labels of a checkpoint, found as in transformers.

    They are `label_names` of config.json, or ImageNet's, chosen by the number of classes. Raises
    `CheckpointError` when their number is not that of the classes.
    """
    count, names = config.get("num_classes"), config.get("label_names")
    if type(count) is not int or count < 1:
        raise CheckpointError(
            f"{name}: num_classes in config.json is {count!r}", "write the number of classes"
        )
    if names is None:
        data = library().data
        subset = data.infer_imagenet_subset({"num_classes": count})
        if subset is None:
            return tuple(f"LABEL_{index}" for index in range(count))
        return tuple(data.ImageNetInfo(subset).label_descriptions())
    if not isinstance(names, list) or len(names) != count:
        raise CheckpointError(
            f"{name}: label_names in config.json is not a list of {count} names",
            'write a list such as ["cat", "dog"] with num_classes names',
        )
    return tuple(str(each) for each in names)
