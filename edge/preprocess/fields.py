"""Numbers of a processor's configuration, validated; an invalid one names its file.

A reader raises ValueError, or `InvalidField` where it knows the fix; within `reading` either
becomes a `CheckpointError` that names the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from edge.errors import CheckpointError

__all__ = ["InvalidField", "reading", "triple", "whole"]


class InvalidField(Exception):
    """A configuration `has` something that is not understood; `hint` is what to do."""

    def __init__(self, has: str, hint: str) -> None:
        super().__init__(has)
        self.hint = hint


@contextmanager
def reading(where: str) -> Iterator[None]:
    """Name the file in which something odd was found. Raises `CheckpointError`."""
    try:
        yield
    except InvalidField as error:
        raise CheckpointError(f"{where} has {error}", error.hint) from error
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise CheckpointError(
            f"{where} has {reason}", "correct it, or download it again"
        ) from error


def whole(value: Any) -> int:
    """A number of pixels, or the number of a filter. Raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != int(value):
        raise ValueError(f"{value!r} where a whole number belongs")
    return int(value)


def triple(value: Any, key: str) -> tuple[float, float, float]:
    """A number for each of three channels, or one for all. Raises ValueError and `InvalidField`."""
    if isinstance(value, (int, float)):
        value = [value] * 3
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"{key} {value!r}")
    if len(value) != 3:
        raise InvalidField(
            f"{len(value)} values in {key}", "vit-edge prepares RGB pictures: give three"
        )
    return (float(value[0]), float(value[1]), float(value[2]))
