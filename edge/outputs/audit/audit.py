"""Live parity: some of a run's frames go through the reference as well, in a process beside it.

    the loop's thread    copies a frame that is due, unless another is still being audited
    the audit's thread   hands it to the process (`auditor.py`), counts the verdict, says what
                         changed; when the process ends it starts another

The loop copies, and waits for nothing: the reference may take seconds.
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
from edge.outputs.audit.auditor import Job, Verdict
from edge.outputs.audit.findings import Parity
from edge.outputs.audit.reference import Reference
from edge.preprocess.surface import Surface
from edge.run.interfaces import Prediction
from edge.sources.frame import Frame

__all__ = ["Audit", "parse_every"]

Tensor = npt.NDArray[np.float32]

_START = "from edge.outputs.audit.auditor import main; main()"
_ANSWER = 600.0  # seconds for a verdict: on a busy machine the process waits long for its turn
_PAUSE = (1.0, 60.0)  # seconds before a process is started again: at first, and at most
_GRACE = 0.5  # seconds that the end of a run waits for the frame that is being audited
_END = 1.0  # seconds for the process to be gone: on a disk that hangs it stays, even killed
_NAP = 0.1  # seconds between looks at whether the run is over, or the process has ended


def parse_every(text: str) -> int:
    """`1/500` -> 500. Raises ValueError."""
    one, _, every = text.partition("/")
    if one != "1" or not every.isdecimal() or int(every) < 1:
        raise ValueError(f"{text!r} is not one of so many, such as 1/500")
    return int(every)


class Audit:
    """Audits one frame in `every` of each source, its first among them. Owns the process.

    `observe` belongs to the loop's thread; all else may be called from any.

    restarts  times that the process ended before the run did
    """

    def __init__(
        self, reference: Reference, classes: int, every: int, info: Callable[[str], None]
    ) -> None:
        """classes: how many the engine has. say: is told, on any thread, what changes."""
        self._reference, self._classes, self._every, self._info = reference, classes, every, info
        self.restarts = 0
        self._parity: dict[str, Parity] = {}
        self._since: dict[str, int] = {}  # frames of each source since one was taken
        self._refused: set[str] = set()
        self._condition = threading.Condition()
        self._taken: tuple[Parity, Job] | None = None  # waits for the process, or is in it
        self._over = False
        self._process: _Process | None = None
        self._pause, self._told = _PAUSE[0], False
        self._thread = threading.Thread(target=self._work, name="audit", daemon=True)
        self._thread.start()

    @property
    def sources(self) -> list[Parity]:
        """What was found of each source that had a frame to audit; from any thread."""
        with self._condition:
            return list(self._parity.values())

    def __enter__(self) -> Audit:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def observe(self, frame: Frame, prediction: Prediction, seen: Callable[[], Tensor]) -> None:
        """Copy a frame if it is due. One that cannot be copied is refused; that is said once.

        prediction: the engine's own, not smoothed over frames. seen: gives a copy of what the
        network saw, float32 [3, height, width]; it is called here or not at all.
        """
        since = self._since.get(frame.source, self._every - 1) + 1
        self._since[frame.source] = since
        if since < self._every:
            return
        with self._condition:
            parity = self._parity.setdefault(frame.source, Parity(frame.source))
            busy = self._taken is not None
        if busy:  # the source stays due: of several, each has its turn
            parity.skipped += since == self._every
            return
        self._since[frame.source] = 0
        try:
            picture = frame.picture
        except SourceError as error:
            self._refuse(frame.source, error)
            return
        job = self._copy(picture, prediction, seen())
        with self._condition:
            self._taken = parity, job
            self._condition.notify_all()

    def close(self) -> None:
        """End the process, after a moment for the frame that it has: then that counts as lost.

        One that cannot be ended is left behind. A second time does nothing.
        """
        with self._condition:
            self._condition.wait_for(lambda: self._taken is None, _GRACE)
            self._over = True
            self._condition.notify_all()
            if self._process is not None:
                self._process.kill()  # the thread may be stuck in a send to it
        self._thread.join(_END)
        self._lose()

    def numbers(self) -> dict[str, Any]:
        """The audit in the run's summary, for JSON: all sources together, then each of them."""
        whole = Parity("all")
        for parity in self.sources:
            whole.merge(parity)
        return {
            "reference": str(self._reference.folder),
            "every": self._every,
            "restarts": self.restarts,
            **whole.numbers(),
            "sources": {
                parity.source: {**parity.numbers(), "deviations": list(parity.deviations.values())}
                for parity in self.sources
            },
        }

    def _refuse(self, source: str, error: SourceError) -> None:
        if source not in self._refused:
            self._refused.add(source)
            self._info(f"{source} is not audited: {error}")

    def _copy(self, surface: Surface, prediction: Prediction, tensor: Tensor) -> Job:
        """What the process is sent; nothing of it is the camera's."""
        probabilities = np.zeros(self._classes)
        for number, _, probability in prediction.top(self._classes):
            probabilities[number] = probability
        planes = tuple(np.array(plane) for plane in surface.planes)
        return Job(Surface(surface.layout, planes), probabilities, tensor)

    def _work(self) -> None:
        """Keep a process, and give it what is taken. Runs on the audit's thread."""
        while not self._over:
            try:
                with _Process(self._reference, lambda: self._over) as process:
                    with self._condition:
                        self._process = process
                    process.receive()  # it is ready
                    while not self._over:
                        self._audit(process)
            except (EOFError, OSError, _Failed) as error:
                self._failed(error)

    def _audit(self, process: _Process) -> None:
        with self._condition:
            if self._taken is None:
                self._condition.wait(_NAP)
            taken = self._taken
        if taken is None:
            process.check()
            return
        parity, job = taken
        process.send(job)
        verdict: Verdict = process.receive()
        changes = parity.add(verdict, job.surface.layout.colour.full_range)
        with self._condition:
            self._taken = None
            self._condition.notify_all()
        if self._told:
            self._info("the audit goes on")
        self._pause, self._told = _PAUSE[0], False
        for change in changes:
            self._info(change)

    def _failed(self, error: Exception) -> None:
        """Say it, unless no frame was audited since it was said last, and wait a while."""
        self._lose()
        with self._condition:
            self._process = None
            if self._over:
                return
            self.restarts += 1
        if not self._told:
            why = f": {error}" if isinstance(error, _Failed) else ""
            self._info(f"the auditing process ended{why}; it is started again")
        self._told = True
        with self._condition:
            self._condition.wait_for(lambda: self._over, self._pause)
        self._pause = min(2 * self._pause, _PAUSE[1])

    def _lose(self) -> None:
        with self._condition:
            if self._taken is not None:
                self._taken[0].lost += 1
            self._taken = None
            self._condition.notify_all()


