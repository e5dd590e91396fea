"""Detection of gaps in a source's frames, after which the scene may be a different one."""

from __future__ import annotations

import statistics
from collections import deque

from edge.sources.frame import Frame

__all__ = ["Cadence", "frame_time"]

# Frame rates range from 60 frames per second to one frame in 10 s (`--every`), so a gap is measured
# in the source's own intervals. A gap of less than a second is network jitter, not a new scene.
_GAP_INTERVALS = 5
_GAP_SECONDS = 1.0
_HISTORY = 9  # intervals; their median follows a new rate after five frames


def frame_time(frame: Frame) -> float:
    """The time of a frame, in seconds.

    For a file it is stream time, which does not depend on how fast the file is read. For a live
    source, whose clock may be set or stand still, and for a source without stream time it is the
    time of capture.
    """
    return frame.captured if frame.live or frame.pts is None else frame.pts


class Cadence:
    """The usual interval between the frames of one source."""

    def __init__(self) -> None:
        self._last: float | None = None
        self._intervals: deque[float] = deque(maxlen=_HISTORY)

    def broken(self, time: float) -> bool:
        """Add the frame at `time` seconds. Whether there is a gap before it.

        The first frame counts as one after a gap; so does a frame whose time is earlier than that
        of the frame before it, because then the stream was restarted.
        """
        last, self._last = self._last, time
        if last is None or time < last:
            return True
        interval = time - last
        usual = statistics.median(self._intervals) if self._intervals else 0.0
        self._intervals.append(interval)
        return interval > max(_GAP_SECONDS, _GAP_INTERVALS * usual)
