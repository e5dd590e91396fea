"""The kernel on a GPU gives the CPU path's bytes: `make test-gpu`, by nvcc and by NVRTC."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import closing, suppress

import pytest

from edge.errors import MissingPackage
from edge.gpu import kernels
from edge.gpu.device import Device
from edge.preprocess import cuda as cuda_preprocess
from edge.preprocess.surface import FORMATS
from tests.hardware.kernel import GpuKernel
from tests.hardware.support import lacking, need_gpu
from tests.preprocess.pictures import COLOURS, noise
from tests.preprocess.test_kernel import SPECS, TEXTURES, check, vit

pytestmark = pytest.mark.gpu

SIZES = [(101, 77), (64, 48), (40, 40), (33, 150), (17, 9)]


def compilers() -> dict[str, kernels.Nvcc | kernels.Nvrtc]:
    """What can compile a kernel here."""
    nvcc = kernels.find_nvcc()
    found: dict[str, kernels.Nvcc | kernels.Nvrtc] = {"nvcc": kernels.Nvcc(nvcc)} if nvcc else {}
    with suppress(MissingPackage):
        found["NVRTC"] = kernels.Nvrtc()
    return found


@pytest.fixture(scope="module", params=["nvcc", "NVRTC"])
def kernel(request: pytest.FixtureRequest) -> Iterator[GpuKernel]:
    need_gpu()
    found = compilers()
    if request.param not in found:
        lacking(request.param if found else "nvcc or NVRTC", required=not found)
    with pytest.MonkeyPatch.context() as patch, closing(Device()) as device:
        patch.setattr(kernels, "compiler", lambda: found[request.param])
        yield GpuKernel(device)


@pytest.mark.parametrize("number", ["float32", "float16"])
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("form", FORMATS)
def test_every_format_processor_and_colour(kernel, form, spec, number):
    sizes = [noise(form, *size, padding=5 + i, seed=i) for i, size in enumerate(SIZES)]
    colours = [noise(form, 61, 45, colour, padding=3) for colour in COLOURS]
    check(kernel, spec, sizes + colours, number)


@pytest.mark.parametrize("number", ["float32", "float16"])
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("form", TEXTURES)
def test_textures_give_what_pointers_give(kernel, form, spec, number):
    """A texture ends where its plane does; at the edges the kernel must not lean on clamping."""
    sizes = [noise(form, *size, padding=5 + i, seed=i) for i, size in enumerate(SIZES)]
    colours = [noise(form, 61, 45, colour, padding=3) for colour in COLOURS]
    check(kernel, spec, sizes + colours, number, textures=True)


def test_a_batch_may_mix_sizes_formats_and_colours(kernel):
    mixed = [
        noise(form, 40 + 13 * i, 90 - 7 * i, COLOURS[i], padding=i)
        for i, form in enumerate(FORMATS)
    ]
    for name in SPECS:
        check(kernel, SPECS[name], mixed)


@pytest.mark.parametrize(
    "size", [(1, 1), (1, 30), (30, 1), (2, 2), (3, 2000), (6000, 3), (1920, 1080), (3840, 2160)]
)
def test_extreme_shapes(kernel, size):
    for resample, (height, width) in itertools.product((1, 2), ((8, 24), (224, 224))):
        pictures = [noise("NV12", *size), noise("RGB", *size)]
        check(kernel, vit(resample, height, width), pictures)


def test_a_wrong_byte_is_seen(kernel, monkeypatch):
    """The comparison is against what the GPU wrote: another matrix is another tensor."""
    weights = cuda_preprocess.rgb_weights
    monkeypatch.setattr(cuda_preprocess, "rgb_weights", lambda colour: weights(colour) + (1 << 14))
    with pytest.raises(AssertionError):
        check(kernel, SPECS["bilinear"], [noise("NV12", 61, 45)])
