"""An RTSP server of cameras that stamp their pictures; in a process of its own, to be killed.

    python -m tests.chaos.cameras --cameras 16 --fps 10

Prints its port, and then does what lines on its input say, to all cameras at once:

    size WIDTH HEIGHT   pictures of another size, from the next one on
    fps RATE            pictures a second
    quiet               no more pictures, while connections stay open
    break SHARE         so many of the coded pictures' bytes are made random
    set SECONDS         their clocks go on, or back, by so much, until nobody looks any more
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from dataclasses import dataclass
from typing import Any

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstApp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstApp, GstRtspServer  # noqa: E402, F401

from edge.sources.probes import Buffer, probe_buffers  # noqa: E402
from tests.chaos.stamps import Stamp, now_ms, paint  # noqa: E402

# zerolatency: a picture is sent as soon as it is taken. A keyframe comes each second at 30 fps.
ENCODE = (
    "appsrc name=source caps={caps} is-live=true format=time do-timestamp=true max-buffers=100 "
    "leaky-type=downstream ! "
    "x264enc tune=zerolatency speed-preset=ultrafast threads=1 key-int-max=30 ! "
    "video/x-h264,stream-format=byte-stream,alignment=au ! "
    "breakmydata name=breaker seed=1 skip=2000"
)
PAY = "rtph264pay pt=96 config-interval=-1"


def caps(size: tuple[int, int]) -> str:
    width, height = size
    return f"video/x-raw,format=I420,width={width},height={height},framerate=30/1"


@dataclass
class Playing:
    """A mount's pipeline, from the first client to the last."""

    source: Any
    breaker: Any
    size: tuple[int, int]


