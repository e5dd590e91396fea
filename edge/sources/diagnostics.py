"""`explain`: GStreamer errors and unreachable hosts as SourceErrors with a hint."""

from __future__ import annotations

import http
import os
import re
import socket
import ssl
from pathlib import Path
from typing import Any

from edge.errors import AccessError, SilenceError, SourceError
from edge.files.reading import check_regular
from edge.sources.conversions import alternate_error
from edge.sources.credentials import Access
from edge.sources.gst import gstreamer
from edge.sources.pipelines import GATE, SINK
from edge.sources.uris import address_of, device_of, is_live, is_network, is_tls

__all__ = ["connection_error", "explain", "no_times", "stall_error", "trusted_file"]

_TRUSTED = "SSL_CERT_FILE"

# The Debian package of an element, by the first pattern that matches.
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
    """The SourceError for a GStreamer error (GLib.Error and its debug text) of a source.

    missing: the decoder or demuxer that GStreamer did not find, by its own description.
    """
    name, uri = access.name, access.uri
    # A parse error may contain the value of a property, such as an address with a password.
    reason = access.redact(error.message).rstrip(".")
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
            "find the address of its stream in the camera's manual",
        )
    if missing:
        return SourceError(
            f"GStreamer has no {missing}, which {name} needs", f"run: sudo apt install {_DECODERS}"
        )
    if is_network(uri):
        return _explain_network_error(access, error, reason, debug or "")
    if uri.startswith(("/dev/", "v4l2://")):
        device = device_of(uri)
        if code == gstreamer().ResourceError.BUSY:
            return SourceError(f"the camera {name} is busy", f"see who: fuser -v {device}")
        if "not-negotiated" in (debug or ""):
            return SourceError(
                f"the camera {name} does not have this mode",
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
            "copy it again, or convert it: ffmpeg -i FILE out.mp4",
        )
    if uri.startswith("test://"):
        return SourceError(f"{name} cannot be shown ({reason})", "use test://ball")
    description = name.removeprefix("gst:").strip()
    # A mismatch that the pipeline's own caps show is found before it runs, as a failure to link.
    if "alternate" in uri and re.search(rf"link .*\b({SINK}|{GATE} to)\b", reason):
        return alternate_error(name)
    # Nothing is converted for a GPU: see `pipeline`.
    if f"could not link {GATE} to capsfilter" in reason:
        return SourceError(
            f"the pipeline {name} ends in a format that the GPU does not read",
            "end it with: videoconvert ! video/x-raw,format=NV12",
        )
    return SourceError(
        f"the pipeline {name} fails ({reason})",
        f"test it alone: gst-launch-1.0 -v {description} ! fakesink",
    )


def _explain_network_error(access: Access, error: Any, reason: str, debug: str) -> SourceError:
    """The SourceError for an error of rtspsrc, souphttpsrc, or the elements after them."""
    name, camera, resource = access.name, access.camera, gstreamer().ResourceError
    code = error.code if error.domain == "gst-resource-error-quark" else None
    if status := _status(debug):
        return _explain_status(access, status)
    if code == resource.NOT_AUTHORIZED:
        return _explain_status(access, http.HTTPStatus.UNAUTHORIZED)
    if code == resource.NOT_FOUND:
        return _explain_status(access, http.HTTPStatus.NOT_FOUND)
    if "any UDP packets" in debug:
        return SourceError(
            f"{camera} is connected, but none of its UDP packets arrive",
            "allow UDP in the firewall, or omit: --transport udp",
        )
    if "allow more transport protocols" in reason:
        return SourceError(
            f"{camera} sends no video over this transport",
            # GStreamer does not report which transport it was, or whether there is any video.
            "try again with --transport udp, or without it; or use another path of the camera",
        )
    is_web_camera = access.uri.startswith("http") and is_live(access.uri)
    if is_web_camera and re.search("multipartdemux|typefind|not-linked|jpegparse", debug):
        known = f"{reason}, " if "/" in reason and "typefind" in debug else ""
        return SourceError(
            f"{name} is {known}not an MJPEG stream",
            "find the address of its MJPEG stream in the camera's manual; other streams need a "
            "pipeline: --source 'gst:souphttpsrc location=URL is-live=true do-timestamp=true ! "
            "decodebin'",
        )
    if "not-linked" in debug:
        return SourceError(f"{name} has no video stream", "use another path of the camera")
    if address_of(access.uri) is None:
        return SourceError(
            f"{name} has no valid host and port",
            "write rtsp://HOST:PORT/..., and in a password %2F for /, %3F for ? and %23 for #",
        )
    return connection_error(access) or SourceError(
        f"the stream of {camera} was interrupted ({reason})",
        "test the camera alone, with the pipeline that edge run --dry-run prints",
    )


_UNSUPPORTED_TRANSPORT = 461  # of RTSP


