"""Lengths of time as people write them: 500ms, 2s, 1.5m, 1h."""

from __future__ import annotations

import math
import re

from edge.errors import OptionError

__all__ = ["seconds"]

_UNITS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def seconds(text: str) -> float:
    """`text` in seconds, more than 0. Raises OptionError for what is no length of time."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?|\.\d+) *(ms|s|min|m|h)", text.strip())
    if found is None or not 0 < (length := float(found[1]) * _UNITS[found[2]]) < math.inf:
        raise OptionError(f"{text!r} is no length of time", "write 500ms, 2s, 1.5m or 1h")
    return length
