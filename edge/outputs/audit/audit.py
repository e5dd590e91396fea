"""The audit: during a run, compares sampled frames with the FP32 reference in another process.

    the loop's thread    copies a frame that is due, unless another one is still being audited
    the audit's thread   sends it to the process (`auditor.py`), counts the verdict and reports
                         changes; if the process ends, it starts another one

The loop only copies and never waits: the reference may take seconds.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Pipe
from typing import Any

import numpy as np
import numpy.typing as npt

from edge.errors import SourceError
from edge.files.redaction import redact
from edge.outputs.audit.auditor import Job, Verdict
from edge.outputs.audit.findings import SourceAudit
from edge.outputs.audit.reference import Reference
from edge.preprocess.surface import Surface
from edge.run.interfaces import Prediction
from edge.sources.frame import Frame

__all__ = ["Audit", "parse_every"]

Tensor = npt.NDArray[np.float32]

_START = "from edge.outputs.audit.auditor import main; main()"
_ANSWER_TIMEOUT = 600.0  # seconds; on a busy machine the process may wait long for the CPU
_BACKOFF = (1.0, 60.0)  # seconds before the process is restarted: first, and at most
_GRACE = 0.5  # seconds that the end of a run waits for the frame that is being audited
_END = 1.0  # seconds for the process to end: blocked on a disk, it stays even if killed
_POLL = 0.1  # seconds between checks of whether the run or the process has ended


def parse_every(text: str) -> int:
    """`1/500` -> 500. Raises ValueError."""
    numerator, _, every = text.partition("/")
    if numerator != "1" or not every.isdecimal() or int(every) < 1:
        raise ValueError(f"{redact(text)!r} is not of the form 1/N, such as 1/500")
    return int(every)


class Audit:
    """Audits the first of every `every` frames of each source. Owns the auditing process.

    `observe` must be called on the loop's thread; all other methods on any thread.

    restarts  times that the process ended before the run did
    """

    def __init__(
        self, reference: Reference, classes: int, every: int, info: Callable[[str], None]
    ) -> None:
        """classes: number of the engine's outputs. info: called, on any thread, with changes."""
        self._reference, self._classes, self._every, self._info = reference, classes, every, info
        self.restarts = 0
        self._sources: dict[str, SourceAudit] = {}
        self._since: dict[str, int] = {}  # frames of each source since the last taken one
        self._refused: set[str] = set()
        self._condition = threading.Condition()
        self._taken: tuple[SourceAudit, Job] | None = None  # queued, or being audited
        self._over = False
        self._process: _Process | None = None
        self._backoff, self._is_failing = _BACKOFF[0], False
        self._thread = threading.Thread(target=self._work, name="audit", daemon=True)
        self._thread.start()

    @property
    def sources(self) -> list[SourceAudit]:
        """The results of each source that had a frame to audit; may be read from any thread."""
        with self._condition:
            return list(self._sources.values())

    def __enter__(self) -> Audit:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def observe(
        self, frame: Frame, prediction: Prediction, network_input: Callable[[], Tensor]
    ) -> None:
        """Copy a frame if it is due. A frame that cannot be copied is reported once per source.

        prediction: the engine's own, not smoothed. network_input: returns a copy of the network's
        input, float32 [3, height, width]; it is called before this method returns, or not at all.
        """
        since = self._since.get(frame.source, self._every - 1) + 1
        self._since[frame.source] = since
        if since < self._every:
            return
        with self._condition:
            audit = self._sources.setdefault(frame.source, SourceAudit(frame.source))
            busy = self._taken is not None
        if busy:  # the source stays due, so that each of several sources gets its turn
            audit.skipped += since == self._every
            return
        self._since[frame.source] = 0
        try:
            surface = frame.host_surface
        except SourceError as error:
            self._refuse(frame.source, error)
            return
        job = self._copy(surface, prediction, network_input())
        with self._condition:
            self._taken = audit, job
            self._condition.notify_all()

    def close(self) -> None:
        """End the process, after a short wait for the frame being audited; then it counts as lost.

        A process that cannot be killed is left behind. A second call does nothing.
        """
        with self._condition:
            self._condition.wait_for(lambda: self._taken is None, _GRACE)
            self._over = True
            self._condition.notify_all()
            if self._process is not None:
                self._process.kill()  # the thread may be blocked in a send to it
        self._thread.join(_END)
        self._drop_taken()

    def numbers(self) -> dict[str, Any]:
        """The audit's part of the summary, for JSON: all sources together, then each source."""
        total = SourceAudit("all")
        for audit in self.sources:
            total.merge(audit)
        return {
            "reference": str(self._reference.folder),
            "every": self._every,
            "restarts": self.restarts,
            **total.numbers(),
            "sources": {
                audit.source: {**audit.numbers(), "deviations": list(audit.deviations.values())}
                for audit in self.sources
            },
        }

    def _refuse(self, source: str, error: SourceError) -> None:
        if source not in self._refused:
            self._refused.add(source)
            self._info(f"{source} is not audited: {error}")

    def _copy(self, surface: Surface, prediction: Prediction, tensor: Tensor) -> Job:
        """The job for the process, with copies of all data of the frame."""
        probabilities = np.zeros(self._classes)
        for number, _, probability in prediction.top(self._classes):
            probabilities[number] = probability
        planes = tuple(np.array(plane) for plane in surface.planes)
        return Job(Surface(surface.layout, planes), probabilities, tensor)

    def _work(self) -> None:
        """Run a process and send it the taken frames; the body of the audit's thread."""
        while not self._over:
            try:
                with _Process(self._reference, lambda: self._over) as process:
                    with self._condition:
                        self._process = process
                    process.receive()  # None: it is ready
                    while not self._over:
                        self._audit(process)
            except (EOFError, OSError, _Failed) as error:
                self._failed(error)

    def _audit(self, process: _Process) -> None:
        with self._condition:
            if self._taken is None:
                self._condition.wait(_POLL)
            taken = self._taken
        if taken is None:
            process.check()
            return
        audit, job = taken
        process.send(job)
        verdict: Verdict = process.receive()
        changes = audit.add(verdict, job.surface.layout.colour.full_range)
        with self._condition:
            self._taken = None
            self._condition.notify_all()
        if self._is_failing:
            self._info("the audit continues")
        self._backoff, self._is_failing = _BACKOFF[0], False
        for change in changes:
            self._info(change)

    def _failed(self, error: Exception) -> None:
        """Report the failure, unless no frame was audited since the last report; then back off."""
        self._drop_taken()
        with self._condition:
            self._process = None
            if self._over:
                return
            self.restarts += 1
        if not self._is_failing:
            reason = f": {error}" if isinstance(error, _Failed) else ""
            self._info(f"the auditing process ended{reason}; it is restarted")
        self._is_failing = True
        with self._condition:
            self._condition.wait_for(lambda: self._over, self._backoff)
        self._backoff = min(2 * self._backoff, _BACKOFF[1])

    def _drop_taken(self) -> None:
        with self._condition:
            if self._taken is not None:
                self._taken[0].lost += 1
            self._taken = None
            self._condition.notify_all()


