"""One picture from a source, as a view on the memory GStreamer wrote it to.

Nothing is copied: the frame keeps the mapped buffer alive, and the buffer is unmapped and goes
back to its pool when the last that looks at it is gone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from edge.preprocess.colour import to_rgb
from edge.preprocess.surface import DeviceSurface, Surface

__all__ = ["DeviceReader", "Frame", "FramePath"]

# Where a frame's bytes lie, and how the GPU gets at them.
FramePath: TypeAlias = Literal["system", "nvmm-pitch", "nvmm-block-linear", "nvmm-cuda", "cuda"]


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture.

    source    the name of its source, without credentials
    number    its place among the frames the source produced, from 0; a dropped frame leaves a gap
    pts       stream time in seconds, or None when the source gives none
    captured  `time.monotonic()` seconds at which the picture was at the source
    path      the memory it lies in
    surface   the picture: its format, size and colours, and where its planes are
    owner     keeps the memory of `surface` alive: hold it until the GPU has read what it was given
    reader    brings a picture from the GPU's memory
    live      newer ones follow, whether it is used or not
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
    def picture(self) -> Surface:
        """The picture in memory that the CPU reads; of one in the GPU's memory a copy each time.

        Raises SourceError for one that cannot be brought from there.
        """
        if isinstance(self.surface, Surface):
            return self.surface
        assert self.reader is not None  # which made the surface
        return self.reader.download(self.surface)

    @property
    def pixels(self) -> npt.NDArray[np.uint8]:
        """The picture for people's eyes: RGB uint8 [H, W, 3], read-only, of any row stride.

        Of packed RGB in any order it is a view, of other formats a new array each time.
        Raises SourceError for a picture that cannot be brought from the GPU's memory.
        """
        pixels = to_rgb(self.picture)
        pixels.flags.writeable = False
        return pixels


class DeviceReader(Protocol):
    """Reads samples whose memory is the GPU's."""

    def surface(self, sample: Any) -> tuple[DeviceSurface, FramePath, object]:
        """The picture, the path, and what must live while the GPU may read it.

        Raises SourceError.
        """

    def download(self, surface: DeviceSurface) -> Surface:
        """A copy of a picture in memory that the CPU reads. Raises SourceError."""
