"""The time to preprocess an image on one core, compared with transformers in one run.

    .venv/bin/python -m scripts.bench.preprocess [--rounds 100] [--out FILE.json]

A 1280x720 image becomes the tensor of a ViT (stretched to 224x224, bilinear) and of a CLIP
(shortest edge 224, bicubic, cropped). transformers' PIL processor and both implementations of edge
take turns, from RGB and from NV12. An implementation is timed only if its bytes equal the
processor's. Common shortcuts are timed, too, and their error is measured. The last part is the time
of the first image of a process.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
import torch
from PIL import Image
from rich.console import Console as Terminal
from rich.table import Table
from transformers import CLIPImageProcessorPil, ViTImageProcessorPil

from edge.engine.timing import interleave
from edge.errors import EdgeError
from edge.files.storage import check_target, write_bytes
from edge.preprocess.cpu import Preprocessor, to_rgb
from edge.preprocess.processors import from_processor
from edge.preprocess.surface import Colour, Layout, Matrix, Surface
from edge.sources.gst import gstreamer
from scripts.bench.figures import commit, machine, versions
from scripts.demo.digits import photo

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "docs/measurements/preprocess.json"
WIDTH, HEIGHT, SIDE = 1280, 720, 224
# Makes the C library keep freed memory. Otherwise chance decides in each process whether an image's
# memory is returned to the system each time, which makes transformers half as slow again.
KEEP = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(1 << 30)}
STARTS = 3  # processes whose first image is timed

Pixels: TypeAlias = np.ndarray
Calls: TypeAlias = dict[str, Callable[[], Any]]

PROCESSORS = {"ViT": ViTImageProcessorPil(), "CLIP": CLIPImageProcessorPil()}
PEER = "transformers, array"
PILLOW, NUMBA = "vit-edge, Pillow", "vit-edge, numba"
ALONE = "Pillow's resize alone"
SHORTCUTS = {
    "cv2.INTER_LINEAR": cv2.INTER_LINEAR,
    "cv2.INTER_CUBIC": cv2.INTER_CUBIC,
    "cv2.INTER_AREA": cv2.INTER_AREA,
    "nearest": cv2.INTER_NEAREST,
}


def sample_image() -> Pixels:
    """scikit-learn's two photos, tiled: RGB uint8 [720, 1280, 3]."""
    one, other = photo("china.jpg"), photo("flower.jpg")
    wall = np.concatenate([np.concatenate([one, other], 1), np.concatenate([other, one], 1)])
    return np.ascontiguousarray(wall[:HEIGHT, :WIDTH])


