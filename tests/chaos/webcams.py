"""A web server of cameras that stamp their pictures (MJPEG); in a process of its own, to be killed.

    python -m tests.chaos.webcams --fps 10

Prints its port. It has any camera that is asked for, by its number.
"""

from __future__ import annotations

import argparse
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO

from PIL import Image

from tests.chaos.stamps import Stamp, now_ms, paint

BOUNDARY = "picture"


class Webcam(BaseHTTPRequestHandler):
    """`/3` is the stream of camera 3: its pictures, from now on, until the client has enough."""

    fps = 30.0

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", f"multipart/x-mixed-replace; boundary={BOUNDARY}")
        self.end_headers()
        camera, due = int(self.path[1:]), time.monotonic()
        while True:
            picture = jpeg(Stamp(camera, now_ms()))
            head = f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(picture)}"
            try:
                self.wfile.write(f"{head}\r\n\r\n".encode() + picture + b"\r\n")
            except OSError:
                return
            due = max(due + 1 / self.fps, time.monotonic())
            time.sleep(max(0.0, due - time.monotonic()))

    def log_message(self, *_: object) -> None:
        """Say nothing: stderr is the test's."""


def jpeg(stamp: Stamp) -> bytes:
    """The picture of a stamp, of the size that a camera's have.

    Of two that begin in one packet of 4096 bytes the second would get no time.
    """
    file = BytesIO()
    Image.fromarray(paint(stamp)).save(file, "JPEG", quality=95)
    return file.getvalue() + bytes(8192)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--fps", type=float, default=Webcam.fps)
    options = parser.parse_args()
    Webcam.fps = options.fps
    server = ThreadingHTTPServer(("127.0.0.1", options.port), Webcam)
    server.daemon_threads = True
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