class Camera(GstRtspServer.RTSPMediaFactory):  # type: ignore[misc]
    """One mount. Whoever connects joins what is playing; without anybody nothing is encoded."""

    def __init__(self, number: int, options: argparse.Namespace) -> None:
        super().__init__()
        self.number, self.fps, self.netsim = number, options.fps, options.netsim
        self.clock, self.cached = options.clock, options.cached
        self.size, self.broken, self.quiet = (320, 240), 0.0, False
        self.set = 0  # nanoseconds
        self._playing: Playing | None = None
        self._due, self._latest = time.monotonic(), 0
        self.set_shared(True)

    def do_create_element(self, _url: Any) -> Any:
        """The encoder, and the payloader, with the network that `netsim` describes behind it."""
        camera = Gst.parse_bin_from_description(ENCODE.format(caps=caps(self.size)), True)
        network = f" ! netsim {self.netsim}" if self.netsim else ""
        pay = Gst.parse_bin_from_description(PAY + network, True)
        pay.set_name("pay0")  # by this name the server finds it
        media = Gst.Bin.new(None)
        for part in (camera, pay):
            media.add(part)
        camera.link(pay)
        # Asked for from a thread of its own, while this class lives on the main loop's.
        playing = Playing(camera.get_by_name("source"), camera.get_by_name("breaker"), self.size)
        self.set = 0

        def set_(buffer: Buffer) -> bool:
            buffer.pts = max(0, buffer.pts + self.set)
            return True

        probe_buffers(playing.breaker.get_static_pad("src"), set_)
        asked = itertools.count()
        # Nothing is older than the stream: the cache has had the time to fill.
        wait = round(self.cached * 1100)
        playing.source.connect(
            "need-data", lambda *_: next(asked) or GLib.timeout_add(wait, self._begin, playing)
        )
        return media

    def _begin(self, playing: Playing) -> bool:
        """A slow camera, too, has a picture at once for whoever comes."""
        self._playing = playing
        playing.breaker.set_property("probability", self.broken)
        for earlier in range(round(self.cached * self.fps), 0, -1):
            self._shoot(playing, earlier / self.fps)
        self._shoot(playing)
        return False

    def _shoot(self, playing: Playing, ago: float = 0.0) -> None:
        """Take a picture, or bring one that was taken so many seconds ago."""
        width, height = self.size
        if playing.size != self.size:
            playing.source.set_caps(Gst.Caps.from_string(caps(self.size)))
            playing.size = self.size
        colourless = bytes([128]) * (width * height // 2)
        while (taken := now_ms() - round(ago * 1e3)) == self._latest:  # no two are alike
            time.sleep(1e-3)
        self._latest = taken
        picture = paint(Stamp(self.number, self._latest), width, height).tobytes() + colourless
        buffer = Gst.Buffer.new_wrapped(picture)
        if self.clock != 1 or self.cached:  # else it gets the time at which it is pushed
            if (clock := playing.source.get_clock()) is None:
                return  # nobody looks any more
            running = clock.get_time() - playing.source.get_base_time() - ago * Gst.SECOND
            buffer.pts = max(0, round(running * self.clock))
        playing.source.emit("push-buffer", buffer)

    def tick(self) -> bool:
        """Take a picture, and see that the next one is taken in time: none is late for long."""
        if self._playing is not None and not self.quiet:
            self._shoot(self._playing)
        self._due = max(self._due + 1 / self.fps, time.monotonic() - 1)
        GLib.timeout_add(max(0, round((self._due - time.monotonic()) * 1e3)), self.tick)
        return False

    def obey(self, word: str, *numbers: str) -> None:
        if word == "size":
            width, height = numbers
            self.size = int(width), int(height)
        elif word == "fps":
            (rate,) = numbers
            self.fps = float(rate)
        elif word == "quiet":
            self.quiet = True
        elif word == "set":
            (seconds,) = numbers
            self.set += round(float(seconds) * 1e9)
        elif word == "break":
            (share,) = numbers
            self.broken = float(share)
            if self._playing is not None:
                self._playing.breaker.set_property("probability", self.broken)
        else:
            raise ValueError(word)


def allow(user: str, server: Any, cameras: list[Camera]) -> None:
    """Let in only `user`, NAME:PASSWORD."""
    auth, token = GstRtspServer.RTSPAuth(), GstRtspServer.RTSPToken()
    token.set_string(GstRtspServer.RTSP_TOKEN_MEDIA_FACTORY_ROLE, "viewer")
    auth.add_basic(GstRtspServer.RTSPAuth.make_basic(*user.split(":")), token)
    server.set_auth(auth)
    access = "viewer, media.factory.access=true, media.factory.construct=true"
    for camera in cameras:
        camera.add_role_from_structure(Gst.Structure.new_from_string(access))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--cameras", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="the first camera's number")
    parser.add_argument("--fps", type=float, default=30)
    parser.add_argument("--size", type=int, nargs=2, default=(320, 240))
    parser.add_argument("--clock", type=float, default=1, help="the speed of the cameras' own")
    parser.add_argument("--cached", type=float, default=0, help="seconds sent at once, first")
    parser.add_argument("--netsim", default="", help="properties of GStreamer's element")
    parser.add_argument("--user", help="NAME:PASSWORD; everybody else is refused")
    options = parser.parse_args()
    Gst.init(None)
    cameras = [Camera(options.first + number, options) for number in range(options.cameras)]
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(str(options.port))
    if options.user is not None:
        allow(options.user, server, cameras)
    for camera in cameras:
        camera.size = tuple(options.size)
        server.get_mount_points().add_factory(f"/{camera.number}", camera)
        camera.tick()
    if server.attach(None) == 0:
        sys.exit(f"cameras: port {options.port} is in use")
    print(server.get_bound_port(), flush=True)

    def command(*_: object) -> bool:
        line = sys.stdin.readline()
        for camera in cameras if line else []:
            camera.obey(*line.split())
        return bool(line)

    GLib.unix_fd_add_full(GLib.PRIORITY_HIGH, sys.stdin.fileno(), GLib.IOCondition.IN, command)
    GLib.MainLoop().run()


if __name__ == "__main__":
    main()
