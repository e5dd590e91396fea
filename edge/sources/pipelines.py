"""`pipeline`: the GStreamer pipeline of a source, as a text. Pure functions.

Every pipeline ends in two named elements: `GATE`, the queue before the expensive conversion, where
frames are numbered and, for cameras, newer frames replace older ones; and `SINK`. The element that
may need a user and a password is `CAMERA`: they are set as properties and are not in the text.

`decodebin` chooses the decoder from the installed ones by rank, hardware first. Frames are
delivered in the format of the camera or decoder: `videoconvert` passes them through, and converts
only formats that are not in `FORMATS`, such as 10-bit video.
"""

from __future__ import annotations

import difflib
import re
import shlex
from dataclasses import replace
from urllib.parse import quote

from edge.errors import SourceError
from edge.files.redaction import VARIABLE, redact, redact_text
from edge.preprocess.surface import FORMATS
from edge.sources.camera import Camera
from edge.sources.credentials import Access
from edge.sources.uris import (
    KNOWN,
    check_scheme,
    device_of,
    is_live,
    options_of,
    path_of,
    split_login,
)

__all__ = [
    *("CAMERA", "GATE", "JPEG", "MULTIPART", "PARSED", "PATTERNS", "SINK", "VIDEOS"),
    *("check_source", "launch_line", "pipeline"),
]

# Copies decoded frames to system memory.
_TO_SYSTEM = {"pc": "", "jetson": "nvvidconv ! video/x-raw,format=NV12 ! "}
_PICTURE = f"videoconvert ! video/x-raw,format={{{','.join(FORMATS)}}}"
# Keeps them where the GPU reads them; without the property nvvidconv chooses block-linear.
_TO_GPU = "nvvidconv bl-output=false ! video/x-raw(memory:NVMM),format=NV12"
_ANY_MEMORY = ";".join(
    f"video/x-raw{memory},format=(string){{{','.join(FORMATS)}}}"
    for memory in ("(memory:NVMM)", "(memory:CUDAMemory)", "")
)
# On a Jetson decodebin finds the JPEG decoder, but not the parser that it needs.
_JPEG_DECODER = {"pc": "decodebin", "jetson": "nvv4l2decoder mjpeg=1"}
_JPEG = {"pc": "decodebin", "jetson": f"jpegparse ! {_JPEG_DECODER['jetson']}"}
# Names that a custom pipeline is unlikely to use.
CAMERA, GATE, SINK = "edge-camera", "edge-gate", "edge-sink"
# The elements of a web camera's stream: its demuxer, its JPEGs, and the parser that frames them.
MULTIPART, JPEG, PARSED = "edge-multipart", "edge-jpeg", "edge-parsed"
VIDEOS = "edge-videos"  # the element that offers the videos of a file
_GATE = f"queue name={GATE} max-size-bytes=0 max-size-time=0"
_SINK = f"name={SINK} sync=false qos=false enable-last-sample=false"

# The kinds of stream that a USB camera offers, by the names that people give them.
_KINDS = {"raw": "video/x-raw", "mjpg": "image/jpeg", "h264": "video/x-h264"}
_MODE = ("width", "height", "fps")
# What `videotestsrc` can show.
PATTERNS = (
    *("smpte", "snow", "black", "white", "red", "green", "blue", "checkers-1", "checkers-2"),
    *("checkers-4", "checkers-8", "circular", "blink", "smpte75", "zone-plate", "gamut"),
    *("chroma-zone-plate", "solid-color", "ball", "smpte100", "bar", "pinwheel", "spokes"),
    *("gradient", "colors", "smpte-rp-219"),
)


def check_source(uri: str) -> None:
    """Raises SourceError for a URI that is invalid on every machine; variables may be anything."""
    check_scheme(uri)
    if not VARIABLE.search(uri):
        pipeline(Camera(uri), platform="jetson")


def pipeline(camera: Camera, *, platform: str, gpu: bool = False) -> str:
    """The description of a pipeline that delivers the frames of `camera.uri` to the appsink `SINK`.

    platform  "pc" or "jetson"
    gpu       frames stay in the memory in which they arrive: NVMM on a Jetson, any of a custom
              pipeline; otherwise all frames are copied to system memory

    Of a live source, and of a video with `realtime`, only the newest frame is kept; otherwise every
    frame is delivered. A user and a password in the URI are omitted. Raises SourceError for an
    unknown URI.
    """
    live = is_live(camera.uri)
    limits = "max-buffers=1 drop=true" if live or camera.realtime else "max-buffers=2 drop=false"
    return f"{_elements(camera, platform, gpu, live)} ! appsink {_SINK} {limits}"


