"""What an audit takes from a run: its rate with and without one, taking turns.

    .venv/bin/python scripts/bench_audit.py [--rounds 5]

The demo's INT8 engine labels 1280x720 NV12 frames as fast as it can, on one thread, without an
audit, with one of a frame in 500, and with one of a frame in 20: then the auditing process always
has something to do. Prints one JSON object: frames per second, and the share of the rate without.
Needs engines/demo-int8 and demo-fp32 (make demo).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import figures
import numpy as np

from edge.preprocess.surface import Colour, Layout, Surface
from edge.run import loop
from edge.run.engine import Engine
from edge.run.frames import Frame
from edge.run.loop import Feed
from edge.run.parity.audit import Audit
from edge.run.parity.reference import Reference

ENGINES = Path(__file__).resolve().parents[1] / "engines"
FRAMES = 2_000
EVERY = (None, 500, 20)


class Noise:
    """A film of one picture of noise."""

    name, live, dropped, interval = "noise", False, 0, None

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        planes = (rng.integers(0, 256, shape, np.uint8) for shape in ((720, 1280), (360, 1280)))
        self._surface = Surface(Layout("NV12", 1280, 720, Colour(full_range=True)), tuple(planes))
        self._number = 0

    def __enter__(self) -> Noise:
        return self

    def __exit__(self, *_: object) -> None: ...

    def read(self, timeout: float) -> Frame:
        self._number += 1
        return Frame(self.name, self._number, None, time.monotonic(), "system", self._surface)

    def stop(self) -> None: ...


def turn(engine: Engine, reference: Reference, every: int | None) -> dict[str, Any]:
    """Frames per second of a run, frames audited, and milliseconds that a due one held the loop."""
    classes = engine.passport.outputs
    opened = Audit(reference, classes, every, print) if every else None
    with opened or nullcontext() as audit:
        looked: list[float] = []

        def look(*shown: Any) -> None:
            began = time.perf_counter()
            audit.look(*shown)
            looked.append(time.perf_counter() - began)

        feed = Feed("noise", lambda first, wait: Noise())
        measured = loop.run(engine, [feed], [], frames=FRAMES, look=look if audit else None)
    audited = sum(source.frames for source in audit.sources) if audit else 0
    due = sorted(looked)[-audited:] if audited else [0.0]
    return {"fps": measured.fps, "audited": audited, "held_ms": 1e3 * statistics.median(due)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with Engine.open(ENGINES / "demo-int8", "onnxruntime", 1) as engine:
        reference = Reference.find(engine.passport, ENGINES / "demo-fp32")
        turn(engine, reference, None)
        turns = [{every: turn(engine, reference, every) for every in EVERY} for _ in range(rounds)]
    rows = {}
    for every in EVERY:
        mine = [each[every] for each in turns]
        rows[f"1/{every}" if every else "none"] = {
            "fps": round(statistics.median(row["fps"] for row in mine), 1),
            "share": round(
                statistics.median(each[every]["fps"] / each[None]["fps"] for each in turns), 3
            ),
            "audited": sum(row["audited"] for row in mine),
            "held_ms": round(statistics.median(row["held_ms"] for row in mine), 2),
        }
    print(json.dumps({**figures.machine(), "commit": figures.commit(), "audit": rows}, indent=1))


if __name__ == "__main__":
    main()
