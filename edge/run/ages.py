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


class Ages:
    """The frames of one connection, in their order; seconds throughout."""

    def __init__(self) -> None:
        self._least = float("inf")
        self._now = 0.0

    def age(self, taken: float, now: float) -> float:
        """How much older the next frame is than a fresh one, never negative.

        taken: when, by the sender's clock. now: by our own. A sender's clock that is set back makes
        all frames old from then on: only a new connection, with new `Ages`, mends that.
        """
        late = now - taken
        self._least = min(late, self._least + _DRIFT * (now - self._now))
        self._now = now
        return late - self._least
