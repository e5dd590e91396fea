"""What is done to a source's pictures before they are read, as far as people should know of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from edge.errors import SourceError

__all__ = ["alternate", "check_not_alternate", "conversions"]

_ALTERNATE = "format:Interlaced"  # each buffer one field: a feature of caps, since it changes sizes
_DEINTERLACE = "deinterlace ! videoconvert"


def conversions(name: str, made: Any, read: Any) -> Iterator[str]:
    """What to say of a source, once.

    made: caps of what its camera or decoder made. read: caps of what arrives, made of it.
    """
    before, after = (caps.get_structure(0).get_string("format") for caps in (made, read))
    memory = made.get_features(0).to_string()
    # Elsewhere it is no work of the CPU's: a Jetson's nvvidconv, for one.
    if before != after and memory in ("memory:SystemMemory", ""):
        yield f"{name}: the CPU converts each frame from {before} to {after}, with videoconvert"
    if made.get_structure(0).get_string("interlace-mode") in ("interleaved", "mixed"):
        yield (
            f"{name}: its pictures are interlaced and are read as they are, two moments in one; "
            f"to part them end a pipeline of your own with: {_DEINTERLACE}"
        )


def check_not_alternate(name: str, made: Any) -> None:
    """Raises SourceError when each buffer is but one field of a picture. made: caps, or None."""
    if made is not None and made.get_features(0).contains(_ALTERNATE):
        raise alternate(name)


def alternate(name: str) -> SourceError:
    """The error for a source of single fields."""
    return SourceError(
        f"{name} delivers fields one by one (interlace-mode=alternate), and no whole pictures",
        f"put them together in a pipeline: gst:... ! {_DEINTERLACE}",
    )