def nv12(pixels: Pixels, matrix: Matrix) -> Surface:
    """The image as NV12. Its bytes are cv2's; `matrix` only labels them."""
    planes = cv2.cvtColor(pixels, cv2.COLOR_RGB2YUV_I420)
    chroma = planes[HEIGHT:].reshape(2, HEIGHT // 2, WIDTH // 2)
    pairs = np.ascontiguousarray(np.moveaxis(chroma, 0, -1)).reshape(HEIGHT // 2, WIDTH)
    return Surface(Layout("NV12", WIDTH, HEIGHT, Colour(matrix)), (planes[:HEIGHT], pairs))


def reference(name: str, pixels: Pixels | Image.Image) -> np.ndarray:
    return PROCESSORS[name](pixels, return_tensors="np")["pixel_values"][0]


def ready(name: str, compiled: bool) -> Preprocessor:
    spec = from_processor(PROCESSORS[name].to_dict(), (SIDE, SIDE))
    return Preprocessor(spec, compiled=compiled)


def shortcut(name: str, pixels: Pixels, interpolation: int) -> np.ndarray:
    """The tensor with the resize done by OpenCV and all other steps exact."""
    spec = ready(name, compiled=False).spec
    (rows, columns), (top, left, height, width), _ = spec.place(*pixels.shape[:2])
    resized = cv2.resize(pixels, (columns, rows), interpolation=interpolation)
    window = resized[top : top + height, left : left + width]
    return np.stack([np.take(row, window[..., c]) for c, row in enumerate(spec.table())])


def cv2_to_rgb(surface: Surface) -> Pixels:
    return cv2.cvtColor(np.concatenate(surface.planes), cv2.COLOR_YUV2RGB_NV12)


def gstreamer_to_rgb(surface: Surface) -> Pixels:
    """Converted by videoconvert with its defaults; caps give it the matrix and the siting."""
    gst = gstreamer()
    caps = (
        f"video/x-raw,format=NV12,width={WIDTH},height={HEIGHT},framerate=1/1,"
        f"colorimetry={surface.layout.colour.matrix},chroma-site=mpeg2"
    )
    pipeline = gst.parse_launch(
        f"appsrc name=in format=time caps={caps} ! videoconvert ! video/x-raw,format=RGB "
        "! appsink name=out sync=false"
    )
    pipeline.set_state(gst.State.PLAYING)
    source = pipeline.get_by_name("in")
    source.push_buffer(gst.Buffer.new_wrapped(np.concatenate(surface.planes).tobytes()))
    source.end_of_stream()
    buffer = pipeline.get_by_name("out").pull_sample().get_buffer()
    data = buffer.extract_dup(0, buffer.get_size())
    pipeline.set_state(gst.State.NULL)
    return np.frombuffer(data, np.uint8).reshape(HEIGHT, WIDTH, 3)


# Measurements.


def same_bytes(name: str, pixels: Pixels, surface: Surface) -> Calls:
    """The implementations of the exact tensor. Exits if one differs from the processor's."""
    image = Image.fromarray(pixels)
    pillow, numba = ready(name, compiled=False), ready(name, compiled=True)
    from_rgb: Calls = {
        PEER: lambda: reference(name, pixels),
        "transformers, PIL image": lambda: reference(name, image),
        PILLOW: lambda: pillow(pixels),
        NUMBA: lambda: numba(pixels),
    }
    from_nv12: Calls = {
        "vit-edge, Pillow, NV12": lambda: pillow(surface),
        "vit-edge, numba, NV12": lambda: numba(surface),
    }
    for calls, source in ((from_rgb, pixels), (from_nv12, to_rgb(surface))):
        expected = reference(name, source).tobytes()
        for what, call in calls.items():
            if call().tobytes() != expected:
                raise SystemExit(f"error: {what} does not make the {name} processor's bytes")
    return from_rgb | from_nv12


def other_bytes(name: str, pixels: Pixels, surface: Surface) -> Calls:
    """Approximations of the tensor, and the resize that transformers and Pillow share."""
    image, spec = Image.fromarray(pixels), ready(name, compiled=False).spec
    rows, columns = spec.place(*pixels.shape[:2]).resized
    calls: Calls = {
        ALONE: lambda: image.resize((columns, rows), spec.resample),
        "cv2's RGB, transformers, NV12": lambda: reference(name, cv2_to_rgb(surface)),
    }
    for what, number in SHORTCUTS.items():
        calls[f"{what}, RGB"] = lambda number=number: shortcut(name, pixels, number)
    return calls


def times(calls: Calls, rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds, and their ratio to transformers' time for an array."""
    taken = interleave(calls, rounds)
    rows = {}
    for name, found in taken.items():
        ms, least = statistics.median(found), min(found)
        rows[name] = {
            "ms": round(ms, 3),
            "ms_min": round(least, 3),
            "ratio": round(ms / statistics.median(taken[PEER]), 3),
            "ratio_min": round(least / min(taken[PEER]), 3),
        }
    return rows


def errors(name: str, pixels: Pixels) -> dict[str, dict[str, float]]:
    """The errors of shortcuts against the processor, in normalised units.

    A conversion to RGB is compared with the standard's, which is the processor's input.
    """
    exact = reference(name, pixels)
    found = {what: (exact, shortcut(name, pixels, n)) for what, n in SHORTCUTS.items()}
    for matrix in ("bt601", "bt709"):
        surface = nv12(pixels, matrix)
        exact = reference(name, to_rgb(surface))
        for what, convert in (
            ("cv2.COLOR_YUV2RGB_NV12", cv2_to_rgb),
            ("videoconvert", gstreamer_to_rgb),
        ):
            found[f"{what}, {matrix}"] = exact, reference(name, convert(surface))
    return {
        what: {
            "max": round(float(np.abs(made - wanted).max()), 4),
            "mean": round(float(np.abs(made - wanted).mean()), 5),
        }
        for what, (wanted, made) in found.items()
    }


FIRST = """
import json, sys, time
import numpy as np
from edge.preprocess.cpu import Preprocessor
from edge.preprocess.spec import Preprocess
from edge.preprocess.surface import FORMATS, Layout, Surface
spec, form, compiled = json.loads(sys.argv[1])
sizes = [FORMATS[form].plane_size(i, 1280, 720) for i in range(FORMATS[form].planes)]
surface = Surface(Layout(form, 1280, 720), tuple(np.zeros(size, np.uint8) for size in sizes))
start = time.perf_counter()
if compiled:
    import edge.preprocess.compiled
imported = time.perf_counter()
Preprocessor(Preprocess.from_dict(spec), compiled=compiled)(surface)
print(json.dumps({"import": imported - start, "call": time.perf_counter() - imported}))
"""


def first_calls() -> dict[str, dict[str, float]]:
    """Seconds for the first image of a process, median of `STARTS` processes.

    Cold happens once after an installation: numba compiles, and keeps the result on disk.
    """
    spec = ready("ViT", compiled=False).spec.to_dict()
    rows = {}
    for form in ("RGB", "NV12"):
        colds, warms = [], []
        for _ in range(STARTS):
            with tempfile.TemporaryDirectory() as cache:
                colds.append(first_call(spec, form, True, cache))
                warms.append(first_call(spec, form, True, cache))
        pillow = [first_call(spec, form, False, os.devnull) for _ in range(STARTS)]
        for name, found in (("cold", colds), ("warm", warms), ("Pillow", pillow)):
            rows[f"{form}, {name}"] = {
                f"{part}_s": round(statistics.median(each[part] for each in found), 3)
                for part in ("import", "call")
            }
    return rows


def first_call(spec: Any, form: str, compiled: bool, cache: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-c", FIRST, json.dumps([spec, form, compiled])],
        env={**os.environ, "NUMBA_CACHE_DIR": cache},
        capture_output=True,
        check=True,
    )
    return dict(json.loads(done.stdout))


def measure(rounds: int) -> dict[str, Any]:
    load = round(os.getloadavg()[0], 2)
    pixels = sample_image()
    surface = nv12(pixels, "bt709")
    timed, wrong = {}, {}
    for name in PROCESSORS:
        calls = same_bytes(name, pixels, surface) | other_bytes(name, pixels, surface)
        timed[name] = times(calls, rounds)
        wrong[name] = errors(name, pixels)
    gst = gstreamer()
    packages = ("transformers", "torch", "numpy", "pillow", "numba", "opencv-python-headless")
    return {
        "machine": machine(),
        "load_before": load,  # of the complete machine, including other programs
        "versions": versions("vit-edge", *packages) | {"GStreamer": gst.version_string()},
        "commit": commit(),
        "picture": f"{WIDTH}x{HEIGHT}",
        "rounds": rounds,
        "times": timed,
        "ratios": {
            name: {
                "pillow_of_transformers": rows[PILLOW]["ratio"],
                "numba_of_transformers": rows[NUMBA]["ratio"],
            }
            for name, rows in timed.items()
        },
        "errors": wrong,
        "first_picture": first_calls(),
    }


def show(figures: dict[str, Any]) -> None:
    terminal = Terminal()
    parts = [
        (f"{name}, {figures['picture']}, one core", rows) for name, rows in figures["times"].items()
    ]
    parts += [
        (f"{name}: off by, in normalised units", rows) for name, rows in figures["errors"].items()
    ]
    parts.append(("The first picture of a process, seconds", figures["first_picture"]))
    for title, rows in parts:
        table = Table("", title=title, title_justify="left")
        for column in next(iter(rows.values())):
            table.add_column(column, justify="right")
        for name, row in rows.items():
            table.add_row(name, *map(str, row.values()))
        terminal.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--out", type=Path, default=OUT, help="default: %(default)s")
    arguments = parser.parse_args()
    if not KEEP.items() <= os.environ.items():  # the C library reads them when a process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **KEEP})
    try:
        check_target(arguments.out)
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        torch.set_num_threads(1)
        cv2.setNumThreads(1)
        figures = measure(arguments.rounds)
        show(figures)
        write_bytes(arguments.out, f"{json.dumps(figures, indent=1)}\n".encode())
    except EdgeError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