class _Failed(Exception):
    """Why the process is of no more use, in its own words or in ours."""


class _Process:
    """An auditing process and the connection to it; killed at the end of its `with`."""

    def __init__(self, reference: Reference, over: Callable[[], bool]):
        """over: whether nobody waits for an answer any more."""
        self._over = over
        self._link, theirs = Pipe()
        command = [sys.executable, "-c", _START, str(theirs.fileno())]
        with theirs:  # ours is the only end left: the process reads its end when we are gone
            self._process = subprocess.Popen(
                [*command, str(reference.folder), reference.graph],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # results go there
                stderr=subprocess.DEVNULL,
                cwd="/",  # or a folder `edge` in the current one would be imported
            )

    def __enter__(self) -> _Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._process.wait()  # however long: none is started beside one that cannot end
        self._link.close()

    def kill(self) -> None:
        self._process.kill()

    def check(self) -> None:
        """Raises EOFError when it has ended."""
        if self._process.poll() is not None:
            raise EOFError

    def send(self, job: Job) -> None:
        """Raises OSError when it has ended."""
        self._link.send(job)

    def receive(self) -> Any:
        """Its answer. Raises `_Failed`, or EOFError when it has ended or the run is over."""
        deadline = time.monotonic() + _ANSWER
        while not self._link.poll(_NAP):
            if self._over():
                raise EOFError
            if time.monotonic() > deadline:
                raise _Failed(f"it has not answered for {_ANSWER:.0f} s")
        answer = self._link.recv()
        if isinstance(answer, str):
            raise _Failed(answer)
        return answer
