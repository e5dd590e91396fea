"""The tests of a GPU are tested on the stand-in driver: they pass, and they can fail."""

from __future__ import annotations

import ctypes
import os
from contextlib import closing

import numpy as np
import pytest

from edge.gpu.device import Device
from edge.preprocess import cuda as cuda_preprocess
from edge.preprocess.surface import FORMATS
from tests.cuda_driver.standin import BUILD, emulated
from tests.engine.test_gpu_path import opened
from tests.hardware import frames
from tests.hardware.kernel import GpuKernel
from tests.preprocess.kernel.build import HostKernel, compiled
from tests.preprocess.pictures import noise
from tests.preprocess.test_kernel import SPECS, TEXTURES, check

pytestmark = pytest.mark.slow


class _Texture(ctypes.Structure):
    """`standin_texture` of standin.h."""

    _fields_ = [
        ("rows", ctypes.c_void_p),
        *((name, ctypes.c_ulonglong) for name in ("width", "height", "pitch")),
        *((name, ctypes.c_uint) for name in ("channels", "bytes")),
    ]


class StandinKernel(GpuKernel):
    """The kernel as C++, whose textures are its own."""

    def __init__(self, device: Device):
        library = compiled(BUILD)
        cuda_preprocess.kernel_image = lambda *_: os.fsencode(library)  # type: ignore[assignment]
        super().__init__(device)
        self._host = HostKernel(library).library
        self._objects: dict[int, int] = {}

    def texture(self, array: int, channels: int) -> int:
        made = super().texture(array, channels)
        t = _Texture.from_address(made)
        assert (t.channels, t.bytes) == (channels, 1)
        size = t.pitch, t.channels, t.width, t.height
        host: int = self._host.make_texture(ctypes.c_void_p(t.rows), *map(int, size))
        self._objects[host] = made
        return host

    def destroy(self, texture: int) -> None:
        self._host.free_texture(ctypes.c_void_p(texture))
        super().destroy(self._objects.pop(texture))


@emulated
def test_the_kernel_s_comparison(driver):
    with closing(Device()) as device:
        kernel = StandinKernel(device)
        for number in ("float32", "float16"):
            for form in FORMATS:
                check(kernel, SPECS["cropped"], [noise(form, 61, 45, padding=3)] * 2, number)
            for form in TEXTURES:
                surfaces = [noise(form, 61, 45, padding=3)]
                check(kernel, SPECS["padded"], surfaces, number, textures=True)


@emulated
def test_the_comparison_sees_a_wrong_byte(driver):
    weights = cuda_preprocess.rgb_weights
    cuda_preprocess.rgb_weights = lambda colour: weights(colour) + (1 << 14)  # type: ignore
    with closing(Device()) as device:
        kernel = StandinKernel(device)
        with pytest.raises(AssertionError):
            check(kernel, SPECS["bilinear"], [noise("NV12", 61, 45)])


@emulated
def test_the_checks_of_frames(driver, built_engine):
    with opened(driver, built_engine) as (on_gpu, on_cpu, _):
        assert frames.says_what_the_cpu_says(on_gpu, on_cpu, 4, 1e-5) < 1e-5
        frames.keeps_order(on_gpu, on_cpu, 1e-5)
        figures = frames.stays_the_same(on_gpu, 100, 64, 48)
        assert (figures["differing"], figures["distinct"]) == (0, 5)
        assert figures["device_bytes_grown"] == 0
        assert frames.graphs(on_gpu) >= on_gpu.depth


@emulated
def test_the_checks_of_frames_see_disorder_and_growth(driver, built_engine):
    with opened(driver, built_engine) as (on_gpu, on_cpu, _):
        on_gpu.slot()
        lanes, device = on_gpu._path, on_gpu.device
        finish = type(lanes).finish
        type(lanes).finish = lambda path: finish(path) * (1 + 1e-3 * np.random.rand())
        start = type(lanes).start

        def grow(path, places):
            with device:
                device.allocate(4096)
            start(path, places)

        type(lanes).start = grow
        figures = frames.stays_the_same(on_gpu, 50, 64, 48)
        assert figures["differing"] > 40
        assert figures["device_bytes_grown"] >= 50 * 4096
        type(lanes).finish, type(lanes).start = finish, start
        type(lanes).finish = lambda path: (path._busy.rotate(1), finish(path))[1]
        with pytest.raises(AssertionError):
            frames.keeps_order(on_gpu, on_cpu, 1e-5)