class _Failed(Exception):
    """The process reported an error, or it does not answer."""


class _Process:
    """An auditing process and the connection to it; killed at the end of its `with`."""

    def __init__(self, reference: Reference, over: Callable[[], bool]):
        """over: returns whether the run has ended, so that nobody waits for an answer."""
        self._over = over
        self._link, theirs = Pipe()
        command = [sys.executable, "-c", _START, str(theirs.fileno())]
        with theirs:  # close our copy of its end, so that it reads EOF when this process ends
            self._process = subprocess.Popen(
                [*command, str(reference.folder), reference.graph],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # stdout is for results only
                stderr=subprocess.DEVNULL,
                cwd="/",  # otherwise a folder `edge` in the current one would be imported
            )

    def __enter__(self) -> _Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._process.wait()  # without a limit: no second process runs beside one that cannot end
        self._link.close()

    def kill(self) -> None:
        self._process.kill()

    def check(self) -> None:
        """Raises EOFError when the process has ended."""
        if self._process.poll() is not None:
            raise EOFError

    def send(self, job: Job) -> None:
        """Raises OSError when the process has ended."""
        self._link.send(job)

    def receive(self) -> Any:
        """The next answer. Raises `_Failed`; EOFError when the process or the run has ended."""
        deadline = time.monotonic() + _ANSWER_TIMEOUT
        while not self._link.poll(_POLL):
            if self._over():
                raise EOFError
            if time.monotonic() > deadline:
                raise _Failed(f"it has not answered for {_ANSWER_TIMEOUT:.0f} s")
        answer = self._link.recv()
        if isinstance(answer, str):
            raise _Failed(answer)
        return answer
