"""Diagnostics about the conversions that GStreamer applies to the frames of a source."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from edge.errors import SourceError

__all__ = ["alternate_error", "check_not_alternate", "conversions"]

_ALTERNATE = "format:Interlaced"  # each buffer is one field: a caps feature, since it changes sizes
_DEINTERLACE = "deinterlace ! videoconvert"


def conversions(name: str, produced: Any, delivered: Any) -> Iterator[str]:
    """Messages about a source, to be logged once.

    produced: caps of the frames of its camera or decoder. delivered: caps of what reaches the sink.
    """
    before, after = (caps.get_structure(0).get_string("format") for caps in (produced, delivered))
    memory = produced.get_features(0).to_string()
    # Other memory is converted by hardware, such as the nvvidconv of a Jetson.
    if before != after and memory in ("memory:SystemMemory", ""):
        yield f"{name}: the CPU converts each frame from {before} to {after}, with videoconvert"
    if produced.get_structure(0).get_string("interlace-mode") in ("interleaved", "mixed"):
        yield (
            f"{name}: its frames are interlaced and are used as they are, with two moments in one; "
            f"to separate them end a custom pipeline with: {_DEINTERLACE}"
        )


def check_not_alternate(name: str, produced: Any) -> None:
    """Raises SourceError if each buffer is only one field of a frame. produced: caps, or None."""
    if produced is not None and produced.get_features(0).contains(_ALTERNATE):
        raise alternate_error(name)


def alternate_error(name: str) -> SourceError:
    """The error for a source that delivers single fields."""
    return SourceError(
        f"{name} delivers single fields (interlace-mode=alternate), not complete frames",
        f"combine them in a custom pipeline: gst:... ! {_DEINTERLACE}",
    )
