"""Parser for durations such as 500ms, 2s, 1.5m and 1h."""

from __future__ import annotations

import math
import re

from edge.errors import OptionError

__all__ = ["seconds"]

_UNITS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def seconds(text: str) -> float:
    """A duration as text -> seconds, more than 0. Raises OptionError for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?|\.\d+) *(ms|s|min|m|h)", text.strip())
    if match is None or not 0 < (duration := float(match[1]) * _UNITS[match[2]]) < math.inf:
        raise OptionError(f"{text!r} is not a duration", "write 500ms, 2s, 1.5m or 1h")
    return duration