def _status(debug: str) -> int | None:
    """The status code of a camera's reply in GStreamer's debug text; None without one.

    >>> _status("gstrtspsrc.c(6954): gst_rtspsrc_send (): /...:\\nService Unavailable (503)")
    503
    >>> _status("gstrtspsrc.c(7867): ...:\\nError (403): Forbidden")
    403
    >>> _status("gstsouphttpsrc.c(1542): ...:\\nForbidden (403), URL: http://h/(404)")
    403
    """
    found = re.search(r"\n[^\n]*?\(([345]\d\d)\)", debug)
    return int(found[1]) if found and int(found[1]) != _UNSUPPORTED_TRANSPORT else None


def _explain_status(access: Access, status: int) -> SourceError:
    """The SourceError for a reply of a camera that is no stream."""
    camera = access.camera
    if status in (http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.PROXY_AUTHENTICATION_REQUIRED):
        if access.user or access.password:
            return AccessError(
                f"{camera} refuses this user name or password",
                "check them; in a URI write %40 for @ and %2F for /, or use a variable: "
                "${PASSWORD}",
            )
        return AccessError(
            f"{camera} requires a user name and a password",
            "write ://${USER}:${PASSWORD}@HOST/... and export both, or use a netrc file: "
            "--credentials FILE",
        )
    if status in (http.HTTPStatus.NOT_FOUND, http.HTTPStatus.GONE):
        return SourceError(
            f"{camera} has no stream at this path: {access.name}",
            "find the path in the camera's manual",
        )
    hints = {
        403: "allow this user, or this computer's address, in the settings of the camera",
        453: "close other viewers of the camera, or choose its stream with the lower bit rate",
        503: "close other viewers of the camera; if it is starting, wait",
    }
    default = "restart the camera" if status >= 500 else "check the path in the camera's manual"
    phrase = _PHRASES.get(status, "")
    return SourceError(
        f"{camera} answers {f'{status} {phrase}'.rstrip()}", hints.get(status, default)
    )


# The reason phrases of HTTP, and those that RTSP adds (RFC 2326, section 7.1.1).
_PHRASES = {int(status): status.phrase for status in http.HTTPStatus} | {
    452: "Conference Not Found",
    453: "Not Enough Bandwidth",
    454: "Session Not Found",
    455: "Method Not Valid in This State",
    456: "Header Field Not Valid for Resource",
    457: "Invalid Range",
    459: "Aggregate Operation Not Allowed",
    460: "Only Aggregate Operation Allowed",
    551: "Option Not Supported",
}


def no_times(name: str) -> SourceError:
    """The error for a video that is to be read at its own speed and does not know it."""
    return SourceError(
        f"the frames of {name} have no times, so --realtime cannot pace them",
        "leave out --realtime, or convert it: ffmpeg -r 30 -i FILE out.mp4",
    )


def stall_error(uri: str, name: str, seconds: float, not_converted: bool) -> SilenceError:
    """The error for a source that sent no frame for some seconds.

    not_converted: frames were decoded, but their conversion returned none.
    """
    if not_converted:
        return SilenceError(
            f"frames of {name} were decoded, but none was converted within {seconds:g} s",
            "test the conversion alone, with the pipeline that edge run --dry-run prints",
        )
    hints = {
        "file": "the file may be truncated: copy it again",
        "gst:": "test the pipeline alone, with gst-launch-1.0",
    }
    return SilenceError(
        f"no frame came from {name} within {seconds:g} s",
        hints.get(uri[:4], "check that the camera is on, and that nothing else uses it"),
    )


def connection_error(access: Access, timeout: float = 2.0) -> SourceError | None:
    """Why the host of a source cannot be reached; None if it can, or if the source has no host.

    GStreamer takes long to notice, and does not report the reason. So this opens one plain
    connection, and over TLS checks the certificate. timeout: seconds.
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
            f"the certificate of {access.camera} is not trusted ({error.verify_message})",
            f"export {_TRUSTED}=camera.pem, a PEM file that contains it; or copy it to "
            "/usr/local/share/ca-certificates as .crt, and run: sudo update-ca-certificates",
        )
    except ssl.SSLError as error:
        scheme = access.uri.partition("://")[0]
        return SourceError(
            f"{access.camera} does not speak TLS ({error.reason})",
            f"write {scheme[:-1]}:// for {scheme}://",
        )
    except UnicodeError:
        return SourceError(f"{access.camera} has an invalid host name", "check its spelling")
    except OSError as error:
        return SourceError(
            f"{access.camera} cannot be reached ({error.strerror or error})",
            "check its address, its power and the network",
        )
    return None


def trusted_file() -> Path | None:
    """The PEM file of SSL_CERT_FILE, whose certificates are trusted instead of the system's.

    OpenSSL reads the variable itself; GStreamer has to be given the file. Raises SourceError if it
    cannot be read.
    """
    path = os.environ.get(_TRUSTED)
    if not path:
        return None
    try:
        check_regular(Path(path))
        ssl.create_default_context(cafile=path)
    except OSError as error:  # ssl.SSLError is one
        raise SourceError(
            f"{_TRUSTED} is {path}, which holds no certificates "
            f"({'not a PEM file' if isinstance(error, ssl.SSLError) else error.strerror})",
            f"set it to a PEM file, or: unset {_TRUSTED}",
        ) from error
    return Path(path).absolute()
