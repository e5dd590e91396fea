"""Random weights in which nothing is forgotten unseen.

What a library leaves at zero or one in a fresh model (tables of relative positions, layer scales,
running statistics) is made random too, so that a graph which forgets it is found out.
"""

from __future__ import annotations

import math
from typing import Any

__all__ = ["randomise"]

_SCALES = ("lambda", "layer_scale", "gamma")  # of what a layer adds


def randomise(module: Any) -> None:
    """Weights that keep signals their size; all else of a size that is seen in the output."""
    import torch

    def normal(tensor: Any, mean: float, deviation: float) -> None:
        tensor.copy_(mean + deviation * torch.randn_like(tensor))

    # Not named_buffers(): what is not saved would be another in the model that is loaded.
    for name, tensor in module.state_dict().items():
        last = name.rpartition(".")[2]
        if last == "running_var":
            tensor.uniform_(0.5, 1.5)
        elif last == "logit_scale":
            tensor.uniform_(1, 3)
        elif not tensor.is_floating_point() or last == "relative_coords_table":
            continue
        elif any(word in last for word in _SCALES):
            tensor.uniform_(0.3, 0.6)
        elif last.endswith("weight") and tensor.ndim > 1:
            # What a convolution makes goes through a SiLU more often than back into a residual.
            gain = 1.4 if tensor.ndim == 4 else 1.3
            normal(tensor, 0, gain / math.sqrt(tensor[0].numel()))
        elif last == "weight":
            normal(tensor, 1, 0.1)
        else:
            normal(tensor, 0, 0.1 if tensor.ndim == 1 else 0.5)
