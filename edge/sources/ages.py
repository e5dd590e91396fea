"""How old the frames of a stream are, by a sender's clock whose zero and speed are not quite known.

A frame is late by the time between what that clock said when it was taken, and now. The one that
was least late was fresh; another is as much older as it is later. If the clock is slow, each frame
seems a little later than the one before: so what was least grows, at the speed at which clocks
differ. Frames that queue up somewhere on the way become late much faster than that.

Cameras' clocks are worse than crystals: one that stamps thirtieths of a second on 29.97 frames, or
on 29, seems to fall back by 1 or 33 ms each second, for ever, and all its frames are fresh.

What a frame bears may also be no time at all: a bit that was flipped on the way sends it into the
future, and GStreamer, for which time never goes back, then gives the next ones that same time. So
it does when a camera sets its clock back, and then for as long as the connection lasts.
"""

from __future__ import annotations

__all__ = ["Ages", "TimestampAges"]

# Of the time that frames say has passed: what a camera's clock may lose, and what a crystal does.
_CAMERA, _CRYSTAL = 0.05, 5e-4
_JUMP = 0.1  # seconds by which a frame is later than any clock explains: it was held up


class Ages:
    """The frames of one connection, in their order; seconds throughout.

    least  by how much the freshest frame was late, by both clocks: of use in differences only
    """

    def __init__(self) -> None:
        self.least = float("inf")
        self._taken = float("inf")

    def age(self, taken: float, now: float) -> float:
        """How much older the next frame is than a fresh one, never negative.

        taken: when, by the sender's clock. now: by our own. A sender's clock that is set back makes
        all frames old from then on: only a new connection, with new `Ages`, mends that.
        """
        late, passed = now - taken, max(0.0, taken - self._taken)
        drifted = self.least + _CAMERA * passed
        if late > drifted + _JUMP:
            drifted = self.least + _CRYSTAL * passed
        self.least = min(late, drifted)
        self._taken = taken
        return late - self.least


class TimestampAges(Ages):
    """Of frames whose times came over a network, from others: some may be wrong.

    A frame whose time is not after the one before, or is ahead of all that is known of that clock
    without the next one's being so too, is taken to be as old as the one before.

    still  seconds for which times stand still: after long, nothing is known of any age
    """

    def __init__(self) -> None:
        super().__init__()
        self._stamp, self._age = float("-inf"), 0.0
        self._ahead = False
        self.still = self._moved = 0.0

    def age(self, taken: float, now: float) -> float:
        """As `Ages.age`; seconds."""
        before, self._stamp = self._stamp, taken
        if taken != before:
            self._moved = now
        self.still = now - self._moved
        doubted, self._ahead = self._ahead, float("inf") > self.least > now - taken + _JUMP
        # Some cameras have two frames of one time, and that is no reason to believe neither.
        if taken < before or self.still > _JUMP:
            self.least = now - taken - self._age
        elif taken > before and (doubted or not self._ahead):
            self._age = super().age(taken, now)
        return self._age
