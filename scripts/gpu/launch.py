"""Launches of the kernel for compute-sanitizer, with a comparison of its bytes.

    PYTHONPATH=. compute-sanitizer --tool memcheck python -m scripts.gpu.launch

Every format by pointers, block-linear formats also by textures, FP32 and FP16, and a mixed batch.
"""

from __future__ import annotations

from contextlib import closing

from edge.gpu.device import Device
from edge.preprocess.surface import FORMATS
from tests.hardware.kernel import GpuKernel
from tests.preprocess.pictures import COLOURS, noise
from tests.preprocess.test_kernel import SPECS, TEXTURES, check


def launch_all(kernel: GpuKernel) -> int:
    """Returns the number of images. Raises AssertionError if a byte differs."""
    images = 0
    for name, spec in SPECS.items():
        for number in ("float32", "float16"):
            mixed = [
                noise(form, 40 + 13 * i, 90 - 7 * i, COLOURS[i], padding=i)
                for i, form in enumerate(FORMATS)
            ]
            check(kernel, spec, mixed, number)
            images += len(mixed)
        for form in TEXTURES if name in ("bilinear", "cropped") else ():
            check(kernel, spec, [noise(form, 61, 45, padding=3)], textures=True)
            images += 1
    return images


def main() -> None:
    with closing(Device()) as device:
        print(f"{launch_all(GpuKernel(device))} pictures, no byte differs")


if __name__ == "__main__":
    main()
