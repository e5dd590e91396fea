"""An RTSP camera of several streams; in a process of its own.

    python -m tests.sources.streams sound 320x240 640x480
    python -m tests.sources.streams --tls certificate.pem key.pem 320x240

Its description offers sound, and videos of these sizes, in this order. Prints its URL, and then the
number of each stream that a client asks for.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SOUND = "audiotestsrc is-live=true ! alawenc ! rtppcmapay name={name} pt=8"
VIDEO = (
    "videotestsrc is-live=true ! video/x-raw,width={width},height={height},framerate=15/1 ! "
    "x264enc tune=zerolatency speed-preset=ultrafast key-int-max=15 ! "
    "rtph264pay name={name} pt=96 config-interval=1"
)


@contextmanager
def camera_of(*streams: str) -> Iterator[tuple[str, list[str]]]:
    """Serve these streams; yields the URL, and a list that has the numbers asked for at the end."""
    asked: list[str] = []
    command = [sys.executable, "-m", __name__, *streams]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().strip(), asked
        finally:
            server.kill()
            asked += server.stdout.read().split()


def over_tls(server: Any, factory: Any, certificate: str, key: str) -> None:
    """Have a server speak TLS, to anybody."""
    from gi.repository import Gio, Gst, GstRtspServer

    auth = GstRtspServer.RTSPAuth()
    auth.set_tls_certificate(Gio.TlsCertificate.new_from_files(certificate, key))
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", "anybody")
    auth.set_default_token(token)
    role = "anybody, media.factory.access=(boolean)true, media.factory.construct=(boolean)true"
    factory.add_role_from_structure(Gst.Structure.from_string(role)[0])
    server.set_auth(auth)


def main(*streams: str) -> None:
    import gi

    gi.require_version("Gst", "1.0")
    gi.require_version("GstRtspServer", "1.0")
    from gi.repository import GLib, Gst, GstRtspServer

    Gst.init(None)
    tls, streams = (streams[1:3], streams[3:]) if streams[0] == "--tls" else ((), streams)
    parts = []
    for number, stream in enumerate(streams):
        width, _, height = stream.partition("x")
        launch = SOUND if stream == "sound" else VIDEO
        parts.append(launch.format(name=f"pay{number}", width=width, height=height))
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(f"( {' '.join(parts)} )")
    factory.set_shared(True)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service("0")
    if tls:
        over_tls(server, factory, *tls)
    server.get_mount_points().add_factory("/camera", factory)

    def setup(_client: Any, context: Any) -> None:
        print(context.uri.abspath.rpartition("=")[2], flush=True)  # /camera/stream=1

    server.connect("client-connected", lambda _, client: client.connect("setup-request", setup))
    server.attach(None)
    print(f"{'rtsps' if tls else 'rtsp'}://127.0.0.1:{server.get_bound_port()}/camera", flush=True)
    GLib.MainLoop().run()


if __name__ == "__main__":
    main(*sys.argv[1:])
