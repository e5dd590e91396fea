"""The process that audits: a frame once more, by the standard's formula, Pillow and the FP32 graph.

It is a process of its own so that the run waits for nothing, and the lowest of all, so that it only
takes what nobody else wants: time on the CPU, and memory. It ends with the run, however that ends.
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

__all__ = ["Auditor", "Job", "Luma", "Verdict", "main"]

Tensor = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Job:
    """A frame to audit.

    surface        the picture as the camera delivered it
    probabilities  float [classes], what the engine made of it
    tensor         float32 [3, height, width], what the engine saw of it
    """

    surface: Surface
    probabilities: npt.NDArray[np.floating]
    tensor: Tensor


@dataclass(frozen=True)
class Luma:
    """Which levels the luma of a frame uses, 0 to 255: all but 0.1 % on either side.

    outside  the share of its samples that lie outside 16..235
    """

    darkest: float
    brightest: float
    outside: float


@dataclass(frozen=True)
class Verdict:
    """A frame by the engine against the same by the reference.

    agrees       both say the same of it, as `Head.agree` has it
    probability  largest difference of a class's probability, in percentage points
    largest      largest difference of what the two networks saw, in grey levels of the picture
    mean         and the mean one
    luma         None for a picture in RGB
    """

    agrees: bool
    probability: float
    largest: float
    mean: float
    luma: Luma | None


class Auditor:
    """The reference, ready. Raises what `Passport.read` and `Session` raise."""

    def __init__(self, folder: Path, graph: str):
        """graph: the file in the engine's folder that is in FP32."""
        passport = Passport.read(folder)
        spec, self._head = passport.preprocess, passport.head
        self._prepare = Preprocessor(spec, compiled=False)
        self._session = Session(folder / graph, threads=1)
        table = spec.table().astype(np.float64)
        # What one grey level is worth in each channel that the network sees.
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


def _luma(surface: Surface) -> Luma | None:
    layout, form = surface.layout, FORMATS[surface.layout.format]
    if form.is_rgb:
        return None
    where, start, step = form.samples[0]
    samples = surface.planes[where][: layout.height, start::step][:, : layout.width]
    darkest, brightest = np.percentile(samples, (0.1, 99.9)).tolist()
    return Luma(darkest, brightest, float(((samples < 16) | (samples > 235)).mean()))


def main() -> None:
    """`FD FOLDER GRAPH`: say that the reference is ready, then answer each Job with its Verdict.

    What goes wrong is said as text, and ends the process. So does the end of the connection, which
    the system closes when the run is killed.
    """
    number, folder, graph = sys.argv[1:]
    _give_way()
    link = Connection(int(number))
    with suppress(EOFError, OSError):  # nobody listens any more
        try:
            auditor = Auditor(Path(folder), graph)
            link.send(None)
            while True:
                link.send(auditor(link.recv()))
        except (EOFError, OSError):
            raise
        except Exception as error:
            link.send(f"{error}")


def _give_way() -> None:
    """Run when nobody else wants to, be the first to go without memory, leave Ctrl-C to the run."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with suppress(OSError):
        os.nice(19)
    with suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
