"""`Ages`: the age of frames by a sender's clock whose offset and speed are unknown.

The lateness of a frame is the local time now minus its timestamp, so it includes the unknown offset
of the sender's clock. The frame with the least lateness was fresh; the age of any other frame is
the difference to it. If the sender's clock is slow, lateness grows a little with every frame, so
the least lateness is raised at the rate by which clocks may differ. Frames that queue up on the way
become late much faster than that.

Clocks of cameras are worse than crystals: a camera that stamps thirtieths of a second on 29.97 or
29 frames per second seems to fall back by 1 or 33 ms every second, although all its frames are
fresh.

A timestamp may also be wrong. A flipped bit moves one into the future; GStreamer, whose time never
goes back, then gives the following frames that same time. It does the same when a camera sets its
clock back, for the rest of the connection.
"""

from __future__ import annotations

__all__ = ["Ages", "TimestampAges"]

# The share of elapsed time that the clock of a camera, and a crystal, may lose.
_CAMERA_DRIFT, _CRYSTAL_DRIFT = 0.05, 5e-4
_JUMP = 0.1  # seconds: more lateness than any drift explains; the frame was held up


class Ages:
    """The ages of the frames of one connection, in their order. All values are seconds.

    least  the lateness of the freshest frame; its offset is unknown, so only differences mean
           something
    """

    def __init__(self) -> None:
        self.least = float("inf")
        self._captured = float("inf")

    def age(self, captured: float, now: float) -> float:
        """How much older the next frame is than a fresh one; never negative.

        captured: by the sender's clock. now: by the local clock. If the sender's clock is set back,
        all later frames appear old: only a new connection, with new `Ages`, fixes that.
        """
        late, elapsed = now - captured, max(0.0, captured - self._captured)
        drifted = self.least + _CAMERA_DRIFT * elapsed
        if late > drifted + _JUMP:
            drifted = self.least + _CRYSTAL_DRIFT * elapsed
        self.least = min(late, drifted)
        self._captured = captured
        return late - self.least


class TimestampAges(Ages):
    """The ages of frames with timestamps from a network, some of which may be wrong.

    A timestamp is not trusted if it is not later than the previous one, or if it alone is ahead of
    the clock: the next one is not. Such a frame gets the age of the previous frame.

    frozen_for  seconds since the timestamp last changed; after some seconds the age is unknown
    """

    def __init__(self) -> None:
        super().__init__()
        self._stamp, self._age = float("-inf"), 0.0
        self._ahead = False
        self.frozen_for = self._changed_at = 0.0

    def age(self, captured: float, now: float) -> float:
        """As `Ages.age`."""
        before, self._stamp = self._stamp, captured
        if captured != before:
            self._changed_at = now
        self.frozen_for = now - self._changed_at
        was_ahead, self._ahead = self._ahead, float("inf") > self.least > now - captured + _JUMP
        # Some cameras send two frames with one timestamp; that alone makes neither wrong.
        if captured < before or self.frozen_for > _JUMP:
            self.least = now - captured - self._age
        elif captured > before and (was_ahead or not self._ahead):
            self._age = super().age(captured, now)
        return self._age
