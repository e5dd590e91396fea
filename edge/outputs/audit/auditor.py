"""The auditing process: it recomputes a frame with the reference and compares the results.

The reference is the standard's colour formula, Pillow and the FP32 graph. It runs in a separate
process, so that the run never waits for it, at the lowest CPU priority, and as the first candidate
of the OOM killer. The process ends with the run, however the run ends.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge.engine.onnxruntime import Session
from edge.engine.passport import Passport
from edge.preprocess.cpu import Preprocessor
from edge.preprocess.reference import rgb_by_the_standard
from edge.preprocess.surface import FORMATS, Surface

__all__ = ["Auditor", "Job", "LumaRange", "Verdict", "main"]

Tensor = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Job:
    """A frame to audit.

    surface        the frame as the camera delivered it
    probabilities  float [classes], the engine's output
    tensor         float32 [3, height, width], the input of the engine's network
    """

    surface: Surface
    probabilities: npt.NDArray[np.floating]
    tensor: Tensor


@dataclass(frozen=True)
class LumaRange:
    """The luma levels that a frame uses, 0 to 255.

    darkest    0.1 percentile of its samples
    brightest  99.9 percentile of its samples
    outside    share of its samples outside 16..235
    """

    darkest: float
    brightest: float
    outside: float


@dataclass(frozen=True)
class Verdict:
    """The comparison of engine and reference for one frame.

    agrees       whether both name the same class or labels, as defined by `Head.agree`
    probability  largest difference of a class's probability, in percentage points
    largest      largest difference of the two network inputs, in grey levels of the frame
    mean         mean difference of the two network inputs, in grey levels of the frame
    luma         None for an RGB frame
    """

    agrees: bool
    probability: float
    largest: float
    mean: float
    luma: LumaRange | None


class Auditor:
    """The loaded reference: Job -> Verdict. Raises what `Passport.read` and `Session` raise."""

    def __init__(self, folder: Path, graph: str):
        """folder: of the engine with the FP32 graph. graph: the graph's file name there."""
        passport = Passport.read(folder)
        spec, self._head = passport.preprocess, passport.head
        self._prepare = Preprocessor(spec, compiled=False)
        self._session = Session(folder / graph, threads=1)
        table = spec.table().astype(np.float64)
        # One grey level, in the units of each channel of the network input.
        self._level = np.abs(table[:, 255] - table[:, 0])[:, None, None] / 255

    def __call__(self, job: Job) -> Verdict:
        tensor = self._prepare(rgb_by_the_standard(job.surface))
        expected = self._head.probabilities(self._session.logits(tensor[None])[0])
        error = np.abs(job.tensor - tensor) / self._level
        return Verdict(
            agrees=bool(self._head.agree(expected, job.probabilities)),
            probability=100 * float(np.abs(job.probabilities - expected).max()),
            largest=float(error.max()),
            mean=float(error.mean()),
            luma=_luma(job.surface),
        )


def _luma(surface: Surface) -> LumaRange | None:
    layout, form = surface.layout, FORMATS[surface.layout.format]
    if form.is_rgb:
        return None
    where, start, step = form.samples[0]
    samples = surface.planes[where][: layout.height, start::step][:, : layout.width]
    darkest, brightest = np.percentile(samples, (0.1, 99.9)).tolist()
    return LumaRange(darkest, brightest, float(((samples < 16) | (samples > 235)).mean()))


def main() -> None:
    """Entry point, with arguments FD FOLDER GRAPH: answers each Job on a connection with a Verdict.

    First it sends None when the reference is loaded. An error is sent as text and ends the process.
    The process also ends with the connection, which the system closes when the run is killed.
    """
    descriptor, folder, graph = sys.argv[1:]
    _lower_priority()
    link = Connection(int(descriptor))
    with suppress(EOFError, OSError):  # the run has closed the connection
        try:
            auditor = Auditor(Path(folder), graph)
            link.send(None)
            while True:
                link.send(auditor(link.recv()))
        except (EOFError, OSError):
            raise
        except Exception as error:
            link.send(f"{error}")


def _lower_priority() -> None:
    """Run only on idle CPUs, be killed first if memory is short, and leave signals to the run."""
    for signal_number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signal_number, signal.SIG_IGN)
    with suppress(OSError):
        os.nice(19)
    with suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
