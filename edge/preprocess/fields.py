"""Numbers of a processor's configuration, validated; an invalid one names its file.

A reader raises ValueError, or `InvalidField` where it knows the fix; within `reading` either
becomes a `CheckpointError` that names the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from edge.errors import CheckpointError

__all__ = ["InvalidField", "integer", "reading", "triple"]


class InvalidField(Exception):
    """A value of a configuration is not supported.

    has: the value, such that "FILE has VALUE" is a sentence. hint: what to change.
    """

    def __init__(self, has: str, hint: str) -> None:
        super().__init__(has)
        self.hint = hint


@contextmanager
def reading(where: str) -> Iterator[None]:
    """Turn errors in the block into a `CheckpointError` that names the file `where`."""
    try:
        yield
    except InvalidField as error:
        raise CheckpointError(f"{where} has {error}", error.hint) from error
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise CheckpointError(
            f"{where} has {reason}", "correct it, or download it again"
        ) from error


def integer(value: Any) -> int:
    """A number of pixels, or the number of a filter. Raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != int(value):
        raise ValueError(f"{value!r} where an integer is expected")
    return int(value)


def triple(value: Any, key: str) -> tuple[float, float, float]:
    """Three numbers, one per channel; a single number is used for all three.

    Raises ValueError and `InvalidField`.
    """
    if isinstance(value, (int, float)):
        value = [value] * 3
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"{key} {value!r}")
    if len(value) != 3:
        raise InvalidField(
            f"{len(value)} values in {key}", "vit-edge prepares RGB images: give three values"
        )
    return (float(value[0]), float(value[1]), float(value[2]))
