"""An RTSP server that streams the labelled frames of each source.

Frames are drawn and encoded only while a viewer is connected. By default the server listens on the
loopback address; rtsp://0.0.0.0:8554/NAME makes it reachable from the network.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from edge.errors import AddressError, EdgeError, MissingPackage, require
from edge.files.redaction import redact
from edge.outputs.record.encoder import buffer_of, caps_of, encoder
from edge.outputs.record.fault_log import FaultLog
from edge.outputs.record.retention import file_name
from edge.preprocess.surface import Layout, Surface
from edge.sources.frame import Frame
from edge.sources.gst import gstreamer

__all__ = ["Address", "RtspServer", "address"]

_BACKLOG = 4  # frames that wait for the encoder before more are dropped
_JOIN = 5.0  # seconds for the server's thread to end
_CLEANUP_INTERVAL = 5  # seconds between two checks for expired sessions
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_ROLE = "viewer"


@dataclass(frozen=True)
class Address:
    """Where to serve, and the credentials that viewers need. Do not print it.

    port  0 takes a free one
    """

    host: str
    port: int
    path: str
    user: str = ""
    password: str = ""


def address(uri: str) -> Address:
    """Parse `rtsp://[USER:PASSWORD@][HOST]:PORT/NAME`; the default host is 127.0.0.1.

    Raises AddressError.
    """
    redacted = redact(uri)
    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError:
        port = None
    if port is None or not re.fullmatch(r"/[\w.-]+", parts.path):
        raise AddressError(f"--record {redacted} is not an RTSP address", "write rtsp://:8554/NAME")
    if bool(parts.username) != bool(parts.password):
        raise AddressError(
            f"--record {redacted} has a user name or a password, but not both",
            "write rtsp://USER:PASSWORD@...",
        )
    return Address(
        parts.hostname or "127.0.0.1",
        port,
        parts.path,
        unquote(parts.username or ""),
        unquote(parts.password or ""),
    )


@dataclass
class _Stream:
    """The running pipeline of one source; it exists while somebody watches.

    appsrc  the element that takes the frames
    layout  of the frames, as its caps say; None before the first frame
    """

    appsrc: Any
    layout: Layout | None = None


class RtspServer:
    """Serves one stream per source; a `VideoOutput`. Owns a server and its thread.

    A source's stream is available from its first frame: at the address itself, or, with several
    sources, at the address followed by `/SOURCE`.
    """

    def __init__(
        self,
        where: Address,
        several: bool,
        info: Callable[[str], None],
        warn: Callable[[str], None],
    ):
        """several: add `/SOURCE` to every stream's path. info, warn: called with the URLs of
        streams, and with what is missing from them or who can see them.

        Raises AddressError when the port is taken, MissingPackage without GStreamer's RTSP server
        or without an encoder.
        """
        self._where, self._several, self._info = where, several, info
        self.lost = 0
        self._fault_log = FaultLog(warn)
        self._streams: dict[str, _Stream] = {}
        self._mounts: dict[str, str] = {}  # source -> path
        self._server_types = _rtsp_server()
        self._glib = require("gi.repository.GLib")
        self._encoder = encoder()
        self._context = self._glib.MainContext.new()
        self._loop = self._glib.MainLoop.new(self._context, False)
        self._server = self._server_types.RTSPServer()
        self._server.set_address(where.host)
        self._server.set_service(str(where.port))
        # All clients are served on this server's own thread. A client that another thread closes
        # leaves GStreamer reading a closed connection for ever.
        self._server.get_thread_pool().set_max_threads(0)
        if where.user:
            self._server.set_auth(self._auth())
        if self._server.attach(self._context) == 0:
            raise AddressError(
                f"cannot serve RTSP at {where.host}:{where.port}: the port is in use, or the "
                "address is not one of this machine",
                "choose another port",
            )
        # A viewer may vanish without TEARDOWN. Its session expires after a minute, but the server
        # removes expired sessions only when `cleanup` is called.
        self._cleanup = self._glib.timeout_source_new_seconds(_CLEANUP_INTERVAL)
        self._cleanup.set_callback(self._remove_expired_sessions)
        self._cleanup.attach(self._context)
        info(f"serving video with {self._encoder.name}{self._encoder.reason}")
        if not where.user and where.host not in _LOOPBACK:
            warn(
                f"anyone who can reach {where.host}:{where.port} can watch; to require a password "
                "write rtsp://USER:PASSWORD@..."
            )
        self._thread = threading.Thread(target=self._loop.run, name="rtsp server", daemon=True)
        self._thread.start()

    def take(self, frame: Frame, draw: Callable[[], Surface]) -> None:
        if frame.source not in self._mounts:
            self._serve(frame.source)
        stream = self._streams.get(frame.source)
        if stream is None:  # nobody watches
            return
        if stream.appsrc.get_property("current-level-buffers") >= _BACKLOG:
            self.lost += 1
            return
        try:
            surface = draw()
        except EdgeError as error:
            self.lost += 1
            self._fault_log.failed(frame.source, error, f"{frame.source} is not streamed")
            return
        if surface.layout != stream.layout:
            stream.layout = surface.layout
            stream.appsrc.set_property("caps", caps_of(surface.layout))
        stream.appsrc.emit("push-buffer", buffer_of(surface))

    def end(self, source: str) -> None:
        if mount := self._mounts.pop(source, None):
            self._server.get_mount_points().remove_factory(mount)
        if stream := self._streams.pop(source, None):
            stream.appsrc.emit("end-of-stream")

    def close(self) -> None:
        for source in list(self._mounts):
            self.end(source)
        self._cleanup.destroy()
        last = self._glib.idle_source_new()
        last.set_callback(self._disconnect_clients)
        last.attach(self._context)
        self._thread.join(_JOIN)

    def _disconnect_clients(self, _: Any) -> bool:
        """Called on the server's thread, which ends with it."""
        remove = self._server_types.RTSPFilterResult.REMOVE
        self._server.client_filter(lambda *_: remove)
        self._loop.quit()
        return False

    def _serve(self, source: str) -> None:
        """Publish the stream of a source; its pipeline starts with the first viewer."""
        mount, number = self._where.path, 1
        if self._several or self._mounts:
            mount = stem = f"{mount}/{file_name(source)}"
            while mount in self._mounts.values():
                number += 1
                mount = f"{stem}-{number}"
        factory = self._server_types.RTSPMediaFactory()
        factory.set_launch(
            "( appsrc name=source is-live=true format=time do-timestamp=true block=false "
            f"max-bytes=0 ! {self._encoder.elements} ! "
            "rtph264pay name=pay0 pt=96 config-interval=-1 )"
        )
        factory.set_shared(True)  # one pipeline serves all viewers of a source
        if self._where.user:
            self._require_user(factory)
        factory.connect("media-configure", self._start_stream, source)
        self._server.get_mount_points().add_factory(mount, factory)
        self._mounts[source] = mount
        port = self._server.get_bound_port()
        self._info(f"showing {source} at rtsp://{self._where.host}:{port}{mount}")

    def _start_stream(self, _factory: Any, media: Any, source: str) -> None:
        """Called for the first viewer; the pipeline ends when the last viewer leaves."""
        element = media.get_element()
        stream = _Stream(element.get_by_name_recurse_up("source"))
        self._streams[source] = stream

        def on_unprepared(_media: Any) -> None:
            if self._streams.get(source) is stream:
                del self._streams[source]

        media.connect("unprepared", on_unprepared)

    def _remove_expired_sessions(self, _: object) -> bool:
        self._server.get_session_pool().cleanup()
        return True  # keep the timer running

    def _auth(self) -> Any:
        """Digest authentication of one user: the password itself never crosses the network."""
        rtsp, gstrtsp = self._server_types, require("gi.repository.GstRtsp")
        auth, token = rtsp.RTSPAuth(), rtsp.RTSPToken()
        auth.set_supported_methods(gstrtsp.RTSPAuthMethod.DIGEST)
        token.set_string(rtsp.RTSP_TOKEN_MEDIA_FACTORY_ROLE, _ROLE)
        auth.add_digest(self._where.user, self._where.password, token)
        return auth

    @staticmethod
    def _require_user(factory: Any) -> None:
        access = f"{_ROLE}, media.factory.access=true, media.factory.construct=true"
        factory.add_role_from_structure(gstreamer().Structure.new_from_string(access))


def _rtsp_server() -> Any:
    """The namespace GstRtspServer. Raises MissingPackage, which names the Debian package."""
    gstreamer()
    try:
        require("gi").require_version("GstRtspServer", "1.0")
    except ValueError as error:
        raise MissingPackage(
            f"GStreamer's RTSP server is missing ({error})",
            "run sudo apt install gir1.2-gst-rtsp-server-1.0",
        ) from error
    return require("gi.repository.GstRtspServer")
