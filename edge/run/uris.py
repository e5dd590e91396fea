"""Source URIs: what a person types becomes a pipeline, and never shows a password.

Pure functions, but for `as_uri` and `check`, which look at the file system. Every pipeline ends
in the same two named elements: `GATE`, the queue in front of the expensive conversion, where
frames are numbered and, for cameras, stale ones give way to new ones; and `SINK`.

A picture is delivered in the format that its camera or decoder made; `videoconvert` passes it on as
it is, and converts only what `FORMATS` does not name, such as 10-bit video.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from edge.errors import SourceError
from edge.preprocess.surface import FORMATS
from edge.run.cameras import Camera

__all__ = [
    "GATE",
    "SINK",
    "address_of",
    "as_uri",
    "authority",
    "check",
    "device_of",
    "is_live",
    "path_of",
    "pipeline",
    "redact",
]

KNOWN = "test://ball, file:///a.mp4, /dev/video0, v4l2:///dev/video0, csi://0, rtsp://..., gst:..."
LIST = "gst-device-monitor-1.0 Video/Source"
_LIVE = ("test://", "/dev/", "v4l2://", "csi://", "rtsp://")

_DECODE = {"pc": "decodebin", "jetson": "parsebin ! nvv4l2decoder"}
# What brings decoded frames to system memory.
_TO_SYSTEM = {"pc": "", "jetson": "nvvidconv ! video/x-raw,format=NV12 ! "}
_PICTURE = f"videoconvert ! video/x-raw,format={{{','.join(FORMATS)}}}"
# What leaves them where the GPU reads them; nvvidconv's own choice is block-linear.
_TO_GPU = "nvvidconv bl-output=false ! video/x-raw(memory:NVMM),format=NV12"
_ANY_MEMORY = ";".join(
    f"video/x-raw{memory},format=(string){{{','.join(FORMATS)}}}"
    for memory in ("(memory:NVMM)", "(memory:CUDAMemory)", "")
)
# No names that a pipeline of the user's own is likely to have given.
GATE, SINK = "edge-gate", "edge-sink"
_GATE = f"queue name={GATE} max-size-bytes=0 max-size-time=0"
_SINK = f"appsink name={SINK} sync=false qos=false enable-last-sample=false"


def pipeline(camera: Camera, *, platform: str, gpu: bool = False) -> str:
    """The gst-launch string that delivers the frames of a camera to the appsink `SINK`.

    `platform` is "pc" or "jetson". With `gpu` a Jetson's pictures stay in NVMM memory, and those of
    a pipeline of the user's own in whatever memory they are; else all come to system memory. From a
    camera, and from anything played in real time, the newest frame wins; otherwise every frame is
    delivered. Real time is kept in front of the gate: kept at the sink, a decoder would race ahead
    and the gate throw away what it decoded.
    Raises SourceError for a URI it does not know.
    """
    if platform not in _DECODE:
        raise SourceError(f"there is no platform {platform!r}", "use pc or jetson")
    uri, realtime = camera.uri, camera.realtime
    head, to_system = _head(uri, platform)
    live = is_live(uri)
    pace = "clocksync ! " if realtime and not live else ""
    if live or realtime:
        gate, sink = f"{_GATE} max-size-buffers=1 leaky=downstream", "max-buffers=1 drop=true"
    else:
        gate, sink = f"{_GATE} max-size-buffers=2", "max-buffers=2 drop=false"
    if gpu and uri.startswith("gst:"):
        end = f'capsfilter caps="{_ANY_MEMORY}"'
    elif gpu and to_system:
        end = _TO_GPU
    else:
        end = f"{to_system}{_PICTURE}"
    return f"{head} ! {pace}{gate} ! {end} ! {_SINK} {sink}"


def is_live(uri: str) -> bool:
    """Whether `uri` is a camera, as far as its scheme says: `gst:` may be anything."""
    return uri.startswith(_LIVE)


def _head(uri: str, platform: str) -> tuple[str, str]:
    """The elements before the gate, and the conversion that their memory needs after it."""
    scheme, _, rest = uri.partition("://")
    if uri.startswith("gst:"):
        return uri[len("gst:") :].strip(), ""
    if scheme == "test":
        caps = "video/x-raw,width=640,height=480,framerate=30/1"
        return f"videotestsrc pattern={_word(rest, uri)} is-live=true ! {caps}", ""
    if scheme == "file":
        # Percent-encoded, so that no character of a file's name means anything to the parser.
        location = path_of(uri).as_uri()
        if platform == "pc":
            return f"uridecodebin uri={location}", ""
        return f"urisourcebin uri={location} ! {_DECODE[platform]}", _TO_SYSTEM[platform]
    if scheme == "v4l2" or uri.startswith("/dev/"):
        # decodebin takes whatever mode the camera chose: raw, MJPEG or H.264.
        return f"v4l2src device={_word(device_of(uri), uri)} ! decodebin", _TO_SYSTEM[platform]
    if scheme == "csi":
        if platform == "pc":
            raise SourceError(
                f"{uri} needs a Jetson: this is a PC", "use a USB camera: /dev/video0"
            )
        caps = "video/x-raw(memory:NVMM),width=1920,height=1080,framerate=30/1,format=NV12"
        return f"nvarguscamerasrc sensor-id={_word(rest, uri)} ! {caps}", _TO_SYSTEM[platform]
    if scheme == "rtsp":
        # Inside double quotes only a quote and a backslash mean something: both are encoded.
        location = "rtsp://" + quote(rest, safe=":/?#[]@!$&'()*+,;=%-._~")
        camera = f'rtspsrc location="{location}" protocols=tcp latency=50'
        picture = "application/x-rtp,media=video"
        return f"{camera} ! {picture} ! {_DECODE[platform]}", _TO_SYSTEM[platform]
    raise SourceError(f"{redact(uri)!r} is not a source", f"use one of: {KNOWN}")


def _word(text: str, uri: str) -> str:
    """`text`, if it can stand in a pipeline as it is: a device, a number, a pattern's name."""
    if not re.fullmatch(r"[\w./:+=@-]+", text, re.ASCII):
        raise SourceError(f"{uri!r} names no device or pattern", f"use one of: {KNOWN}")
    return text


