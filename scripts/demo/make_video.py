"""The demo's camera video: held-out digits on signs in front of a real photo.

    .venv/bin/python -m scripts.demo.make_video VIDEO.mp4

writes VIDEO.mp4 (1280x720, 30 fps, H.264) and VIDEO.json, the ground truth: each frame's digit.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from pathlib import Path

import cv2
import numpy as np

from scripts.demo.digits import HELD_OUT_PHOTO, paint, photo, split

WIDTH, HEIGHT, FPS = 1280, 720, 30
DIGITS, FRAMES_EACH = 40, 15


def sign(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A dark sign with a light digit, as a camera would see it from nearby: RGB uint8 [H, W, 3]."""
    height = rng.uniform(0.62, 0.8) * HEIGHT
    width = height * rng.uniform(0.7, 0.95) * WIDTH / HEIGHT
    plate = np.empty((int(height * 1.2), int(width * 1.2), 3))
    plate[:] = rng.uniform(0, 80, 3)
    centre = (plate.shape[1] / 2, plate.shape[0] / 2)
    colour = rng.uniform(200, 255, 3)
    drawn = paint(plate, ink, colour, centre, (width, height), rng.uniform(-6, 6))
    return np.clip(np.rint(drawn), 0, 255).astype(np.uint8)


def render(target: Path) -> None:
    """Write the video and its ground truth, beside it as JSON."""
    rng = np.random.default_rng(7)
    _, held = split()
    scene = cv2.resize(photo(HELD_OUT_PHOTO), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    chosen = rng.permutation(len(held.labels))[:DIGITS]
    encode = (
        f"fdsrc fd=0 ! rawvideoparse width={WIDTH} height={HEIGHT} format=rgb framerate={FPS}/1 "
        "! videoconvert ! video/x-raw,format=I420,colorimetry=bt709 "
        "! x264enc speed-preset=veryfast bitrate=6000 key-int-max=30 bframes=0 "
        f"! h264parse ! mp4mux ! filesink name=file"
    )
    words = [*encode.split(), f"location={target}"]
    truth: list[int] = []
    with subprocess.Popen(["gst-launch-1.0", "-q", *words], stdin=subprocess.PIPE) as encoder:
        assert encoder.stdin
        for index in chosen:
            drawn = sign(held.ink[index], rng)
            room = np.array([WIDTH - drawn.shape[1], HEIGHT - drawn.shape[0]])
            start, end = rng.uniform(0, 1, (2, 2)) * room
            for step in range(FRAMES_EACH):
                x, y = np.rint(start + (end - start) * step / FRAMES_EACH).astype(int)
                frame = scene.copy()
                frame[y : y + drawn.shape[0], x : x + drawn.shape[1]] = drawn
                encoder.stdin.write(frame.tobytes())
                truth.append(int(held.labels[index]))
    if encoder.returncode != 0:
        raise SystemExit(f"error: gst-launch-1.0 could not write {target}; see its message above")
    target.with_suffix(".json").write_text(json.dumps({"fps": FPS, "digits": truth}) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("video", type=Path)
    arguments = parser.parse_args()
    arguments.video.parent.mkdir(parents=True, exist_ok=True)
    render(arguments.video.resolve())


if __name__ == "__main__":
    main()
