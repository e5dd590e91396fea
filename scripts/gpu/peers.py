"""Peers that preprocess frames and run a ViT-B/16 on the GPU: torch, torchvision and CV-CUDA.

A peer that is not installed raises `Absent` with the reason, which is written into the figures.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

MEAN = DEVIATION = (0.5, 0.5, 0.5)
Call = Callable[[], object]


class Absent(Exception):
    """The reason why a peer is not measured."""


def torch_on_the_gpu() -> Any:
    try:
        import torch
    except Exception as error:
        raise Absent(f"torch: {error}") from error
    if not torch.cuda.is_available():
        raise Absent(f"torch {torch.__version__} sees no GPU")
    return torch


def resize_by_torchvision(torch: Any, frames: Any) -> Any:
    """RGB uint8 [N, 3, H, W] on the GPU -> float16 [N, 3, 224, 224]: antialiased, normalised."""
    try:
        from torchvision.transforms.v2 import functional
    except Exception as error:
        raise Absent(f"torchvision: {error}") from error
    small = functional.resize(frames, [224, 224], antialias=True)
    scaled = functional.to_dtype(small, torch.float32, scale=True)
    return functional.normalize(scaled, MEAN, DEVIATION).half()


def preprocessing(size: tuple[int, int], batch: int, distinct: int) -> tuple[dict[str, Any], Any]:
    """Calls that preprocess `distinct` frames in batches, and a function that times one in ms.

    The frames are RGB in GPU memory, so the peers convert no colours.
    """
    torch = torch_on_the_gpu()
    width, height = size
    frames = torch.randint(0, 256, (distinct, 3, height, width), dtype=torch.uint8, device="cuda")
    batches = frames.split(batch)
    calls: dict[str, Any] = {}

    def torchvision() -> None:
        for some in batches:
            resize_by_torchvision(torch, some)

    attempts = {"torchvision, antialiased": lambda: torchvision}
    attempts["CV-CUDA, area"] = lambda: _cvcuda(torch, frames.permute(0, 2, 3, 1), batch)
    for name, attempt in attempts.items():
        try:
            call = attempt()
            call()
            torch.cuda.synchronize()
            calls[name] = call
        except Exception as error:  # a failing peer is reported; the others continue
            calls[name] = Absent(str(error).strip().partition("\n")[0])

    def timed(call: Call) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / len(batches)

    return calls, timed


def _cvcuda(torch: Any, frames: Any, batch: int) -> Call:
    """CV-CUDA, on torch's stream: otherwise torch's events would not measure it."""
    import cvcuda

    stream = cvcuda.as_stream(torch.cuda.current_stream().cuda_stream)
    batches = [cvcuda.as_tensor(some.contiguous(), "NHWC") for some in frames.split(batch)]
    mean = cvcuda.as_tensor(torch.full((1, 1, 1, 3), 0.5, device="cuda"), "NHWC")

    def call() -> None:
        with stream:
            for some in batches:
                shape = (some.shape[0], 224, 224, 3)
                small = cvcuda.resize(some, shape, cvcuda.Interp.AREA)
                scaled = cvcuda.convertto(small, np.float32, scale=1 / 255)
                cvcuda.reformat(cvcuda.normalize(scaled, mean, mean), "NCHW")

    return call


def networks(batch: int, size: tuple[int, int], compiled: bool) -> dict[str, Call | Absent]:
    """torch's ViT-B/16 in FP16: alone, and from RGB frames in pinned memory to the top five.

    compiled: with torch.compile; otherwise eager, with two kinds of attention.
    """
    torch = torch_on_the_gpu()
    try:
        from transformers import ViTConfig, ViTForImageClassification
    except Exception as error:
        raise Absent(f"transformers: {error}") from error
    tensor = torch.zeros(batch, 3, 224, 224, dtype=torch.float16, device="cuda")
    width, height = size
    pinned = torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8).pin_memory()
    calls: dict[str, Call | Absent] = {}

    def add(name: str, how: str) -> None:
        config = ViTConfig(num_labels=1000)
        config._attn_implementation = how
        model = ViTForImageClassification(config).half().cuda().eval()
        torch._dynamo.reset()  # forget the previous batch size: only a few shapes are kept
        run = torch.compile(model, mode="reduce-overhead") if compiled else model

        def alone() -> None:
            with torch.inference_mode():
                run(pixel_values=tensor)
            torch.cuda.synchronize()

        def complete() -> None:
            with torch.inference_mode():
                pixels = resize_by_torchvision(torch, pinned.to("cuda", non_blocking=True))
                run(pixel_values=pixels).logits.softmax(-1).topk(5).indices.cpu()

        alone()
        calls[f"{name}, network alone"] = alone
        try:
            complete()
            calls[f"{name}, frame to top-5"] = complete
        except Absent as reason:
            calls[f"{name}, frame to top-5"] = reason

    attempts = {"torch eager FP16": "eager", "torch SDPA FP16": "sdpa"}
    if compiled:
        attempts = {"torch.compile FP16": "sdpa"}
    for name, how in attempts.items():
        try:
            add(name, how)
        except Exception as error:
            calls[name] = Absent(str(error).strip().partition("\n")[0])
    return calls
