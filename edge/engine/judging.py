"""`judge_apart`: judges an engine in a process of its own, so that a crash or a hang is an answer.

The process writes JSON lines to its standard output: `{"ran": [images, of]}` after each batch, and
at last `{"judgement": {...}}` or, if the engine cannot be opened, `{"error": [problem, hint,
whether a package is missing]}`.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import IO

import msgspec

from edge.engine.backends import choose
from edge.engine.engine import Engine
from edge.engine.judge import Judgement, judge
from edge.engine.passport import Passport
from edge.engine.witnesses import Witnesses, network_images
from edge.errors import EdgeError, EngineError, MissingPackage

__all__ = ["SILENCE", "judge_apart", "main"]

_START = "from edge.engine.judging import main; main()"
_PR_SET_PDEATHSIG = 1  # prctl(2)
# Seconds without a batch after which the process is taken for hung. TensorRT-RTX compiles kernels
# before the first one.
SILENCE = 300.0


def judge_apart(
    folder: Path,
    backend: str = "auto",
    threads: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    silence: float = SILENCE,
) -> Judgement:
    """Judge the engine in `folder` with a backend, `auto` or one of `backends.BACKENDS`.

    threads: of onnxruntime on the CPU. progress: see `judge`. silence: seconds without a batch
    after which the engine is refused. A crash is a refusal, too.

    Raises `EngineError` if the engine has no witnesses or cannot be opened on this machine, and
    `MissingPackage`.
    """
    began = time.monotonic()
    name = choose(folder, Passport.read(folder), backend)[0]
    words = [str(folder.resolve()), name, str(threads or 0), str(os.getpid())]
    ran = ""
    with tempfile.TemporaryFile() as stderr, _process(words, stderr) as process:
        for line in _lines(process, silence):
            if line is None:
                return _refusal(name, f"{name} has not answered for {silence:g} s{ran}", began)
            message = json.loads(line)
            if "ran" in message:
                done, total = message["ran"]
                progress(done, total)
                ran = f", after {done} of {total} images"
            elif "judgement" in message:
                return msgspec.convert(message["judgement"], Judgement)
            else:
                problem, hint, is_missing = message["error"]
                raise (MissingPackage if is_missing else EngineError)(problem, hint)
        return _refusal(name, f"{name} {_death(process.wait(), stderr)}{ran}", began)


def _refusal(backend: str, why: str, began: float) -> Judgement:
    return Judgement(backend, None, (), 0, why, time.monotonic() - began)


@contextmanager
def _process(words: list[str], stderr: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """The judging process; killed at the end of the `with`."""
    process = subprocess.Popen(
        [sys.executable, "-c", _START, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=stderr,
        cwd="/",  # otherwise a folder `edge` in the current one would be imported
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _lines(process: subprocess.Popen[bytes], silence: float) -> Iterator[bytes | None]:
    """The lines that a process writes; None if it writes none for `silence` seconds."""
    lines: SimpleQueue[bytes] = SimpleQueue()

    def read() -> None:
        assert process.stdout is not None
        with process.stdout as stdout, suppress(ValueError):  # closed meanwhile
            for line in stdout:
                lines.put(line)
        lines.put(b"")

    Thread(target=read, daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=silence)
        except Empty:
            yield None
            return
        if not line:
            return
        yield line


def _death(code: int, stderr: IO[bytes]) -> str:
    """How a process ended that gave no judgement, with the last line of what it wrote."""
    stderr.seek(0)
    lines = stderr.read().decode(errors="replace").strip().splitlines()
    last = f" ({lines[-1][:200]})" if lines else ""
    if code >= 0:
        return f"ended with exit code {code}{last}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    if -code == signal.SIGKILL:
        return f"was killed with {name}, as when memory runs out{last}"
    return f"crashed with {name}{last}"


def main() -> None:
    """Entry point of the process, with arguments FOLDER BACKEND THREADS PARENT."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which kills this one
    folder, backend, threads = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]) or None
    # However the parent ends, this process ends with it.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(sys.argv[4]):
        return
    # Libraries print to the descriptor of the standard output, too.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(**message: object) -> None:
        print(msgspec.json.encode(message).decode(), file=out, flush=True)

    try:
        passport = Passport.read(folder)
        witnesses = Witnesses.load(folder, passport)
        images = replace(passport, preprocess=network_images(passport.preprocess))
        engine = Engine.opened(folder, images, backend, threads)
    except EdgeError as error:
        say(error=[error.problem, error.hint, isinstance(error, MissingPackage)])
    else:
        try:
            found = judge(engine, witnesses, lambda *ran: say(ran=ran))
        except EdgeError as error:
            found = Judgement(backend, None, (), 0, error.problem, 0.0)
        say(judgement=found)
    # Without unloading the libraries: one that hangs then would hold the parent up.
    os._exit(0)
