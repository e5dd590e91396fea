"""What a run's memory does while its cameras come and go, and what keeps it from growing.

    .venv/bin/python -m scripts.bench.heap [--restarts 150] [--out FILE]

An RTSP server with four cameras is killed and started again, and four runs at once play it: as it
is, without memory given back, without heaps being shared, and without either (edge/gst.py). The
resident memory of each is read when all have labelled pictures of all cameras again. Prints one
JSON object: megabytes at first, after a fifth of the restarts and at the end, and how many
kilobytes each restart of the last four fifths has added.
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
GIVE_BACK = "import edge.sources.source as at; at.give_back = lambda: None; "
SHARE = "import edge.sources.gst as at; at._share_arenas = lambda: None; "
WITHOUT = {
    "as it is": "",
    "not given back": GIVE_BACK,
    "heaps not shared": SHARE,
    "neither": GIVE_BACK + SHARE,
}


class Run:
    """`edge run` over these sources, without something; knows when each had its latest result."""

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

    def plays_since(self, moment: float) -> bool:
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


def await_pictures(runs: Iterable[Run], moment: float) -> None:
    """Wait until each has labelled a picture of all cameras after that moment."""
    until(lambda: all(run.plays_since(moment) for run in runs), "a camera is away", 120)


def measure(engine: Path, restarts: int) -> dict[str, Any]:
    dice = random.Random(0)
    with Cameras(["--cameras", CAMERAS, "--fps", FPS]) as cameras:
        urls = [cameras.url(number) for number in range(CAMERAS)]
        runs = {name: Run(engine, urls, without) for name, without in WITHOUT.items()}
        try:
            returned = 0.0
            for _ in range(restarts):
                await_pictures(runs.values(), returned)
                time.sleep(dice.uniform(0.1, 0.5))
                for run in runs.values():
                    run.observe()
                cameras.kill()
                time.sleep(dice.choice([0.1, 0.3, 1.0]))
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
