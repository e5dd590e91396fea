"""The `edge` command in a process of its own, forked from one that has imported what builds need.

A process that starts anew imports torch and transformers for seconds. These are real processes all
the same: their own file descriptors, environment, current folder, signals and exit code.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PRELOADED = [
    "edge.builder.pipeline",
    "edge.builder.stages",
    "edge.cli.commands",
    "matplotlib.figure",
    "onnxruntime",
    "onnxscript",
    "onnxsim",
    "torch.onnx._internal.exporter._core",
    "transformers.models.auto.modeling_auto",
]


def run_edge(
    words: Sequence[str],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float = 120,
    check: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Run `edge WORDS` to its end. Raises as `subprocess.run` does."""
    context: Any = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    command = ["edge", *words]
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        given = (command, str(cwd or Path.cwd()), dict(os.environ if env is None else env))
        process = context.Process(target=_child, args=(*given, str(out), str(err)))
        process.start()
        process.join(timeout)
        late = process.exitcode is None
        if late:
            process.kill()
            process.join()
        done = subprocess.CompletedProcess(
            command, process.exitcode, out.read_text(), err.read_text()
        )
    if late:
        raise subprocess.TimeoutExpired(command, timeout, done.stdout, done.stderr)
    if check:
        done.check_returncode()
    return done


def _child(command: list[str], cwd: str, env: dict[str, str], out: str, err: str) -> None:
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False, buffering=1)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.argv = command

    from edge.__main__ import main

    main()