def path_of(uri: str) -> Path:
    """The file of a `file://` URI. Raises SourceError when it is not absolute."""
    path = Path(unquote(uri[len("file://") :], errors="surrogateescape"))
    if not path.is_absolute():
        raise SourceError(f"{uri} has no absolute path", "write file:///folder/video.mp4")
    return path


def device_of(uri: str) -> str:
    """The device of a `/dev/...` or `v4l2://` URI."""
    return uri[len("v4l2://") :] if uri.startswith("v4l2://") else uri


def as_uri(text: str) -> str:
    """What a person typed, as a URI: the path of a file becomes `file://`, URIs stay as they are.

    Raises SourceError for a path where nothing is.
    """
    if text.startswith("file://"):
        # A name typed as it is, with a space or a % in it, wins over its percent-decoded reading.
        literal = Path(text[len("file://") :])
        return literal.as_uri() if literal.is_absolute() and literal.exists() else text
    if is_live(text) or text.startswith("gst:") or "://" in text:
        return text
    path = Path(text).expanduser().absolute()
    if not text.strip():
        raise SourceError("the source is empty", f"use one of: {KNOWN}")
    if not path.exists():
        raise SourceError(f"there is no file {text}", f"give a video, or one of: {KNOWN}")
    return path.as_uri()


def check(uri: str) -> None:
    """Raises SourceError when the file or the device that `uri` names cannot be there to open."""
    if uri.startswith("file://"):
        path = path_of(uri)
        if not path.exists():
            raise SourceError(f"there is no file {path}", "check the path")
        if not path.is_file():
            raise SourceError(f"{path} is not a file", "give the path of a video")
        if not os.access(path, os.R_OK):
            raise SourceError(f"{path} may not be read by you", f"run: chmod +r '{path}'")
    elif uri.startswith(("/dev/", "v4l2://")):
        device = Path(device_of(uri))
        if not device.exists():
            raise SourceError(
                f"there is no camera {device}",
                "plug it in, and run: gst-device-monitor-1.0 Video/Source",
            )
        if not stat.S_ISCHR(device.stat().st_mode):
            raise SourceError(
                f"{device} is not a camera", "run: gst-device-monitor-1.0 Video/Source"
            )
        if not os.access(device, os.R_OK | os.W_OK):
            raise SourceError(
                f"{device} may not be opened by you",
                "run: sudo usermod -aG video $USER, and log in again",
            )


def redact(uri: str) -> str:
    """`uri` without user name, password and keys; when in doubt it hides too much."""
    if uri.startswith(("file://", "test://", "/dev/", "v4l2://", "csi://")):
        return uri
    if uri.startswith("gst:"):  # element by element, so that one '@' does not hide the others
        return " ! ".join(_hide(element) for element in re.split(r"\s+!\s+", uri))
    return _hide(uri)


def address_of(uri: str) -> tuple[str, int] | None:
    """Host and port that a `rtsp://` URI names; None for other URIs, and for a faulty one."""
    if not uri.startswith("rtsp://"):
        return None
    try:
        found = urlsplit(f"rtsp://{authority(uri)}")
        return (found.hostname, found.port or 554) if found.hostname else None
    except ValueError:
        return None


def authority(uri: str) -> str:
    """The host, and the port if one is given, of a `rtsp://` URI."""
    found = re.match(r"\w+://(?:\*\*\*@)?([^/?#]*)", redact(uri))
    return found[1] if found else ""


_USER = re.compile(r"([a-z][\w+.-]*://)(.*@)", re.I | re.S)
_SECRET = re.compile(
    r"""([\w-]*(?:pw|pwd|pass\w*|token|secret|key|user-id)=)("[^"]*"|'[^']*'|[^\s&"']*)""", re.I
)
# An '@' after a plain host and a slash belongs to the path. After a host with a port it may: what
# looks like one may as well be a user and a password with a slash in it.
_PLAIN_HOST = re.compile(r"([^\s/?#@:]+|\[[\da-f:.]+\])[/?#]", re.I)


def _hide(text: str) -> str:
    def hide(found: re.Match[str]) -> str:
        return found[0] if _PLAIN_HOST.match(found[2]) else f"{found[1]}***@"

    return _SECRET.sub(r"\1***", _USER.sub(hide, text))
