"""timm, which lies apart from the other packages, and what it knows of a checkpoint's classes.

timm needs torchvision, and of that Python code only; but transformers uses whatever torchvision it
finds, and cannot be imported beside one that was made for another build of torch, as PyPI's is
beside a torch for the CPU. So make setup puts both into `APART`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from edge.errors import CheckpointError, require

__all__ = ["labels", "library"]

APART = Path(sys.prefix) / "timm"


def library() -> Any:
    """timm itself. Raises `MissingPackage` with the command that puts it into `APART`."""
    if "timm" in sys.modules:
        return sys.modules["timm"]
    require("transformers")  # it looks for torchvision once, and shall not find timm's
    sys.path.append(str(APART))
    try:
        _declare_operators()
        return require("timm")
    finally:
        sys.path.remove(str(APART))


def _declare_operators() -> None:
    """Let a torchvision be imported whose own operators do not fit this torch.

    Its import asks for the signatures of two, which no vision transformer calls.
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
    """The names of a checkpoint's classes, as transformers finds them: `label_names` in its
    config.json, or ImageNet's by the number of classes.

    Raises `CheckpointError` for names that are not one for each class.
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
            f"{name}: label_names in config.json is no list of {count} names",
            'write ["cat", "dog"], a name for each of num_classes',
        )
    return tuple(str(each) for each in names)
