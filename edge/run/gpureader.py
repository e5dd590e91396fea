"""Samples in the GPU's memory of whichever kind: a Jetson's NVMM, or GStreamer's CUDA memory."""

from __future__ import annotations

from typing import Any

from edge.cuda import Device
from edge.preprocess.surface import DeviceSurface
from edge.run import gstcuda
from edge.run.frames import FramePath
from edge.run.nvmm import NvmmReader

__all__ = ["GpuReader"]


class GpuReader:
    """Reads the samples of one source for a GPU, whose device must outlive it."""

    def __init__(self, device: Device):
        self._device = device
        self._nvmm: NvmmReader | None = None
        self._cuda: gstcuda.CudaReader | None = None
        self._sharer: gstcuda.ContextSharer | None = None

    def share_context(self, pipeline: Any) -> None:
        """Have the pipeline's CUDA elements work in this device's context. Before it starts."""
        self._sharer = gstcuda.share_context(pipeline, self._device.handle, 0)

    def surface(self, sample: Any) -> tuple[DeviceSurface, FramePath, object]:
        """The picture, its path, and what to hold until the GPU has read it. Raises SourceError."""
        if sample.get_caps().get_features(0).contains("memory:NVMM"):
            if self._nvmm is None:
                self._nvmm = NvmmReader(self._device.egl)
            return self._nvmm.surface(sample)
        if self._sharer is not None and self._sharer.error is not None:
            raise self._sharer.error
        if self._cuda is None:
            self._cuda = gstcuda.CudaReader(self._device.synchronize)
        return self._cuda.surface(sample)

    def flush(self) -> None:
        """End all registrations of buffers, before the pipeline lets go of them."""
        if self._nvmm is not None:
            self._nvmm.flush()
