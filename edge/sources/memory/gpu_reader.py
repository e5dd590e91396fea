"""`GpuReader`: frames in GPU memory, a Jetson's NVMM or GStreamer's CUDA memory."""

from __future__ import annotations

from typing import Any

import numpy as np

from edge.errors import BackendError, SourceError
from edge.gpu.device import Device
from edge.preprocess.surface import FORMATS, DeviceSurface, Surface
from edge.sources.frame import FramePath
from edge.sources.memory import gstcuda
from edge.sources.memory.nvmm import NvmmReader

__all__ = ["GpuReader"]


class GpuReader:
    """Reads the samples of one source for a GPU. The device must outlive it."""

    def __init__(self, device: Device):
        self._device = device
        self._nvmm: NvmmReader | None = None
        self._cuda: gstcuda.CudaReader | None = None
        self._sharer: gstcuda.ContextSharer | None = None

    def share_context(self, pipeline: Any) -> None:
        """Make the CUDA elements of a pipeline use this device's context; before it starts."""
        self._sharer = gstcuda.share_context(pipeline, self._device.handle, 0)

    def surface(self, sample: Any) -> tuple[DeviceSurface, FramePath, object]:
        """The surface, its memory path, and the owner to hold while the GPU may read it.

        Raises SourceError.
        """
        if sample.get_caps().get_features(0).contains("memory:NVMM"):
            if self._nvmm is None:
                self._nvmm = NvmmReader(self._device.egl)
            return self._nvmm.surface(sample)
        if self._sharer is not None and self._sharer.error is not None:
            raise self._sharer.error
        if self._cuda is None:
            self._cuda = gstcuda.CudaReader(self._device.synchronize)
        return self._cuda.surface(sample)

    def download(self, surface: DeviceSurface) -> Surface:
        """A copy of a surface, row by row, in memory that the CPU reads; on any thread.

        Raises SourceError for a block-linear surface, which only textures can read, and if the copy
        from the GPU fails.
        """
        if surface.textures:
            raise SourceError(
                "a frame in block-linear memory cannot be copied to system memory",
                "end the pipeline with: nvvidconv bl-output=false ! "
                "video/x-raw(memory:NVMM),format=NV12",
            )
        layout, planes = surface.layout, []
        for index, (address, pitch) in enumerate(zip(surface.planes, surface.pitches, strict=True)):
            rows, columns = FORMATS[layout.format].plane_size(index, layout.width, layout.height)
            try:
                copy = self._device.read(address, pitch * (rows - 1) + columns)
            except BackendError as error:
                raise SourceError(
                    f"a frame cannot be copied from the GPU: {error.problem}",
                    error.hint,
                ) from error
            planes.append(np.lib.stride_tricks.as_strided(copy, (rows, columns), (pitch, 1)))
        return Surface(layout, tuple(planes))

    def flush(self) -> None:
        """End all registrations of buffers, before the pipeline frees them."""
        if self._nvmm is not None:
            self._nvmm.flush()