def launch_line(camera: Camera, access: Access, *, platform: str, gpu: bool = False) -> str:
    """The same pipeline as a `gst-launch-1.0` command, each word quoted for a shell.

    It differs in four ways: it ends in a `fakesink`, since only a program can read an `appsink`;
    user and password are ***; variables are left for the shell to replace; and of a file with
    several videos it reads the first, not the default.
    """
    # A placeholder for each variable, which is a plain word to the parser and to the shell.
    names = VARIABLE.findall(access.template)
    places = (f"variable-{index}-" for index in range(len(names)))
    marked = replace(camera, uri=VARIABLE.sub(lambda _: next(places), access.template))
    # Whether it is a video may depend on the value of a variable.
    elements = _elements(marked, platform, gpu, live=is_live(access.uri))
    words = []
    for word in _WORD.findall(f"{elements} ! fakesink {_SINK}"):
        # gst-launch-1.0 escapes the spaces itself.
        parts = re.split(r"variable-(\d+)-", redact_text(word).replace("\\ ", " "))
        parts[::2] = [shlex.quote(part) if part else "" for part in parts[::2]]
        parts[1::2] = [f'"${{{names[int(index)]}}}"' for index in parts[1::2]]
        words.append("".join(parts))
        if word == f"name={CAMERA}" and (access.user or access.password):
            words += [shlex.quote("user-id=***"), shlex.quote("user-pw=***")]
    return " ".join(["gst-launch-1.0", *words])


_WORD = re.compile(r'(?:"(?:\\.|[^"\\])*"|\\.|\S)+', re.S)


def _elements(camera: Camera, platform: str, gpu: bool, live: bool) -> str:
    """All elements before the sink.

    `realtime` is paced before the gate: if the sink paced it, the decoder would run ahead and the
    gate would drop what it decoded.
    """
    if platform not in _TO_SYSTEM:
        raise SourceError(f"unknown platform {platform!r}", "use pc or jetson")
    head, to_system = _source_elements(camera, platform, live)
    pace = "clocksync ! " if camera.realtime and not live else ""
    newest = live or camera.realtime
    limits = "max-size-buffers=1 leaky=downstream" if newest else "max-size-buffers=2"
    if gpu and camera.uri.startswith("gst:"):
        end = f'capsfilter caps="{_ANY_MEMORY}"'
    elif gpu and to_system:
        end = _TO_GPU
    else:
        end = f"{to_system}{_PICTURE}"
    return f"{head} ! {pace}{_GATE} {limits} ! {end}"


def _source_elements(camera: Camera, platform: str, live: bool) -> tuple[str, str]:
    """The elements before the gate, and the copy to system memory that goes after it."""
    uri, decoded = camera.uri, _TO_SYSTEM[platform]
    scheme = uri.partition("://")[0]
    if uri.startswith("gst:"):
        return uri[len("gst:") :].strip(), ""
    if scheme == "test":
        pattern, mode = options_of(uri, _MODE)
        caps = _caps("video/x-raw", {"width": "640", "height": "480", "fps": "30"} | mode, uri)
        return f"videotestsrc pattern={_pattern(pattern, uri)} is-live=true ! {caps}", ""
    if scheme == "file":
        # Percent-encoded: no character of the file name is special to the parser.
        return f"uridecodebin name={VIDEOS} uri={path_of(uri).as_uri()}", decoded
    if scheme == "v4l2" or uri.startswith("/dev/"):
        return _usb(uri, platform), decoded
    if scheme == "csi":
        if platform == "pc":
            raise SourceError(
                f"{redact(uri)} needs a Jetson: this is a PC", "use a USB camera: /dev/video0"
            )
        sensor, mode = options_of(uri, _MODE)
        asked = {"width": "1920", "height": "1080", "fps": "30"} | mode
        caps = f"{_caps('video/x-raw(memory:NVMM)', asked, uri)},format=NV12"
        source = f"nvarguscamerasrc sensor-id={_word(sensor.removeprefix('csi://'), uri)}"
        return f"{source} ! {caps}", decoded
    if scheme in ("rtsp", "rtsps"):
        if scheme == "rtsps" and camera.transport != "tcp":
            raise SourceError(f"{redact(uri)} works over TCP only", "omit: --transport udp")
        source = f"rtspsrc name={CAMERA} {_location(uri)} protocols={camera.transport} latency=50"
        if camera.transport == "tcp":
            # Otherwise, after a hold-up, rtspsrc takes a burst of frames for a reset of the
            # camera's clock: it rewrites their timestamps, and their age is lost.
            source += " buffer-mode=none"
        return f"{source} ! application/x-rtp,media=video ! decodebin", decoded
    if scheme in ("http", "https"):
        source = f"souphttpsrc name={CAMERA} {_location(uri)}"
        if not live:
            return f"{source} ! decodebin name={VIDEOS}", decoded
        # Frames of a web camera have no timestamp: they get their time of arrival. The demuxer is
        # outside decodebin, which would wait for more streams forever. timeout=0, because after
        # 15 s souphttpsrc would reconnect: a camera with a frame every 20 s would never get to the
        # second one. The stall timeout covers silence. Some cameras call their parts image/jpg, or
        # anything else: the caps are replaced, and the parser checks that they are JPEGs.
        source += " is-live=true do-timestamp=true timeout=0 retries=0"
        parts = f"multipartdemux name={MULTIPART}"
        jpegs = f"capssetter name={JPEG} caps=image/jpeg replace=true join=false"
        frames = f"jpegparse name={PARSED} ! {_JPEG_DECODER[platform]}"
        return f"{source} ! {parts} ! {jpegs} ! {frames}", decoded
    raise SourceError(f"{redact(uri)!r} is not a source", f"use one of: {KNOWN}")


