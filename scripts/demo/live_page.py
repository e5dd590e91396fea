"""The picture of the live page in the documentation, from a real run of the demo's engine.

    make demo && .venv/bin/python -m scripts.demo.live_page docs/live.png

Four RTSP cameras on this machine play the demo's video, one of them fails, and Chromium takes the
picture.
"""

from __future__ import annotations

import argparse
import io
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path

from PIL import Image

from scripts.demo.run import DATA, EDGE, ROOT
from tests.outputs.web.chromium import Browser

ENGINE = ROOT / "engines/demo-int8"
CAMERAS = ("entrance", "yard", "gate", "dock")
SIZE = (1920, 1080)  # CSS pixels of the browser's window
WIDTH = 1280  # pixels of the picture
PORT = 8097
RULE = "label=7 and confidence>0.9 for 0.3s"


def camera(stack: ExitStack, name: str) -> tuple[str, subprocess.Popen[str]]:
    """Start an RTSP camera; the lines of its `[[camera]]` table, and its process."""
    command = [sys.executable, ROOT / "scripts/rtsp_server.py", DATA / "camera.mp4", "--port", "0"]
    server = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    stack.callback(server.kill)
    assert server.stdout is not None
    url = server.stdout.readline().strip()
    return f'[[camera]]\nsource = "{url}"\nname = "{name}"\n', server


def screenshot(path: Path) -> None:
    """Write what Chromium shows of the page, once all cameras are shown and one has failed."""
    with tempfile.TemporaryDirectory() as profile, closing(Browser(Path(profile))) as browser:
        browser.look_like(*SIZE)
        browser.open(f"http://127.0.0.1:{PORT}/")
        shown = "[...document.querySelectorAll('article img')].filter((image) => !image.hidden)"
        browser.until(f"{shown}.length === {len(CAMERAS)}")
        time.sleep(3)
        image = Image.open(io.BytesIO(browser.screenshot())).convert("RGB")
    height = round(WIDTH * image.height / image.width)
    image.resize((WIDTH, height), Image.Resampling.LANCZOS).save(path, optimize=True)


def main() -> None:
    """Entry point: see the module's docstring."""
    parser = argparse.ArgumentParser(description="Write the picture of the live page.")
    parser.add_argument("path", type=Path)
    path = parser.parse_args().path.absolute()
    if not (ENGINE / "passport.json").is_file():
        raise SystemExit(f"{ENGINE} does not exist; run: make demo")
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        config, servers = Path(folder, "run.toml"), []
        text = f'engine = "{ENGINE}"\nweb = "127.0.0.1:{PORT}"\n'
        text += f'on = ["{RULE}"]\nsnapshots = "{folder}/snapshots"\n'
        for name in CAMERAS:
            table, server = camera(stack, name)
            text += table
            servers.append(server)
        config.write_text(text)
        run = subprocess.Popen([EDGE, "run", "--config", config], stdout=subprocess.DEVNULL)
        time.sleep(45)
        servers[-1].kill()
        time.sleep(8)
        screenshot(path)
        run.send_signal(signal.SIGINT)
        run.wait()


if __name__ == "__main__":
    main()
