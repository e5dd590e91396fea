"""What GStreamer's errors mean to the person who gave the URI, and what mends them."""

from __future__ import annotations

import os
import re
import socket
import ssl
from pathlib import Path
from typing import Any

from edge.errors import AccessError, SilenceError, SourceError
from edge.sources.conversions import alternate
from edge.sources.credentials import Access
from edge.sources.gst import gstreamer
from edge.sources.pipelines import GATE, SINK
from edge.sources.uris import address_of, device_of, is_network, is_tls

__all__ = ["explain", "knock", "silence", "trusted_file"]

_TRUSTED = "SSL_CERT_FILE"

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


def explain(
    access: Access, error: Any, debug: str | None = None, *, missing: str = ""
) -> SourceError:
    """What a GStreamer error (GLib.Error, its debug text) means to somebody who gave a source.

    `missing` is the decoder or demuxer that GStreamer looked for in vain, in its own words.
    """
    name, uri = access.name, access.uri
    # A parse error may repeat a property's value, and that may be an address with a password.
    reason = access.hide(error.message).rstrip(".")
    code = error.code if error.domain == "gst-resource-error-quark" else None

    if element := re.match(r'no element "(.+?)"', error.message):
        package = next(to for what, to in _PACKAGES if re.fullmatch(what, element[1]))
        spelling = "check its spelling, or " if uri.startswith("gst:") else ""
        return SourceError(
            f"GStreamer has no element {element[1]}", f"{spelling}run: sudo apt install {package}"
        )
    if "text/" in missing:
        return SourceError(
            f"{name} is a page of text, not a video",
            "look the address of its stream up in the camera's manual",
        )
    if missing:
        return SourceError(
            f"GStreamer has no {missing}, which {name} needs", f"run: sudo apt install {_DECODERS}"
        )
    if is_network(uri):
        return _of_a_stream(access, error, reason, debug or "")
    if uri.startswith(("/dev/", "v4l2://")):
        device = device_of(uri)
        if code == gstreamer().ResourceError.BUSY:
            return SourceError(f"the camera {name} is busy", f"see who: fuser -v {device}")
        if "not-negotiated" in (debug or ""):
            return SourceError(
                f"the camera {name} has no such mode",
                f"see what it offers: v4l2-ctl --list-formats-ext -d {device}",
            )
        return SourceError(
            f"the camera {name} cannot be used ({reason})",
            f"see what it offers: gst-device-monitor-1.0 Video/Source, fuser -v {device}",
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
        return SourceError(f"{name} cannot be shown ({reason})", "use test://ball")
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


def _of_a_stream(access: Access, error: Any, reason: str, debug: str) -> SourceError:
    """What an error of rtspsrc, souphttpsrc or of what follows them means."""
    name, place, resource = access.name, access.place, gstreamer().ResourceError
    code = error.code if error.domain == "gst-resource-error-quark" else None
    if code == resource.NOT_AUTHORIZED and (access.user or access.password):
        return AccessError(
            f"{place} refuses this user name or password",
            "check them; in a URI write %40 for @ and %2F for /, or name them: ${PASSWORD}",
        )
    if code == resource.NOT_AUTHORIZED:
        return AccessError(
            f"{place} asks for a user name and a password",
            "write ://${USER}:${PASSWORD}@HOST/... and export both, or name a netrc file: "
            "--credentials FILE",
        )
    if code == resource.NOT_FOUND:
        return SourceError(
            f"{place} has no stream at this path: {name}", "look the path up in the camera's manual"
        )
    if "any UDP packets" in debug:
        return SourceError(
            f"{place} plays, but none of its UDP packets arrive",
            "let UDP through the firewall, or leave out: --transport udp",
        )
    if "allow more transport protocols" in reason:
        return SourceError(
            f"{place} sends no video this way",
            # Nothing that GStreamer says tells which way it was, or whether it offers any video.
            "try the other way, with --transport udp or without it; or another path of the camera",
        )
    if "multipartdemux" in debug:
        return SourceError(
            f"{name} is no stream of JPEGs",
            "look the address of its MJPEG stream up in the camera's manual",
        )
    if "not-linked" in debug:
        return SourceError(f"{name} has no video stream", "look for another path of the camera")
    if address_of(access.uri) is None:
        return SourceError(
            f"{name} has no valid host and port",
            "write rtsp://HOST:PORT/..., and in a password %2F for /, %3F for ? and %23 for #",
        )
    if code == resource.OPEN_READ and access.uri.startswith("http"):
        return SourceError(f"{place} answers: {reason}", "restart the camera, or try again later")
    return knock(access) or SourceError(
        f"the stream of {place} broke off ({reason})",
        "see what the camera says: edge run --dry-run prints a pipeline to try alone",
    )


def silence(uri: str, name: str, seconds: float, behind: bool) -> SilenceError:
    """What it means that no frame came for so long; `behind`: decoded they were."""
    if behind:
        return SilenceError(
            f"frames of {name} were decoded, and none was converted within {seconds:g} s",
            "see what converts them: edge run --dry-run prints a pipeline to try alone",
        )
    mends = {
        "file": "the file may be cut off: copy it again, whole",
        "gst:": "try the pipeline alone, with gst-launch-1.0",
    }
    return SilenceError(
        f"no frame came from {name} within {seconds:g} s",
        mends.get(uri[:4], "check that the camera is on, and that nothing else uses it"),
    )


def knock(access: Access, timeout: float = 2.0) -> SourceError | None:
    """Why the host of a source cannot be reached; None if it can, or if there is none.

    GStreamer takes long to find out, and does not say: one plain connection is tried, and over TLS
    the certificate is read. timeout: seconds.
    """
    address = address_of(access.uri)
    if address is None:
        return None
    over_tls = is_tls(access.uri)
    trusted = trusted_file() if over_tls else None
    try:
        with socket.create_connection(address, timeout) as connection:
            if over_tls:
                context = ssl.create_default_context(cafile=trusted)
                context.wrap_socket(connection, server_hostname=address[0]).close()
    except ssl.SSLCertVerificationError as error:
        return SourceError(
            f"the certificate of {access.place} is not trusted ({error.verify_message})",
            f"name a PEM file that has it: export {_TRUSTED}=camera.pem; or put it into "
            "/usr/local/share/ca-certificates as .crt, and run: sudo update-ca-certificates",
        )
    except ssl.SSLError as error:
        scheme = access.uri.partition("://")[0]
        return SourceError(
            f"{access.place} does not speak TLS ({error.reason})",
            f"write {scheme[:-1]}:// for {scheme}://",
        )
    except UnicodeError:
        return SourceError(f"{access.place} is no name of a host", "check its spelling")
    except OSError as error:
        return SourceError(
            f"{access.place} cannot be reached ({error.strerror or error})",
            "check its address, its power and the network",
        )
    return None


def trusted_file() -> Path | None:
    """The PEM file that SSL_CERT_FILE names: its certificates are trusted, and not the system's.

    OpenSSL reads it by itself; GStreamer is told. Raises SourceError when it cannot be read.
    """
    named = os.environ.get(_TRUSTED)
    if not named:
        return None
    try:
        ssl.create_default_context(cafile=named)
    except OSError as error:  # ssl.SSLError is one
        raise SourceError(
            f"{_TRUSTED} names {named}, which holds no certificates "
            f"({error.strerror or 'it is no PEM file'})",
            f"name a PEM file, or: unset {_TRUSTED}",
        ) from error
    return Path(named).absolute()
