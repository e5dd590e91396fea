"""What must hold of frames on a GPU, whatever runs the network there.

Each takes the engine on the GPU and the same engine on the CPU: `test_frames_gpu.py` gives them a
real GPU, `test_on_the_standin.py` the emulated one.
"""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np

from edge.engine.engine import Engine
from edge.preprocess.surface import FORMATS, Surface
from edge.sources.frame import Frame
from tests.preprocess.pictures import noise

WARM = 16  # frames until each lane has its graph
SLACK = 1 << 20  # bytes of device memory: the driver's own housekeeping


def frame(surface: Surface, number: int = 0) -> Frame:
    return Frame("gpu", number, None, time.monotonic(), "system", surface)


def on_the_cpu(engine: Engine, surfaces: list[Surface]) -> np.ndarray:
    tensors = np.stack([engine.preprocess(surface) for surface in surfaces])
    return np.concatenate([engine.infer(tensor[None]) for tensor in tensors])


def says_what_the_cpu_says(gpu: Engine, cpu: Engine, batch: int, error: float) -> float:
    """Every format, alone and in batches, enqueued and as a graph; the largest error is given.

    error: of a logit, as a share of the largest logit; what the precision costs.
    """
    surfaces = [noise(form, 61 + i, 45, padding=i, seed=i) for i, form in enumerate(FORMATS)]
    expected = on_the_cpu(cpu, surfaces)
    slots = [gpu.slot() for _ in range(batch)]
    worst = 0.0
    for count in sorted({1, 2, batch}) * 3:
        for at in range(0, len(surfaces) - count + 1, count):
            for slot, surface in zip(slots, surfaces[at : at + count], strict=False):
                slot.put(frame(surface))
            gpu.start(slots[:count])
            off = np.abs(gpu.finish() - expected[at : at + count])
            worst = max(worst, float(off.max() / np.abs(expected).max()))
    assert worst <= error, f"a logit is off by {worst:.4f} of the largest"
    return worst


def stays_the_same(gpu: Engine, frames: int, width: int = 640, height: int = 480) -> dict[str, Any]:
    """Two lanes at work for `frames` frames: memory is flat, results are equal."""
    surfaces = [noise("NV12", width, height, seed=seed) for seed in range(5)]
    slots = [gpu.slot() for _ in range(gpu.depth + 2)]
    first: dict[int, bytes] = {}
    flying: deque[int] = deque()
    differing, device = 0, gpu.device
    assert device is not None
    before: tuple[int, int] | None = None

    def finish() -> int:
        surface, found = flying.popleft() % 5, gpu.finish()[0].tobytes()
        return int(first.setdefault(surface, found) != found)

    for number in range(frames + WARM):
        if number == WARM:
            before = _memory(device)
        slot = slots[number % len(slots)]
        slot.put(frame(surfaces[number % 5], number))
        gpu.start([slot])
        flying.append(number)
        if len(flying) == gpu.depth:
            differing += finish()
    while flying:
        differing += finish()
    assert before is not None
    after = _memory(device)
    return {
        "frames": frames,
        "differing": differing,
        "distinct": len(set(first.values())),
        "device_bytes_grown": before[0] - after[0],
        "host_bytes_grown": after[1] - before[1],
    }


def keeps_order(gpu: Engine, cpu: Engine, error: float) -> None:
    """Nine different frames, two at a time on their way: each answer is that of its frame."""
    surfaces = [noise("I420", 70, 50, seed=seed) for seed in range(9)]
    expected = on_the_cpu(cpu, surfaces)
    slots = [gpu.slot() for _ in range(4)]
    found: list[np.ndarray] = []
    for i, surface in enumerate(surfaces):
        slots[i % 4].put(frame(surface, i))
        gpu.start([slots[i % 4]])
        if i >= gpu.depth - 1:
            found.append(gpu.finish()[0])
    found += [gpu.finish()[0] for _ in range(gpu.depth - 1)]
    distance = np.abs(np.stack(found)[:, None] - expected[None]).max(axis=-1)
    assert distance.argmin(axis=1).tolist() == list(range(9))
    assert distance.diagonal().max() <= error * np.abs(expected).max()


def graphs(gpu: Engine) -> int:
    """CUDA graphs that the lanes have, each one for every size of batch."""
    lanes: Any = gpu._path
    captured = [one for lane in lanes._lanes for one in lane._captured.values()]
    return sum(one.graph is not None for one in captured)


def _memory(device: Any) -> tuple[int, int]:
    """Bytes free on the GPU, and bytes that this process holds in the host's memory."""
    free, _ = device.memory()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return free, pages * 4096
