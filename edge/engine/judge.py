"""The judge: an opened engine labels its witnesses, and its outputs are compared with FP32's.

On a GPU every witness runs in batches of one, of the largest size and of one between, in each way
in which images reach the network: enqueued as tensors, and as RGB and NV12 frames through the
kernel and the CUDA graph. Each way runs at least twice and must give the same bits. A CPU has
neither kernel nor graph, and cameras' frames run one by one there: a few images are enough to try
the rest after all of them have run one by one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edge.engine.accuracy import Accuracy, lowest, plan_refusal
from edge.engine.compare import accuracy_of, compare
from edge.engine.engine import Engine
from edge.engine.passport import Passport
from edge.engine.witnesses import Witnesses, nv12
from edge.errors import EngineError
from edge.gpu import nvidia
from edge.preprocess.surface import Surface
from edge.sources.frame import Frame

__all__ = ["Judgement", "judge", "own_accuracy"]

_ON_A_CPU = 4  # images of a batch, and images that run a second time
# Runs of each lane: the first is enqueued, the second captured, the third launches the graph.
_PER_LANE = 3
_SAME_DB = 40.0  # SQNR of two ways to run the same images: noise of 1 %

Tensor = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Judgement:
    """What the judge found.

    backend   what executed the engine
    accuracy  the worst value of each figure over all runs of all witnesses; None without any
    batches   the batch sizes that ran
    runs      how often all witnesses ran
    refused   what is wrong with the engine; "": it passed
    seconds   that it took
    """

    backend: str
    accuracy: Accuracy | None
    batches: tuple[int, ...]
    runs: int
    refused: str
    seconds: float

    def __str__(self) -> str:
        """In words, after the name of the engine."""
        if self.refused or self.accuracy is None:
            return f"refused: {self.refused}"
        sizes = ", ".join(map(str, self.batches))
        return f"{self.accuracy.on_witnesses} with {self.backend}, in batches of {sizes}"

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**asdict(self), "passed": not self.refused, "seconds": round(self.seconds, 2)}


class _Refused(Exception):
    """What is wrong, in words."""


def own_accuracy(passport: Passport, backend: str) -> Accuracy:
    """The accuracy on the witnesses, at build time, of the graph that a backend executes.

    Raises `EngineError` if the passport does not have it.
    """
    precision, form = passport.precision, "portable"
    if backend in nvidia.BACKENDS and passport.plan is not None:
        form, graph = "device", passport.plan.graph
        carried = [name for name, one in passport.candidates.items() if one.graph == graph]
        precision = carried[0] if carried else precision
    forms = passport.witnesses.accuracy.get(precision, {}) if passport.witnesses else {}
    found = forms.get(form) or forms.get("portable")  # FP32 and FP16 have one form
    if found is None:
        raise EngineError(
            f"{passport.name} has no accuracy of {precision.upper()} on its witnesses",
            "build it again: edge build CHECKPOINT",
        )
    return found


def judge(
    engine: Engine,
    witnesses: Witnesses,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Judgement:
    """Judge an opened engine, whose preprocessing must be that of `network_images`.

    progress: called after each batch with (images that ran, images in all). Raises what the engine
    raises when it fails.
    """
    began, court = time.monotonic(), _Court(engine, witnesses, progress)
    refused = ""
    try:
        for batch in court.batches:
            court.try_batches_of(batch)
    except _Refused as why:
        refused = str(why)
    measured = {str(number): one for number, one in enumerate(court.measured)}
    accuracy = lowest(measured) if measured else None
    return Judgement(
        engine.backend, accuracy, court.batches, court.runs, refused, time.monotonic() - began
    )


class _Court:
    """The runs of one judgement. Raises `_Refused` at the first thing that is wrong.

    batches   the batch sizes to try
    measured  the accuracy of each run of all witnesses
    runs      how often all witnesses ran, those whose outputs are not measured included
    """

    def __init__(
        self, engine: Engine, witnesses: Witnesses, progress: Callable[[int, int], None]
    ) -> None:
        self._engine, self._witnesses, self._progress = engine, witnesses, progress
        passport = engine.passport
        self._own = own_accuracy(passport, engine.backend)
        self._on_gpu = engine.device is not None
        largest = engine.batch if self._on_gpu else min(passport.max_batch, _ON_A_CPU)
        self.batches = tuple(sorted({1, (1 + largest) // 2, largest}))
        self.measured: list[Accuracy] = []
        self.runs = 0
        self._slots = [engine.slot() for _ in range(largest if self._on_gpu else 1)]
        self._all_one_by_one: Tensor | None = None
        self._done, self._total = 0, sum(map(self._images, self.batches))

    def try_batches_of(self, batch: int) -> None:
        """Every way to run batches of this size, at least twice."""
        how = f"in batches of {batch}"
        count, again, framed = self._counts(batch)
        tensors = [self._engine.preprocess(image) for image in self._witnesses.images[:count]]
        outputs = self._enqueue(tensors, batch)
        self._compare(outputs, how)
        if not np.array_equal(self._enqueue(tensors[:again], batch), outputs[:again]):
            raise _Refused(f"a second run gives other outputs, {how}")
        if not framed:
            return
        images = self._witnesses.images[:framed]
        self._try_frames(
            [Surface.from_rgb(image) for image in images], tensors[:framed], outputs, batch, "RGB"
        )
        surfaces = [nv12(image) for image in images]
        tensors = [self._engine.preprocess(surface) for surface in surfaces]
        self._try_frames(surfaces, tensors, self._enqueue(tensors, batch), batch, "NV12")

    def _try_frames(
        self,
        surfaces: Sequence[Surface],
        tensors: Sequence[Tensor],
        expected: Tensor,
        batch: int,
        form: str,
    ) -> None:
        """Frames must give the tensors that the CPU makes of them, and these tensors' outputs."""
        graph = " and the CUDA graph" if self._on_gpu else ""
        how = f"from {form} frames{graph}, in batches of {batch}"
        first: Tensor | None = None
        for _ in range(self._rounds(len(surfaces), batch)):
            outputs = self._label(surfaces, tensors, batch, how)
            if form == "RGB":  # the witnesses themselves; NV12 frames are rounded
                self._compare(outputs, how)
            self._same(outputs, expected[: len(outputs)], f"{how}: other outputs than of tensors")
            first = outputs if first is None else first
            if not np.array_equal(outputs, first):
                raise _Refused(f"a second run gives other outputs, {how}")

    def _compare(self, outputs: Tensor, how: str) -> None:
        """Compare a run with FP32; one of a few witnesses with the run of all, one by one."""
        if not np.isfinite(outputs).all():
            raise _Refused(f"outputs are NaN or infinity, {how}")
        if len(outputs) < len(self._witnesses) and self._all_one_by_one is not None:
            expected = self._all_one_by_one[: len(outputs)]
            self._same(outputs, expected, f"other outputs than one by one, {how}")
            return
        passport = self._engine.passport
        accuracy = accuracy_of(self._witnesses.outputs, outputs, passport.head)
        self.measured.append(accuracy)
        if why := plan_refusal(accuracy, self._own, passport.gate):
            raise _Refused(f"{why}, {how}")
        if self._all_one_by_one is None:
            self._all_one_by_one = outputs

    def _same(self, outputs: Tensor, expected: Tensor, what: str) -> None:
        if not np.isfinite(outputs).all() or compare(expected, outputs, None).sqnr_db < _SAME_DB:
            raise _Refused(what)

    def _enqueue(self, tensors: Sequence[Tensor], batch: int) -> Tensor:
        """The outputs of tensors, float32 [N, outputs]; the last batch is filled up."""
        rows = []
        for places in _chunks(len(tensors), batch):
            rows.append(self._engine.infer(np.stack([tensors[at] for at in places])))
            self._ran(len(places))
        self.runs += len(tensors) == len(self._witnesses)
        return np.concatenate(rows)[: len(tensors)]

    def _label(
        self, surfaces: Sequence[Surface], tensors: Sequence[Tensor], batch: int, how: str
    ) -> Tensor:
        """The outputs of frames; the network's inputs are compared with the CPU's tensors."""
        rows, slots = [], self._slots[:batch]
        for places in _chunks(len(surfaces), batch):
            for slot, at in zip(slots, places, strict=True):
                slot.put(Frame("witness", at, None, time.monotonic(), "system", surfaces[at]))
            self._engine.start(slots)
            rows.append(self._engine.finish())
            for index, at in enumerate(places):
                if not np.array_equal(self._engine.network_input(index), tensors[at]):
                    raise _Refused(f"the network's input is not that of the CPU, {how}")
            for slot in slots:
                slot.clear()
            self._ran(len(places))
        self.runs += len(surfaces) == len(self._witnesses)
        return np.concatenate(rows)[: len(surfaces)]

    def _counts(self, batch: int) -> tuple[int, int, int]:
        """How many witnesses run in batches of this size, run again, and run as frames."""
        everything = len(self._witnesses)
        if self._on_gpu:
            return everything, everything, everything
        few = min(_ON_A_CPU, everything)
        return (everything, few, few) if batch == 1 else (few, few, 0)

    def _rounds(self, count: int, batch: int) -> int:
        """How often frames run: until each lane has launched its graph."""
        lanes = self._engine.depth * _PER_LANE
        return max(2, math.ceil(lanes / math.ceil(count / batch))) if self._on_gpu else 2

    def _images(self, batch: int) -> int:
        """How many images run in batches of this size, in all."""
        count, again, framed = (math.ceil(n / batch) * batch for n in self._counts(batch))
        rounds = self._rounds(framed, batch) if framed else 0
        return count + again + framed + 2 * rounds * framed

    def _ran(self, images: int) -> None:
        self._done += images
        self._progress(self._done, self._total)


def _chunks(count: int, batch: int) -> list[list[int]]:
    """The positions 0 to count - 1 in full batches; the last one begins again at 0.

    >>> _chunks(5, 2)
    [[0, 1], [2, 3], [4, 0]]
    """
    return [[at % count for at in range(start, start + batch)] for start in range(0, count, batch)]
