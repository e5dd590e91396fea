"""An RTSP server that sends a video as a network camera would: in real time, on this machine only.

    python scripts/rtsp_server.py VIDEO [--port 8554] [--once] [--user NAME:PASSWORD]
        [--codec h264|h265|jpeg]

Prints the URL when it is ready, and serves until it is interrupted. The file's video is sent
without decoding, over TCP or UDP as the client asks. At its end it starts over; with --once the
stream ends.
"""

from __future__ import annotations

import argparse
import itertools
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstApp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstApp, GstRtspServer  # noqa: E402, F401


@dataclass(frozen=True)
class Codec:
    """Parser, caps and RTP payloader of a codec."""

    parse: str
    caps: str
    pay: str


CODECS = {
    "h264": Codec(
        "h264parse config-interval=-1 ! ",
        "video/x-h264,stream-format=byte-stream,alignment=au",
        "h264parse ! rtph264pay config-interval=-1",
    ),
    "h265": Codec(
        "h265parse config-interval=-1 ! ",
        "video/x-h265,stream-format=byte-stream,alignment=au",
        "h265parse ! rtph265pay config-interval=-1",
    ),
    "jpeg": Codec("", "image/jpeg", "jpegparse ! rtpjpegpay"),
}


@dataclass(frozen=True)
class AccessUnit:
    """One coded frame; times in nanoseconds from the start of the file."""

    data: bytes
    pts: int
    dts: int
    duration: int


def read_units(path: str, codec: Codec) -> list[AccessUnit]:
    """All coded frames of the file's video. Exits with a message if there are none."""
    reader = Gst.parse_launch(
        f"filesrc name=file ! parsebin ! {codec.parse}{codec.caps} ! appsink name=sink sync=false"
    )
    reader.get_by_name("file").set_property("location", path)
    reader.set_state(Gst.State.PLAYING)
    sink, coded = reader.get_by_name("sink"), []
    while (sample := sink.try_pull_sample(5 * Gst.SECOND)) is not None:
        buffer = sample.get_buffer()
        time = sample.get_segment().to_running_time_full
        coded.append(
            AccessUnit(
                buffer.extract_dup(0, buffer.get_size()),
                _signed(*time(Gst.Format.TIME, buffer.pts)),
                _signed(*time(Gst.Format.TIME, buffer.dts)),
                buffer.duration,
            )
        )
    error = reader.get_bus().pop_filtered(Gst.MessageType.ERROR)
    reader.set_state(Gst.State.NULL)
    if error is not None or not coded:
        reason = error.parse_error()[0].message if error else "no frame in it"
        sys.exit(f"rtsp_server: {path} holds no {codec.caps} ({reason})")
    return coded


def _signed(sign: int, value: int) -> int:
    return sign * value


def stream(coded: list[AccessUnit], once: bool) -> Iterator[Gst.Buffer]:
    """The frames as buffers; timestamps continue from one round to the next."""
    length = max(unit.pts + unit.duration for unit in coded)
    # With reordered frames the first DTS is below 0, which a buffer cannot express.
    head_start = max(0, -min(unit.dts for unit in coded))
    for round_ in range(1) if once else itertools.count():
        for unit in coded:
            buffer = Gst.Buffer.new_wrapped(unit.data)
            shift = head_start + round_ * length
            buffer.pts, buffer.dts = unit.pts + shift, unit.dts + shift
            buffer.duration = unit.duration
            yield buffer


def serve(path: str, codec: Codec, port: int, once: bool, user: str | None) -> None:
    coded = read_units(path, codec)
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(
        f"( appsrc name=source format=time block=true max-bytes=200000 caps={codec.caps} "
        f"! {codec.pay} name=pay0 pt=96 )"
    )
    factory.set_shared(True)  # one camera: all clients receive the same stream

    def configure(_factory: Any, media: Any) -> None:
        feed = stream(coded, once)

        def more(source: Any, _wanted: int) -> None:
            buffer = next(feed, None)
            if buffer is None:
                source.emit("end-of-stream")
            else:
                source.emit("push-buffer", buffer)

        media.get_element().get_by_name_recurse_up("source").connect("need-data", more)

    factory.connect("media-configure", configure)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(str(port))
    if user is not None:
        _require(user, server, factory)
    server.get_mount_points().add_factory("/camera", factory)
    if server.attach(None) == 0:
        sys.exit(f"rtsp_server: port {port} is in use; choose another with --port")
    print(f"rtsp://127.0.0.1:{server.get_bound_port()}/camera", flush=True)
    loop = GLib.MainLoop()
    for number in (signal.SIGINT, signal.SIGTERM):
        GLib.unix_signal_add(GLib.PRIORITY_HIGH, number, loop.quit)
    loop.run()


def _require(user: str, server: Any, factory: Any) -> None:
    """Admit only `user`, NAME:PASSWORD."""
    auth, token = GstRtspServer.RTSPAuth(), GstRtspServer.RTSPToken()
    token.set_string(GstRtspServer.RTSP_TOKEN_MEDIA_FACTORY_ROLE, "viewer")
    name, _, password = user.partition(":")
    auth.add_basic(GstRtspServer.RTSPAuth.make_basic(name, password), token)
    server.set_auth(auth)
    access = "viewer, media.factory.access=true, media.factory.construct=true"
    factory.add_role_from_structure(Gst.Structure.new_from_string(access))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("video", help="file with a video stream")
    parser.add_argument("--codec", choices=CODECS, default="h264", help="codec of that stream")
    parser.add_argument("--port", type=int, default=8554, help="0 chooses a free one")
    parser.add_argument("--once", action="store_true", help="end the stream with the file")
    parser.add_argument("--user", metavar="NAME:PASSWORD", help="refuse all other clients")
    options = parser.parse_args()
    Gst.init(None)
    codec = CODECS[options.codec]
    serve(options.video, codec, options.port, options.once, options.user)


if __name__ == "__main__":
    main()
