"""What a fault did, in numbers: how soon it was noticed and mended, what was lost and wrong."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias

from tests.chaos.command import Needs, Seen

__all__ = ["WHOLE", "Fault", "Truth", "lost", "percentiles", "truth"]

WHOLE = os.environ.get("EDGE_CHAOS") == "whole"
# Milliseconds that no frame's age can be without: the camera's encoder, sockets, the decoder, and
# the pipe on which the result comes out; more of them where other tests want the cores, too.
ON_THE_WAY = 30.0 if WHOLE else 300.0

Percentiles: TypeAlias = dict[str, float | None]


@dataclass(frozen=True)
class Truth:
    """What results said, held against what their pictures showed.

    frames    results
    wrong     of another camera than their source
    older     of a picture older than that of the source's result before
    repeated  of the same picture as the source's result before
    damaged   of pictures that cannot be read
    old       of pictures older than two frame intervals and the time that labelling them took
    oldest    of these, up to ten: milliseconds from the first result, true age, told age, labelling
    age_ms    true ages of the pictures
    off_ms    how far the ages that were told are from the true ones
    """

    frames: int
    wrong: int
    older: int
    repeated: int
    damaged: int
    old: int
    oldest: list[list[int]]
    age_ms: Percentiles
    off_ms: Percentiles


@dataclass
class Fault:
    """One fault, and what it did.

    noticed   seconds from the fault until the command said so, if it did
    back      seconds from the server's return until the result of a picture taken after that
    lost      pictures taken while the server was there, and not labelled
    needs     of the process, when all was well, before and after
    exit      of the command
    damages   pictures: some cannot be read, and a decoder shows parts of those before them
    slack     seconds that the network takes of itself, which nobody can know who has no other
    """

    name: str
    noticed: list[float] = field(default_factory=list)
    back: list[float] = field(default_factory=list)
    lost: int | None = None
    needs: list[Needs] = field(default_factory=list)
    exit: int | None = None
    truth: Truth | None = None
    damages: bool = False
    slack: float = 0.0
    remark: str = ""

    def figures(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "times": max(len(self.noticed), len(self.back), 1),
            "noticed_s": percentiles(self.noticed),
            "back_s": percentiles(self.back),
            "lost": self.lost,
            "needs": [asdict(needs) for needs in self.needs],
            "exit": self.exit,
            "truth": None if self.truth is None else asdict(self.truth),
            "remark": self.remark,
        }


def percentiles(values: Iterable[float]) -> Percentiles:
    """{"p50": ..., "p99": ..., "max": ...} by nearest rank; of no values, None."""
    ordered, shares = sorted(values), {"p50": 0.5, "p99": 0.99, "max": 1.0}
    if not ordered:
        return dict.fromkeys(shares)
    at = {name: max(0, math.ceil(len(ordered) * share) - 1) for name, share in shares.items()}
    return {name: float(f"{ordered[place]:.4g}") for name, place in at.items()}


def truth(
    seen: Sequence[Seen],
    cameras: Mapping[str, int],
    fps: float | Mapping[str, float],
    slack: float = 0.0,
) -> Truth:
    """cameras: the number of each source's camera. fps: of these, or of each source.

    slack: see `Fault`.
    """
    newest: dict[str, int] = {}
    wrong = older = repeated = 0
    read = [(one, one.stamp) for one in seen if one.stamp is not None]
    for one, stamp in read:
        wrong += stamp.camera != cameras[one.source]
        older += stamp.ms < newest.get(one.source, 0)
        repeated += stamp.ms == newest.get(one.source, 0)
        newest[one.source] = stamp.ms
    each = fps if isinstance(fps, Mapping) else dict.fromkeys(cameras, fps)
    limit = {source: 2e3 / each[source] + ON_THE_WAY + slack * 1e3 for source in cameras}
    old = sorted(
        (one for one, _ in read if one.true_age_ms > limit[one.source] + one.latency_ms),
        key=lambda one: one.true_age_ms,
        reverse=True,
    )
    return Truth(
        frames=len(seen),
        wrong=wrong,
        older=older,
        repeated=repeated,
        damaged=len(seen) - len(read),
        old=len(old),
        oldest=[
            [
                round((one.at - seen[0].at) * 1e3),
                round(one.true_age_ms),
                round(one.age_ms),
                round(one.latency_ms),
            ]
            for one in old[:10]
        ],
        age_ms=percentiles(one.true_age_ms for one, _ in read),
        off_ms=percentiles(abs(one.true_age_ms - one.age_ms) for one, _ in read),
    )


def lost(
    seen: Sequence[Seen], camera: int, spans: Iterable[tuple[float, float]], fps: float
) -> int:
    """How many pictures that a camera took in these spans of seconds have no result."""
    taken = labelled = 0.0
    stamps = [one.stamp.ms / 1e3 for one in seen if one.stamp and one.stamp.camera == camera]
    for begin, end in spans:
        taken += (end - begin) * fps
        labelled += sum(begin <= stamp < end for stamp in stamps)
    return max(0, round(taken - labelled))
