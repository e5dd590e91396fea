"""The memory of a run while its cameras come and go, with and without what limits its growth.

    .venv/bin/python -m scripts.bench.heap [--restarts 150] [--out FILE]

An RTSP server with four cameras is killed and started again while four runs read it: as it is,
without returning memory, without sharing heaps, and without either (edge/sources/gst.py). The
resident memory of each run is read when all runs label frames of all cameras again. Prints one JSON
object: megabytes at the beginning, after a fifth of the restarts and at the end, and the growth in
kilobytes per restart over the last four fifths.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from scripts.bench import figures
from tests.chaos import reader
from tests.chaos.command import PATIENCE, Needs, until
from tests.chaos.servers import Cameras

ROOT = Path(__file__).resolve().parents[2]

CAMERAS, FPS = 4, 10
GIVE_BACK = "import edge.sources.source as at; at.trim_heap = lambda: None; "
SHARE = "import edge.sources.gst as at; at._share_arenas = lambda: None; "
WITHOUT = {
    "as it is": "",
    "not given back": GIVE_BACK,
    "heaps not shared": SHARE,
    "neither": GIVE_BACK + SHARE,
}


class Run:
    """`edge run` of these sources, after the code `without`; knows when each was last labelled."""

    def __init__(self, engine: Path, urls: list[str], without: str):
        words = ["run", str(engine), *(word for url in urls for word in ("--source", url))]
        code = f"{without}from edge.__main__ import main; main()"
        self.rss: list[float] = []
        self._latest = dict.fromkeys(urls, 0.0)
        self._process = subprocess.Popen(
            [sys.executable, "-c", code, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._latest[json.loads(line)["source"]] = time.monotonic()

    def labelled_since(self, moment: float) -> bool:
        return min(self._latest.values()) > moment

    def observe(self) -> None:
        self.rss.append(Needs.of(self._process.pid).rss_mb)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(PATIENCE)

    def figures(self) -> dict[str, Any]:
        warm = len(self.rss) // 5
        slope = float(np.polyfit(np.arange(warm, len(self.rss)), self.rss[warm:], 1)[0])
        return {
            "first_mb": self.rss[0],
            "fifth_mb": self.rss[warm],
            "last_mb": self.rss[-1],
            "kb_per_restart": round(slope * 1024, 1),
        }


def await_labels(runs: Iterable[Run], moment: float) -> None:
    """Wait until each run has labelled a frame of every camera after that moment."""
    until(lambda: all(run.labelled_since(moment) for run in runs), "a camera is away", 120)


def measure(engine: Path, restarts: int) -> dict[str, Any]:
    rng = random.Random(0)
    with Cameras(["--cameras", CAMERAS, "--fps", FPS]) as cameras:
        urls = [cameras.url(number) for number in range(CAMERAS)]
        runs = {name: Run(engine, urls, without) for name, without in WITHOUT.items()}
        try:
            returned = 0.0
            for _ in range(restarts):
                await_labels(runs.values(), returned)
                time.sleep(rng.uniform(0.1, 0.5))
                for run in runs.values():
                    run.observe()
                cameras.kill()
                time.sleep(rng.choice([0.1, 0.3, 1.0]))
                returned = cameras.start()
        finally:
            for run in runs.values():
                run.stop()
    return {name: run.figures() for name, run in runs.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--restarts", type=int, default=150)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        runs = measure(reader.build(Path(scratch) / "stamp-reader"), arguments.restarts)
    measured = {
        "command": f"scripts/bench/heap.py --restarts {arguments.restarts}",
        **figures.machine(),
        **figures.versions("numpy", "onnxruntime"),
        "commit": figures.commit(),
        "restarts": arguments.restarts,
        "cameras": CAMERAS,
        "runs": runs,
    }
    figures.put(measured, arguments.out)


if __name__ == "__main__":
    main()
