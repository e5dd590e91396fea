"""The kernel on a CUDA device, called as `tests.preprocess.kernel.build.HostKernel` is."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from edge.gpu.device import Device
from edge.preprocess.cuda import CudaPreprocessor
from edge.preprocess.spec import Preprocess
from edge.preprocess.surface import DeviceSurface, Surface
from tests.preprocess.kernel.build import channels_of


class GpuKernel:
    """Prepares surfaces on a device and brings the tensor back; the device stays the caller's."""

    def __init__(self, device: Device):
        self.device = device
        self._ready = lru_cache(maxsize=None)(
            lambda spec, number: CudaPreprocessor(spec, device, number)
        )

    def __call__(
        self,
        spec: Preprocess,
        surfaces: list[Surface],
        number: str = "float32",
        *,
        textures: bool = False,
    ) -> np.ndarray:
        """A batch of surfaces -> [N, 3, height, width] of `number`."""
        ready: CudaPreprocessor = self._ready(spec, number)
        device, count = self.device, len(surfaces)
        with device:
            pinned = device.pinned((count, 3, spec.height, spec.width), number)
            out = device.allocate(pinned.nbytes)
            # A number that the kernel does not write must not be right by chance.
            pinned[...] = np.nan
            device.stream.upload(out, pinned)
            device.stream.wait()
            put = self._as_textures if textures else self._as_pointers
            there = [put(surface) for surface in surfaces]
            records, address = ready.records(count)
            shared = max(
                ready.fill(record, surface)
                for record, (surface, _) in zip(records, there, strict=True)
            )
            ready.launch(device.stream, address, count, shared, int(out))
            device.stream.download(pinned, out)
            device.stream.wait()
            found = pinned.copy()
            for _, release in there:
                release()
            # `records` is a view on what the device knows by its first byte.
            for thing in (pinned, out, records.base):
                device.free(thing)
        return found

    def _as_pointers(self, surface: Surface) -> tuple[DeviceSurface, Any]:
        """Planes in device memory, no byte longer than the surface says, for a memory checker."""
        memory = []
        for plane in surface.planes:
            rows, columns = plane.shape
            size = (rows - 1) * plane.strides[0] + columns
            pinned = self.device.pinned((size,), np.uint8)
            pinned[...] = np.lib.stride_tricks.as_strided(plane, (size,), (1,))
            memory.append(self.device.allocate(size))
            self.device.stream.upload(memory[-1], pinned)
            self.device.stream.wait()
            self.device.free(pinned)

        def release() -> None:
            for one in memory:
                self.device.free(one)

        pitches = tuple(plane.strides[0] for plane in surface.planes)
        return DeviceSurface(surface.layout, tuple(map(int, memory)), pitches), release

    def _as_textures(self, surface: Surface) -> tuple[DeviceSurface, Any]:
        """Planes in CUDA arrays, as a Jetson's block-linear buffers are."""
        arrays, objects = [], []
        for plane, channels in zip(surface.planes, channels_of(surface), strict=True):
            arrays.append(make_array(plane, channels))
            objects.append(self.texture(int(arrays[-1]), channels))

        def release() -> None:
            for texture in objects:
                self.destroy(texture)
            for array in arrays:
                destroy_array(array)

        return DeviceSurface(surface.layout, tuple(objects), (), textures=True), release

    def texture(self, array: int, channels: int) -> int:
        return self.device.egl.texture(array, channels)

    def destroy(self, texture: int) -> None:
        self.device.egl.destroy_texture(texture)


def make_array(plane: np.ndarray, channels: int) -> Any:
    """A CUarray with the samples of a plane, uint8 [rows, columns], `channels` at a place."""
    from cuda.bindings import driver

    rows, columns = plane.shape
    shape = driver.CUDA_ARRAY_DESCRIPTOR()
    shape.Width, shape.Height, shape.NumChannels = columns // channels, rows, channels
    shape.Format = driver.CUarray_format.CU_AD_FORMAT_UNSIGNED_INT8
    code, array = driver.cuArrayCreate(shape)
    assert not code, code
    copy = driver.CUDA_MEMCPY2D()
    copy.srcMemoryType = driver.CUmemorytype.CU_MEMORYTYPE_HOST
    copy.srcHost, copy.srcPitch = plane.ctypes.data, plane.strides[0]
    copy.dstMemoryType = driver.CUmemorytype.CU_MEMORYTYPE_ARRAY
    copy.dstArray, copy.WidthInBytes, copy.Height = array, columns, rows
    (code,) = driver.cuMemcpy2D(copy)
    assert not code, code
    return array


def destroy_array(array: Any) -> None:
    from cuda.bindings import driver

    (code,) = driver.cuArrayDestroy(array)
    assert not code, code
