"""The cost of an audit and of a recording: rates and ages of runs with and without, in turns.

    .venv/bin/python -m scripts.bench.audit [--rounds 3] [--threads 2] [--out FILE]

The demo's INT8 engine labels the demo's video (1280x720 H.264) alone, with an audit of one frame in
500 and of one in 50, and recorded to a Matroska file. Each in turn, with two sources:

    film     the video at full speed: waiting shows in the rate
    camera   the video at its own 30 frames per second, newest frame first: delays show in the age

`share` is the rate relative to the rate without, in the same round. All figures are medians over
the rounds, except `audited` and `lost`, which are sums. Run make demo first.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from edge.engine.engine import Engine
from edge.outputs.audit.audit import Audit
from edge.outputs.audit.reference import Reference
from edge.outputs.record.recording import record
from edge.run import loop
from edge.run.interfaces import Sink
from edge.sources.camera import Camera
from edge.sources.opening import feed
from scripts.bench import figures

ROOT = Path(__file__).resolve().parents[2]
ENGINES, VIDEO = ROOT / "engines", ROOT / "engines/.cache/demo/camera.mp4"
SOURCES = {"film": Camera(str(VIDEO)), "camera": Camera(str(VIDEO), realtime=True, loop=True)}
FRAMES = {"film": 600, "camera": 450}
EXTRAS = ("alone", "audit 1/500", "audit 1/50", "record")


def turn(engine: Engine, reference: Reference, source: str, extra: str) -> dict[str, Any]:
    """One run: its rate and ages, dropped frames, and the time to copy a frame that is due."""
    sinks: list[Sink] = []
    observed: list[float] = []  # seconds
    audit = None
    with ExitStack() as stack:
        if extra.startswith("audit"):
            every = int(extra.partition("/")[2])
            audit = stack.enter_context(Audit(reference, engine.passport.outputs, every, print))
        elif extra == "record":
            video = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "video.mkv"
            sinks.append(record(str(video), False, threading.Event(), lambda _: None, print))

        def observe(*given: Any) -> None:
            assert audit is not None
            began = time.perf_counter()
            audit.observe(*given)
            observed.append(time.perf_counter() - began)

        measured = loop.run(
            engine,
            [feed(SOURCES[source])],
            sinks,
            frames=FRAMES[source],
            observe=observe if audit else None,
        )
    audited = sum(each.frames for each in audit.sources) if audit else 0
    due = sorted(observed)[-audited:] if audited else [0.0]
    return {
        "fps": measured.fps,
        "age_p50_ms": measured.age_ms["p50"],
        "age_p99_ms": measured.age_ms["p99"],
        "dropped": measured.dropped + measured.stale,
        "audited": audited,
        "held_ms": 1e3 * statistics.median(due),
        "lost": sum(sink.lost for sink in sinks),
    }


def row(rounds: list[dict[str, dict[str, Any]]], extra: str) -> dict[str, Any]:
    """The figures of one extra over all rounds, with one source."""
    mine = [each[extra] for each in rounds]
    shares = [each[extra]["fps"] / each["alone"]["fps"] for each in rounds]
    middle = {
        name: statistics.median(one[name] for one in mine)
        for name in ("fps", "age_p50_ms", "age_p99_ms", "dropped", "held_ms")
    }
    sums = {name: sum(one[name] for one in mine) for name in ("audited", "lost")}
    rounded = {name: float(f"{value:.3g}") for name, value in middle.items()}
    return {"share": round(statistics.median(shares), 3), **rounded, **sums}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with Engine.open(ENGINES / "demo-int8", "onnxruntime", arguments.threads) as engine:
        engine.warm()
        reference = Reference.find(engine.passport, ENGINES / "demo-fp32")
        taken = {
            source: [
                {extra: turn(engine, reference, source, extra) for extra in EXTRAS}
                for _ in range(arguments.rounds)
            ]
            for source in SOURCES
        }
    measured = {
        "command": f"scripts/bench/audit.py --rounds {arguments.rounds}",
        **figures.machine(),
        **figures.versions("numpy", "onnxruntime"),
        "threads": arguments.threads,
        "commit": figures.commit(),
        **{
            source: {extra: row(rounds, extra) for extra in EXTRAS}
            for source, rounds in taken.items()
        },
    }
    figures.put(measured, arguments.out)


if __name__ == "__main__":
    main()
