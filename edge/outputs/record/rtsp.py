"""Labelled video over RTSP: whoever connects sees what the engine sees, and says of it.

Pictures are drawn and encoded only while somebody watches. The server hears this machine alone,
unless the address names another: rtsp://0.0.0.0:8554/NAME is for all who can reach it.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from edge.errors import AddressError, EdgeError, MissingPackage, require
from edge.outputs.record.encoder import buffer_of, caps_of, encoder
from edge.outputs.record.fault_log import FaultLog
from edge.outputs.record.retention import file_name
from edge.preprocess.surface import Layout, Surface
from edge.sources.frame import Frame
from edge.sources.gst import gstreamer
from edge.sources.uris import redact

__all__ = ["Address", "RtspServer", "address"]

_BACKLOG = 4  # pictures that wait for the encoder before more are left out
_JOIN = 5.0  # seconds for the server's thread to end
_TIDY = 5  # seconds between two looks at who has vanished
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_ROLE = "viewer"


@dataclass(frozen=True)
class Address:
    """Where to serve, by whom it may be watched. Not to be printed.

    port  0 takes a free one
    """

    host: str
    port: int
    path: str
    user: str = ""
    password: str = ""


def address(uri: str) -> Address:
    """`rtsp://[USER:PASSWORD@][HOST]:PORT/NAME` in parts; without a host this machine alone.

    Raises AddressError.
    """
    shown = redact(uri)
    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError:
        port = None
    if port is None or not re.fullmatch(r"/[\w.-]+", parts.path):
        raise AddressError(f"--record {shown} is no address to serve at", "write rtsp://:8554/NAME")
    if bool(parts.username) != bool(parts.password):
        raise AddressError(
            f"--record {shown} has a user or a password alone", "write rtsp://USER:PASSWORD@..."
        )
    return Address(
        parts.hostname or "127.0.0.1",
        port,
        parts.path,
        unquote(parts.username or ""),
        unquote(parts.password or ""),
    )


@dataclass
class _Feed:
    """The pipeline of those who watch one source, while there are any."""

    source: Any
    layout: Layout | None = None


class RtspServer:
    """Serves a stream for each source; an `Outlet`. Owns a server and its thread.

    A source's stream is there from its first frame on: at the address, or where there are several
    sources at the address and `/SOURCE`.
    """

    def __init__(
        self,
        where: Address,
        several: bool,
        info: Callable[[str], None],
        warn: Callable[[str], None],
    ):
        """say, warn: are told where streams are, and what is not in them or who may see them.

        Raises AddressError when the port is taken, MissingPackage without what serves.
        """
        self._where, self._several, self._info = where, several, info
        self.lost = 0
        self._fault_log = FaultLog(warn)
        self._feeds: dict[str, _Feed] = {}
        self._served: dict[str, str] = {}
        self._server_types = _rtsp_server()
        self._glib = require("gi.repository.GLib")
        self._encoder = encoder()
        self._context = self._glib.MainContext.new()
        self._loop = self._glib.MainLoop.new(self._context, False)
        self._server = self._server_types.RTSPServer()
        self._server.set_address(where.host)
        self._server.set_service(str(where.port))
        if where.user:
            self._server.set_auth(self._auth())
        if self._server.attach(self._context) == 0:
            raise AddressError(
                f"nothing can be served at {where.host}:{where.port}: it is in use, or not ours",
                "name another port",
            )
        # Who vanished does not say so; who is silent for a minute is forgotten, if one looks.
        self._tidy = self._glib.timeout_source_new_seconds(_TIDY)
        self._tidy.set_callback(self._forget_the_vanished)
        self._tidy.attach(self._context)
        info(f"serving video with {self._encoder.name}{self._encoder.reason}")
        if not where.user and where.host not in _LOOPBACK:
            warn(
                f"whoever reaches {where.host}:{where.port} can watch; to ask for a password: "
                "rtsp://USER:PASSWORD@..."
            )
        self._thread = threading.Thread(target=self._loop.run, name="rtsp server", daemon=True)
        self._thread.start()

    def take(self, frame: Frame, draw: Callable[[], Surface]) -> None:
        if frame.source not in self._served:
            self._serve(frame.source)
        feed = self._feeds.get(frame.source)
        if feed is None:  # nobody watches
            return
        if feed.source.get_property("current-level-buffers") >= _BACKLOG:
            self.lost += 1
            return
        try:
            picture = draw()
        except EdgeError as error:
            self.lost += 1
            self._fault_log.failed(frame.source, error, f"{frame.source} is not shown")
            return
        if picture.layout != feed.layout:
            feed.layout = picture.layout
            feed.source.set_property("caps", caps_of(picture.layout))
        feed.source.emit("push-buffer", buffer_of(picture))

    def end(self, source: str) -> None:
        if mount := self._served.pop(source, None):
            self._server.get_mount_points().remove_factory(mount)
        if feed := self._feeds.pop(source, None):
            feed.source.emit("end-of-stream")

    def close(self) -> None:
        for source in list(self._served):
            self.end(source)
        self._tidy.destroy()
        drop = self._server_types.RTSPFilterResult.REMOVE
        self._server.client_filter(lambda *_: drop)
        self._loop.quit()
        self._thread.join(_JOIN)

    def _serve(self, source: str) -> None:
        """Open the stream of a source to those who ask for it."""
        mount, number = self._where.path, 1
        if self._several or self._served:
            mount = stem = f"{mount}/{file_name(source)}"
            while mount in self._served.values():
                number += 1
                mount = f"{stem}-{number}"
        factory = self._server_types.RTSPMediaFactory()
        factory.set_launch(
            "( appsrc name=source is-live=true format=time do-timestamp=true block=false "
            f"max-bytes=0 ! {self._encoder.elements} ! "
            "rtph264pay name=pay0 pt=96 config-interval=-1 )"
        )
        factory.set_shared(True)  # all who watch a source get one and the same picture
        if self._where.user:
            self._admit(factory)
        factory.connect("media-configure", self._begin, source)
        self._server.get_mount_points().add_factory(mount, factory)
        self._served[source] = mount
        port = self._server.get_bound_port()
        self._info(f"showing {source} at rtsp://{self._where.host}:{port}{mount}")

    def _begin(self, _factory: Any, media: Any, source: str) -> None:
        """The first viewer has come; when the last one goes, the pipeline ends."""
        element = media.get_element()
        feed = _Feed(element.get_by_name_recurse_up("source"))
        self._feeds[source] = feed

        def gone(_media: Any) -> None:
            if self._feeds.get(source) is feed:
                del self._feeds[source]

        media.connect("unprepared", gone)

    def _forget_the_vanished(self, _: object) -> bool:
        self._server.get_session_pool().cleanup()
        return True  # again

    def _auth(self) -> Any:
        """Let in one user. By digest: the password itself never crosses the network."""
        rtsp, gstrtsp = self._server_types, require("gi.repository.GstRtsp")
        auth, token = rtsp.RTSPAuth(), rtsp.RTSPToken()
        auth.set_supported_methods(gstrtsp.RTSPAuthMethod.DIGEST)
        token.set_string(rtsp.RTSP_TOKEN_MEDIA_FACTORY_ROLE, _ROLE)
        auth.add_digest(self._where.user, self._where.password, token)
        return auth

    @staticmethod
    def _admit(factory: Any) -> None:
        access = f"{_ROLE}, media.factory.access=true, media.factory.construct=true"
        factory.add_role_from_structure(gstreamer().Structure.new_from_string(access))


def _rtsp_server() -> Any:
    """The namespace GstRtspServer. Raises MissingPackage with the Debian package to install."""
    gstreamer()
    try:
        require("gi").require_version("GstRtspServer", "1.0")
    except ValueError as error:
        raise MissingPackage(
            f"GStreamer's RTSP server is missing ({error})",
            "run sudo apt install gir1.2-gst-rtsp-server-1.0",
        ) from error
    return require("gi.repository.GstRtspServer")
