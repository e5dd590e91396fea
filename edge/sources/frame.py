"""`Frame`: one picture of a stream, as a view of the memory to which GStreamer wrote it.

Nothing is copied. The frame keeps the mapped buffer alive; the buffer is unmapped and returns to
its pool when the last reference to it is gone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from edge.preprocess.colour import to_rgb
from edge.preprocess.surface import DeviceSurface, Surface

__all__ = ["DeviceReader", "Frame", "FramePath"]

# The kind of memory in which a frame lies, and how the GPU accesses it.
FramePath: TypeAlias = Literal["system", "nvmm-pitch", "nvmm-block-linear", "nvmm-cuda", "cuda"]


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture of a stream.

    source    the name of its source, without credentials
    number    counts the frames that the source produced, from 0; a dropped frame leaves a gap
    pts       presentation time in seconds, or None if the source has none
    captured  `time.monotonic()` seconds at which the frame was at its source
    path      the kind of memory in which it lies
    surface   its pixel format, size and colours, and where its planes are
    owner     keeps the memory of `surface` alive: hold it until the GPU has finished reading
    reader    copies surfaces from the memory of the GPU
    live      newer frames follow, whether this one is used or not
    """

    source: str
    number: int
    pts: float | None
    captured: float
    path: FramePath
    surface: Surface | DeviceSurface
    owner: object = None
    reader: DeviceReader | None = None
    live: bool = False

    @property
    def host_surface(self) -> Surface:
        """The surface in memory that the CPU reads; for a frame in GPU memory a new copy each time.

        Raises SourceError if it cannot be copied from there.
        """
        if isinstance(self.surface, Surface):
            return self.surface
        assert self.reader is not None  # it made the surface
        return self.reader.download(self.surface)

    @property
    def pixels(self) -> npt.NDArray[np.uint8]:
        """The frame for display: RGB uint8 [H, W, 3], read-only, with any row stride.

        For packed RGB and BGR it is a view, for other formats a new array each time.
        Raises SourceError if the frame cannot be copied from the memory of the GPU.
        """
        pixels = to_rgb(self.host_surface)
        pixels.flags.writeable = False
        return pixels


class DeviceReader(Protocol):
    """Reads samples that lie in the memory of the GPU."""

    def surface(self, sample: Any) -> tuple[DeviceSurface, FramePath, object]:
        """The surface, its memory path, and the owner to hold while the GPU may read it.

        Raises SourceError.
        """

    def download(self, surface: DeviceSurface) -> Surface:
        """A copy of a surface in memory that the CPU reads. Raises SourceError."""
