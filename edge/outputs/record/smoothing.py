"""Predictions that do not flicker: what the last moments of one source say together.

    0.5s          exponential: a frame t seconds back weighs exp(-t / 0.5), at any frame rate
    majority:15   the class that was best in most of the last 15 frames

A source that was away (see `cadence`), or stopped, starts anew: no frame is judged by a scene that
is over.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edge.engine.engine import Prediction
from edge.errors import OptionError
from edge.outputs.record.cadence import Cadence
from edge.outputs.record.durations import seconds
from edge.run.interfaces import Sink
from edge.run.status import Transition

__all__ = ["Smooth", "smoothing"]

_MOST = 1000  # frames that vote: at 30 a second, half a minute; each is a row to count anew

Probabilities = npt.NDArray[np.float32]


class _Past(Protocol):
    """The past of one source."""

    def add(self, probabilities: Probabilities, time: float) -> Probabilities:
        """Take float32 [classes] of the frame at `time` seconds; what all of them say."""


class Smooth(Sink):
    """Smooths the predictions of any number of sources, each by its own past.

    It is a sink only to be told when a source stops: what that shows next may be another scene.
    """

    def __init__(self, past: Callable[[], _Past]):
        self._new = past
        self._pasts: dict[str, tuple[Cadence, _Past]] = {}

    def __call__(self, source: str, prediction: Prediction, captured: float) -> Prediction:
        """The prediction for a frame with the past of its source.

        captured: seconds, on a clock that runs with the scene: `cadence.frame_time`.
        """
        cadence, past = self._pasts.get(source) or (Cadence(), self._new())
        if cadence.broken(captured):
            past = self._new()
        self._pasts[source] = cadence, past
        return replace(prediction, probabilities=past.add(prediction.probabilities, captured))

    def changed(self, transition: Transition) -> None:
        if transition.state != "playing":
            self._pasts.pop(transition.source, None)


def smoothing(text: str) -> Smooth:
    """What `--smooth` says: a time constant such as `0.5s`, or `majority:FRAMES`.

    Raises OptionError.
    """
    kind, _, count = text.partition(":")
    is_number = count.isascii() and count.isdigit() and len(count) <= len(str(_MOST))
    frames = int(count) if is_number else 0
    if kind == "majority" and 2 <= frames <= _MOST:
        return Smooth(lambda: _Majority(frames))
    try:
        constant = seconds(text)
    except OptionError as error:
        bare = re.fullmatch(r"[2-9]|[1-9]\d\d?", text)
        time, count = (f"{text}s", text) if bare else ("0.5s", "15")
        raise OptionError(
            f"--smooth {text} is not understood",
            f"write {time}, or majority:{count}, of 2 to {_MOST} frames",
        ) from error
    return Smooth(lambda: _Exponential(constant))


class _Exponential:
    """A first-order low-pass: what a frame says holds since the frame before it."""

    def __init__(self, constant: float):
        self._constant = constant
        self._time = -math.inf
        self._mean: Probabilities = np.zeros(0, np.float32)

    def add(self, probabilities: Probabilities, time: float) -> Probabilities:
        keep, self._time = np.float32(math.exp((self._time - time) / self._constant)), time
        self._mean = probabilities + keep * (self._mean - probabilities) if keep else probabilities
        return self._mean


class _Majority:
    """The mean of those of the last frames that voted for the winner.

    So its confidence is that of a frame, and compares with the same threshold. Of two classes with
    as many votes the one that was surer wins.
    """

    def __init__(self, frames: int):
        self._votes: deque[Probabilities] = deque(maxlen=frames)

    def add(self, probabilities: Probabilities, time: float) -> Probabilities:
        self._votes.append(probabilities)
        ballots = np.stack(self._votes)
        best = ballots.argmax(axis=1)
        counts = np.bincount(best, minlength=ballots.shape[1])
        sure = np.bincount(best, ballots.max(axis=1), minlength=ballots.shape[1])
        winner = np.lexsort((sure, counts))[-1]
        mean: Probabilities = ballots[best == winner].mean(axis=0)
        return mean
