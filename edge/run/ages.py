"""How old the frames of a stream are, by a sender's clock whose zero and speed are not quite known.

A frame is late by the time between what that clock said when it was taken, and now. The one that
was least late was fresh; another is as much older as it is later. If the clock is slow, each frame
seems a little later than the one before: so what was least grows, at the speed at which clocks
differ. Frames that queue up somewhere on the way become late much faster than that.
"""

from __future__ import annotations

__all__ = ["Ages"]

# Crystals differ by some 50 millionths; with ten times that, 100 s in a queue are told as 99.95.
_DRIFT = 5e-4
_SETTLED = 2.0  # seconds


class Ages:
    """The frames of one connection, in their order; seconds throughout.

    floor  how late the freshest frame of the first moments was: the time that decoding takes, as
           far as the sender's clock was set by its first packet
    """

    def __init__(self) -> None:
        self.floor = 0.0
        self._began: float | None = None
        self._least = float("inf")
        self._taken = self._now = float("-inf")

    def age(self, taken: float, now: float) -> float:
        """How much older the next frame is than a fresh one, never negative.

        taken: when, by the sender's clock; one that goes back was set anew. now: by our own.
        """
        late = now - taken
        if taken < self._taken:
            self._least = late
        else:
            self._least = min(late, self._least + _DRIFT * (now - self._now))
        self._taken, self._now = taken, now
        self._began = now if self._began is None else self._began
        if now - self._began < _SETTLED:
            self.floor = max(0.0, self._least)
        return late - self._least