def _usb(uri: str, platform: str) -> str:
    """A USB camera in the given mode; without one decodebin takes the mode that v4l2src chooses."""
    _, mode = options_of(uri, ("format", *_MODE))
    kind = mode.pop("format", None)
    if kind is not None and kind not in _KINDS:
        raise SourceError(
            f"{uri} has an unknown format {kind!r}",
            f"use one of: {', '.join(_KINDS)}",
        )
    source = f"v4l2src device={_word(device_of(uri), uri)}"
    if kind is None and not mode:
        return f"{source} ! decodebin"
    kinds = _KINDS.values() if kind is None else [_KINDS[kind]]
    caps = ";".join(_caps(media, mode, uri) for media in kinds)
    decoder = _JPEG[platform] if kind == "mjpg" else "decodebin"
    return f'{source} ! capsfilter caps="{caps}" ! {decoder}'


def _caps(media: str, mode: dict[str, str], uri: str) -> str:
    """Caps of `media` with the width and height (pixels) and the fps of `mode`."""
    fields = [media]
    for name, value in mode.items():
        pattern = r"[1-9]\d{0,5}(/[1-9]\d{0,5})?" if name == "fps" else r"[1-9]\d{0,5}"
        if not re.fullmatch(pattern, value, re.ASCII):
            raise SourceError(
                f"{uri} has an invalid {name}={value}",
                "for example: ?width=1280&height=720&fps=30",
            )
        if name == "fps":
            fields.append(f"framerate={value if '/' in value else value + '/1'}")
        else:
            fields.append(f"{name}={value}")
    return ",".join(fields)


def _location(uri: str) -> str:
    """The property `location`, with all characters escaped that are special to the parser."""
    # Inside double quotes only a quote and a backslash are special: both are encoded.
    plain = split_login(uri)[1]
    if uri.startswith("rtsps://"):  # GStreamer's default is the port of rtsp://
        plain = re.sub(r"\A(rtsps://(?:\[[^]]*\]|[^/?#:]*))(?=[/?#]|\Z)", r"\1:322", plain)
    address = quote(plain, safe=":/?#[]@!$&'()*+,;=%-._~")
    return f'location="{address}"'


def _pattern(plain: str, uri: str) -> str:
    """The pattern of `plain`, a `test://` URI without its query."""
    name = _word(plain.removeprefix("test://"), uri)
    if name not in PATTERNS:
        near = difflib.get_close_matches(name, PATTERNS, n=1)
        raise SourceError(
            f"test://{name} is not a test pattern",
            f"did you mean test://{near[0]}?" if near else f"use one of: {', '.join(PATTERNS)}",
        )
    return name


def _word(text: str, uri: str) -> str:
    """`text`, if it needs no escaping in a pipeline: a device, a number, a pattern."""
    if not re.fullmatch(r"[\w./:+=@-]+", text, re.ASCII):
        raise SourceError(f"{uri!r} has no valid device or pattern", f"use one of: {KNOWN}")
    return text
