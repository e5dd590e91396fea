"""Random weights for test checkpoints, for every parameter and buffer.

This includes those that a library initialises with zero or one (tables of relative positions, layer
scales, running statistics), so that a graph without them gives wrong outputs.
"""

from __future__ import annotations

import math
from typing import Any

__all__ = ["randomise"]

_SCALES = ("lambda", "layer_scale", "gamma")  # names of the factors of a layer's output


def randomise(module: Any) -> None:
    """Weights that keep the size of signals; other tensors large enough to change the output."""
    import torch

    def normal(tensor: Any, mean: float, deviation: float) -> None:
        tensor.copy_(mean + deviation * torch.randn_like(tensor))

    # Not named_buffers(): buffers that are not saved would differ in the loaded model.
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
            # A convolution's output usually goes through a SiLU, which makes it smaller.
            gain = 1.4 if tensor.ndim == 4 else 1.3
            normal(tensor, 0, gain / math.sqrt(tensor[0].numel()))
        elif last == "weight":
            normal(tensor, 1, 0.1)
        else:
            normal(tensor, 0, 0.1 if tensor.ndim == 1 else 0.5)
