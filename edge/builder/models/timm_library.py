"""The timm package, which is installed in a folder of its own.

timm needs only Python code of torchvision. But transformers imports any torchvision that it finds,
and fails with one that was made for another build of torch, as PyPI's is for a CPU build of torch.
So make setup installs both packages into `FOLDER`.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from edge.errors import require

__all__ = ["library"]

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
