"""When the frames of a source were, and when it was away for so long that the scene is another."""

from __future__ import annotations

import statistics
from collections import deque

from edge.sources.frame import Frame

__all__ = ["Cadence", "frame_time"]

# A camera's frames come at any rate, from 60 a second to one in 10 s with `--every`: away is
# measured in its own intervals. Below a second it is a hiccup of a network, not another scene.
_AWAY_INTERVALS = 5
_AWAY_SECONDS = 1.0
_REMEMBERED = 9  # intervals; their median follows a new rate after five frames


def frame_time(frame: Frame) -> float:
    """Seconds at which the frame was.

    Of a film that is stream time, so that it says the same at whatever speed it is read. Of a live
    source, whose clock may be set or stand still, and of one that tells no time, it is the time at
    which the frame was captured.
    """
    return frame.captured if frame.live or frame.pts is None else frame.pts


class Cadence:
    """How often the frames of one source come."""

    def __init__(self) -> None:
        self._last: float | None = None
        self._intervals: deque[float] = deque(maxlen=_REMEMBERED)

    def broken(self, time: float) -> bool:
        """Whether the frame at `time` seconds has nothing to go on from: so has the first.

        Time that runs backwards is that of a stream that began anew.
        """
        last, self._last = self._last, time
        if last is None or time < last:
            return True
        interval = time - last
        usual = statistics.median(self._intervals) if self._intervals else 0.0
        self._intervals.append(interval)
        return interval > max(_AWAY_SECONDS, _AWAY_INTERVALS * usual)
