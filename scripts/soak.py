"""Soak test: does a run of several hundred thousand frames with failing cameras grow?

    .venv/bin/python -m scripts.soak [--frames 200000] [--out DIR]

Four sources feed one tiny engine in one process: GStreamer pipelines that end or fail every
thousand frames and are built again, and a source in Python that raises. Resident memory, open files
and threads are sampled every few hundred frames. Writes soak.json and soak.png into DIR. Exits with
1 if memory grows significantly and by more than a few bytes per frame, or if files or threads do.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge.engine.engine import Engine
from edge.errors import SourceError
from edge.preprocess.surface import Layout, Surface
from edge.run import loop
from edge.run.interfaces import Result, Sink
from edge.sources.camera import Camera
from edge.sources.feeds import Feed
from edge.sources.frame import Frame
from edge.sources.source import Source
from scripts.bench import figures

ROOT = Path(__file__).resolve().parents[1]
FRAMES, PERIOD = 200_000, 1_000  # in total; of a source until it ends or fails
SAMPLES = 1_000  # of a complete run
WARM_UP = 0.2  # share of the run in which caches fill; it is not evaluated
BLOCKS, T = (
    20,
    2.101,
)  # block means are nearly independent; Student's t, 18 d.o.f., 95 %
MATERIAL = 8.0  # bytes per frame: 1.6 MB in this run, 1 GB in two months with one camera
CAPS = "video/x-raw,format=NV12,width=64,height=48,framerate=1000/1"


@dataclass(frozen=True)
class Sample:
    """State of the process after `frames` frames: resident bytes, open files, threads."""

    frames: int
    rss: int
    files: int
    threads: int

    @staticmethod
    def now(frames: int) -> Sample:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        files, threads = (len([*Path(f"/proc/self/{name}").iterdir()]) for name in ("fd", "task"))
        return Sample(frames, pages * os.sysconf("SC_PAGE_SIZE"), files, threads)


@dataclass(frozen=True)
class Trend:
    """Growth per frame, with its 95 % confidence interval."""

    slope: float
    low: float
    high: float

    @staticmethod
    def of(frames: Sequence[float], values: Sequence[float]) -> Trend:
        """Least squares over block means, since neighbouring samples are correlated."""
        x, y = (
            np.array([block.mean() for block in np.array_split(np.array(each, float), BLOCKS)])
            for each in (frames, values)
        )
        x -= x.mean()
        slope = float(x @ y / (x @ x))
        rest = y - y.mean() - slope * x
        error = T * float(np.sqrt(rest @ rest / (BLOCKS - 2) / (x @ x)))
        return Trend(slope, slope - error, slope + error)


@dataclass(frozen=True)
class Verdict:
    """Growth of memory per frame, and of open files and threads from beginning to end."""

    rss: Trend
    files: float
    threads: float

    @staticmethod
    def of(samples: Sequence[Sample]) -> Verdict:
        """Evaluate the samples after the warm-up."""
        evaluated = samples[int(len(samples) * WARM_UP) :]
        quarter = len(evaluated) // 4
        first, last = evaluated[:quarter], evaluated[-quarter:]

        def more(name: str) -> float:
            # Medians: while a source is being opened there are a few more.
            after, before = (
                statistics.median(getattr(sample, name) for sample in part)
                for part in (last, first)
            )
            return after - before

        frames = [sample.frames for sample in evaluated]
        rss = Trend.of(frames, [sample.rss for sample in evaluated])
        return Verdict(rss, more("files"), more("threads"))

    @property
    def grows(self) -> bool:
        return (
            (self.rss.low > 0 and self.rss.slope > MATERIAL) or self.files > 0 or self.threads > 0
        )


class Sampler(Sink):
    """Samples the process every few results; its own memory is allocated at the start."""

    def __init__(self, frames: int):
        self._every, self._frames = max(1, frames // SAMPLES), 0
        self._rows = np.full((frames // self._every, 4), -1)

    def write(self, result: Result) -> None:
        self._frames += 1
        if self._frames % self._every == 0:
            sample = Sample.now(self._frames)
            self._rows[self._frames // self._every - 1] = astuple(sample)

    def samples(self) -> list[Sample]:
        return [Sample(*row) for row in self._rows.tolist()]


class Numpy:
    """A source in Python that is never slower than its reader and fails after `period` frames."""

    live, link, dropped, interval = False, "local", 0, None

    def __init__(self, name: str, first: int, period: int):
        self.name = name
        self._next, self._end = first, first + period
        self._planes = (np.full((48, 64), 90, np.uint8), np.full((24, 64), 128, np.uint8))

    def __enter__(self) -> Numpy:
        return self

    def __exit__(self, *_: object) -> None: ...

    def spacing(self, interval: float) -> float:
        return interval

    def read(self, timeout: float) -> Frame:
        if self._next == self._end:
            raise SourceError("the cable is out", "put it in")
        surface = Surface(Layout("NV12", 64, 48), tuple(plane.copy() for plane in self._planes))
        frame = Frame(self.name, self._next, None, time.monotonic(), "system", surface)
        self._next += 1
        return frame

    def stop(self) -> None: ...


def feeds(period: int, openings: Counter[str]) -> list[Feed]:
    """Four sources: one that starts over, one that ends, one that fails, one that raises."""
    pipelines = {
        # A video that is read in a loop.
        "film": f"gst:videotestsrc num-buffers={period} ! {CAPS}",
        # Cameras that disconnect or fail: they are reconnected after the backoff.
        "leaves": f"gst:videotestsrc is-live=true num-buffers={period} ! {CAPS}",
        "breaks": f"gst:videotestsrc is-live=true ! {CAPS} ! identity error-after={period}",
    }

    def opener(name: str) -> Callable[[int, float], Any]:
        def open_(first: int, wait: float) -> Any:
            openings[name] += 1
            if name not in pipelines:
                return Numpy(name, first, period)
            return Source(Camera(pipelines[name], name), first=first, wait=wait)

        return open_

    cameras = [Feed(name, opener(name), live=True) for name in ("leaves", "breaks", "raises")]
    return [Feed("film", opener("film"), loop=True), *cameras]


def make_engine(folder: Path) -> None:
    """Build the smallest possible ViT with random weights. Runs in a child process, since torch
    would keep its memory."""
    from PIL import Image
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

    from edge.builder.pipeline import build
    from edge.builder.recipes import Recipe
    from edge.cli.console import Console

    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
    config = ViTConfig(image_size=32, patch_size=16, num_hidden_layers=1, num_labels=4, **sizes)
    ViTForImageClassification(config).save_pretrained(folder / "vit")
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder / "vit")
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    for number in range(20):
        pixels = rng.integers(0, 256, (40, 40, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"images/{number}.png")
    recipe = Recipe(str(folder / "vit"), folder / "images", precision="fp32", name="tiny")
    build(Recipe(**{**recipe.__dict__, "engines": folder, "gate": False}), Console())


def soak(
    engine: Engine, frames: int, period: int, *more: Sink
) -> tuple[list[Sample], Counter[str], loop.Summary]:
    """Run the sources through the loop.

    Returns the samples, how often each source was opened, and the summary of the run."""
    sampler, openings = Sampler(frames), Counter[str]()
    summary = loop.run(engine, feeds(period, openings), [sampler, *more], frames=frames)
    return sampler.samples(), openings, summary


def plot(samples: Sequence[Sample], verdict: Verdict, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    memory, files, threads = figure.subplots(3, 1, sharex=True, height_ratios=(3, 1, 1))
    frames = np.array([sample.frames for sample in samples])
    rss, begin = verdict.rss, int(len(samples) * WARM_UP)
    base = samples[begin].rss
    memory.plot(frames, [(sample.rss - base) / 1024 for sample in samples], linewidth=0.8)
    evaluated = np.array([sample.rss for sample in samples[begin:]])
    x = frames[begin:] - frames[begin:].mean()
    memory.plot(frames[begin:], (evaluated.mean() - base + rss.slope * x) / 1024, linewidth=0.8)
    memory.set_ylabel(f"resident memory, KiB\nabove {base / 2**20:.0f} MiB")
    memory.set_title(
        f"{rss.slope:+.2f} bytes per frame, 95 % of {rss.low:+.2f} to {rss.high:+.2f}; "
        "the grey part is not evaluated",
        fontsize="medium",
    )
    for axis, name in ((files, "files"), (threads, "threads")):
        counts = [getattr(sample, name) for sample in samples]
        axis.plot(frames, counts, linewidth=0.8)
        axis.set_ylim(0, 1.2 * max(counts))
        axis.set_ylabel(name)
    for axis in (memory, files, threads):
        axis.axvspan(0, frames[begin], color="0.92")
    threads.set_xlabel("frames")
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=int, default=FRAMES)
    parser.add_argument("--period", type=int, default=PERIOD, help="frames until a source goes")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "measurements")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        context = multiprocessing.get_context("spawn")
        maker = context.Process(target=make_engine, args=(Path(scratch),))
        maker.start()
        maker.join()
        with Engine.open(Path(scratch) / "tiny", "onnxruntime", 1) as engine:
            samples, openings, summary = soak(engine, arguments.frames, arguments.period)
    verdict = Verdict.of(samples)
    kept = samples[:: max(1, len(samples) // 100)]
    measured = {
        **figures.machine(),
        **figures.versions("numpy", "onnxruntime"),
        "commit": figures.commit(),
        "frames": summary.frames,
        "seconds": summary.seconds,
        "openings": dict(openings),
        "bytes_per_frame": asdict(verdict.rss),
        "more_files": verdict.files,
        "more_threads": verdict.threads,
        "grows": verdict.grows,
        "samples": [asdict(sample) for sample in kept],
    }
    (arguments.out / "soak.json").write_text(json.dumps(measured, indent=1) + "\n")
    plot(samples, verdict, arguments.out / "soak.png")
    print(json.dumps({name: value for name, value in measured.items() if name != "samples"}))
    sys.exit(verdict.grows)


if __name__ == "__main__":
    main()
