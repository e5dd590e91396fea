"""What GStreamer's errors mean to the person who gave the URI, and what mends them."""

from __future__ import annotations

import re
import socket
from typing import Any
from urllib.parse import urlsplit

from edge.errors import AccessError, SourceError
from edge.gst import gstreamer
from edge.run.remarks import alternate
from edge.run.uris import GATE, SINK, authority, device_of, redact

__all__ = ["explain"]

# Which Debian package holds an element; the first pattern that matches names it.
_PACKAGES = (
    (r"nv.*", "nvidia-l4t-gstreamer (on a Jetson)"),
    (r"avdec_.*", "gstreamer1.0-libav"),
    (r"x264enc|x265enc", "gstreamer1.0-plugins-ugly"),
    (r"rtspsrc|v4l2src|.*demux|rtp.*|jpegdec|udpsrc|souphttpsrc", "gstreamer1.0-plugins-good"),
    (r"h26[45]parse|jpegparse|srtsrc|watchdog|shm.*", "gstreamer1.0-plugins-bad"),
    (r".*", "gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad"),
)
_DECODERS = "gstreamer1.0-libav gstreamer1.0-plugins-good gstreamer1.0-plugins-bad"


def explain(uri: str, error: Any, debug: str | None = None, *, missing: str = "") -> SourceError:
    """What a GStreamer error (GLib.Error, its debug text) means to somebody who gave `uri`.

    `missing` is the decoder or demuxer that GStreamer looked for in vain, in its own words.
    """
    name = redact(uri)
    # A parse error may repeat a property's value, and that may be an address with a password.
    reason = redact(error.message).rstrip(".")
    resource = gstreamer().ResourceError
    code = error.code if error.domain == "gst-resource-error-quark" else None

    if element := re.match(r'no element "(.+?)"', error.message):
        package = next(to for what, to in _PACKAGES if re.fullmatch(what, element[1]))
        return SourceError(
            f"GStreamer has no element {element[1]}", f"run: sudo apt install {package}"
        )
    if missing:
        return SourceError(
            f"GStreamer has no {missing}, which {name} needs", f"run: sudo apt install {_DECODERS}"
        )
    if uri.startswith("rtsp://"):
        if code == resource.NOT_AUTHORIZED:
            return AccessError(
                f"the camera at {authority(uri)} refuses this user name or password",
                "write rtsp://USER:PASSWORD@HOST/..., with %40 for an @ in the password",
            )
        if code == resource.NOT_FOUND:
            return SourceError(
                f"the camera at {authority(uri)} has no stream at this path: {name}",
                "look the path up in the camera's manual",
            )
        return _unreachable(uri, reason)
    if uri.startswith(("/dev/", "v4l2://")):
        if code == resource.BUSY:
            return SourceError(f"the camera {name} is busy", f"see who: fuser -v {device_of(uri)}")
        return SourceError(
            f"the camera {name} cannot be used ({reason})",
            f"see what it offers: gst-device-monitor-1.0 Video/Source, fuser -v {device_of(uri)}",
        )
    if uri.startswith("csi://"):
        return SourceError(
            f"the camera {name} cannot be used ({reason})",
            "check its cable, and run: sudo systemctl restart nvargus-daemon",
        )
    if uri.startswith("file://"):
        if error.domain == "gst_parse_error" or "not-linked" in (debug or ""):
            reason = "it has no video stream"
        return SourceError(
            f"{name} is not a video ({reason})",
            "copy it again, whole, or convert it: ffmpeg -i FILE out.mp4",
        )
    if uri.startswith("test://"):
        return SourceError(f"{name} is no test picture ({reason})", "use test://ball")
    alone = name.removeprefix("gst:").strip()
    # What a pipeline says of itself is found before it runs, and told as a failure to link.
    if "alternate" in uri and re.search(rf"link .*\b({SINK}|{GATE} to)\b", reason):
        return alternate(name)
    # Nothing is converted for a GPU: see `pipeline`.
    if f"could not link {GATE} to capsfilter" in reason:
        return SourceError(
            f"the pipeline {name} ends in pictures that the GPU does not read",
            "end it with: videoconvert ! video/x-raw,format=NV12",
        )
    return SourceError(
        f"the pipeline {name} fails ({reason})",
        f"try it alone: gst-launch-1.0 -v {alone} ! fakesink",
    )


def _unreachable(uri: str, reason: str) -> SourceError:
    """Why nothing comes from `uri`: GStreamer does not say, so one plain connection is tried."""
    try:
        address = urlsplit(f"rtsp://{authority(uri)}")
        host, port = address.hostname or "", address.port or 554
    except ValueError:
        return SourceError(
            f"{redact(uri)} has no valid host and port", "write rtsp://HOST:PORT/..."
        )
    try:
        socket.create_connection((host, port), timeout=2.0).close()
    except OSError as error:
        return SourceError(
            f"the camera at {host}:{port} cannot be reached ({error.strerror or error})",
            "check its address, its power and the network",
        )
    return SourceError(
        f"the stream from {host}:{port} broke off ({reason})",
        f"try it alone: gst-launch-1.0 -v uridecodebin uri='{redact(uri)}' ! fakesink",
    )
