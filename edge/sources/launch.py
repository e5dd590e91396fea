"""`launch`: builds the GStreamer pipeline of a camera and sets its credentials."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any

from edge.errors import require
from edge.sources.camera import Camera
from edge.sources.credentials import Access
from edge.sources.diagnostics import explain, trusted_file
from edge.sources.gst import gstreamer, parse_pipeline
from edge.sources.pipelines import CAMERA, JPEG, MULTIPART, VIDEOS, pipeline
from edge.sources.uris import is_rtsp, is_tls

__all__ = ["decoder_of", "described", "has_camera", "launch"]


def launch(camera: Camera, access: Access, *, platform: str, gpu: bool = False) -> Any:
    """The Gst.Pipeline of a camera, not started. Raises SourceError."""
    _rank_decoders()
    with access.redacting():
        text = pipeline(replace(camera, uri=access.uri), platform=platform, gpu=gpu)
    try:
        built = parse_pipeline(text)
    except require("gi.repository.GLib").Error as error:
        # Not chained: the original error contains the pipeline with its secrets.
        raise explain(access, error) from None
    if access.user or access.password:
        source = built.get_by_name(CAMERA)
        source.set_property("user-id", access.user)
        source.set_property("user-pw", access.password)
    if is_tls(access.uri) and (trusted := trusted_file()):
        gio = require("gi.repository.Gio")
        database = gio.TlsFileDatabase.new(str(trusted))
        built.get_by_name(CAMERA).set_property("tls-database", database)
    if is_rtsp(access.uri):
        built.get_by_name(CAMERA).connect("select-stream", _FirstVideo())
    if built.get_by_name(MULTIPART) is not None:
        _accept_bare_jpegs(built)
    if (videos := built.get_by_name(VIDEOS)) is not None:
        videos.connect("no-more-pads", _link_default_video)
    return built


def _link_default_video(decoder: Any) -> None:
    """Link the default video of a file instead of its first one. No data has passed yet."""
    videos = _videos_of(decoder)
    linked = next((pad for pad in videos if pad.is_linked()), None)
    if linked is None:  # a file without video: GStreamer reports it
        return
    default = min(videos, key=_distance_from_default)  # of equal ones the first
    if default is not linked:
        after = linked.get_peer()
        linked.unlink(after)
        default.link(after)


def _distance_from_default(pad: Any) -> int:
    """0 for Matroska's default videos, 2 for videos that an MP4 or MOV file disables, else 1."""
    gst = gstreamer()
    start = pad.get_sticky_event(gst.EventType.STREAM_START, 0)
    flags = gst.StreamFlags(0) if start is None else start.parse_stream_flags()
    return 1 + bool(flags & gst.StreamFlags.UNSELECT) - bool(flags & gst.StreamFlags.SELECT)


def _videos_of(decoder: Any) -> list[Any]:
    """The source pads with video of an element such as uridecodebin, in the order of its file."""
    caps = ((pad, pad.get_current_caps()) for pad in decoder.srcpads)
    return [
        pad
        for pad, one in caps
        if one is not None and one.get_structure(0).get_name().startswith("video/")
    ]


def _accept_bare_jpegs(built: Any) -> None:
    """Let the first bytes of a web camera decide between multipart and JPEGs without parts."""
    camera, typefind = built.get_by_name(CAMERA), gstreamer().ElementFactory.make("typefind")
    camera.unlink(built.get_by_name(MULTIPART))
    built.add(typefind)
    camera.link(typefind)
    typefind.connect("have-type", _link_stream)


def _link_stream(typefind: Any, _probability: int, caps: Any) -> None:
    """Link a stream of a known type; for any other type post an error."""
    elements, kind = typefind.get_parent(), caps.get_structure(0).get_name()
    if kind == "image/jpeg":
        typefind.link(elements.get_by_name(JPEG))
    elif kind.startswith("multipart/"):
        typefind.link(elements.get_by_name(MULTIPART))
    else:
        gst, glib = gstreamer(), require("gi.repository.GLib")
        wrong = int(gst.StreamError.WRONG_TYPE)
        error = glib.Error.new_literal(gst.StreamError.quark(), kind, wrong)
        typefind.post_message(gst.Message.new_error(typefind, error, "typefind"))


class _FirstVideo:
    """Selects the first video stream that an RTSP camera offers, and no other stream.

    With two videos, such as thermal and visible light, rtspsrc would use the one that arrives
    first, which differs between connections. This object does not refer to the pipeline that refers
    to it: a reference cycle would leak.
    """

    def __init__(self) -> None:
        self._chosen: int | None = None  # a number: rtspsrc may ask more than once

    def __call__(self, _source: Any, number: int, caps: Any) -> bool:
        is_video = caps.get_structure(0).get_string("media") == "video"
        if is_video and self._chosen is None:
            self._chosen = number
        return number == self._chosen


@lru_cache(maxsize=1)
def _rank_decoders() -> None:
    """Prefer hardware to software of the same rank, and avdec_mjpeg to jpegdec.

    nvh264dec has the rank of avdec_h264, and the name would decide. A hardware decoder below the
    rank of software stays there: GStreamer does not trust it. jpegdec of GStreamer 1.22 gives half
    of the colour of 4:2:2 JPEGs, which most USB cameras send, and a quarter of that of 4:4:4.
    """
    gst, primary = gstreamer(), gstreamer().Rank.PRIMARY
    parser, exact, coarse = map(gst.ElementFactory.find, ("jpegparse", "avdec_mjpeg", "jpegdec"))
    if None not in (parser, exact, coarse):
        coarse.set_rank(exact.get_rank() - 1)
        parser.set_rank(primary)  # avdec_mjpeg needs it for a file; decodebin would leave it out
    for decoder in gst.ElementFactory.list_get_elements(gst.ELEMENT_FACTORY_TYPE_DECODER, primary):
        in_hardware = "Hardware" in decoder.get_metadata("klass").split("/")
        if in_hardware and decoder.get_rank() == primary:
            decoder.set_rank(primary + 1)


def decoder_of(built: Any) -> str:
    """The decoder of a running pipeline, as "NAME, in hardware" or "..., in software"; else ""."""
    for element in _elements(built):
        if (factory := element.get_factory()) is not None:
            kinds = factory.get_metadata("klass").split("/")
            if "Decoder" in kinds and {"Video", "Image"} & set(kinds):
                name = str(factory.get_name())
                # The decoders of a Jetson are not classified as hardware.
                is_hardware = "Hardware" in kinds or name.startswith("nv")
                return f"{name}, in {'hardware' if is_hardware else 'software'}"
    return ""


def described(built: Any, name: str) -> Iterator[str]:
    """What people should know of a running pipeline of a source, in sentences."""
    if decoder := decoder_of(built):
        yield f"{name}: decoded by {decoder}"
    if (decoder := built.get_by_name(VIDEOS)) is not None:
        videos = [pad.is_linked() for pad in _videos_of(decoder)]
        if len(videos) > 1 and any(videos):
            yield f"{name} has {len(videos)} videos; number {1 + videos.index(True)} is read"


def has_camera(built: Any) -> bool:
    """Whether a source element of a pipeline is live. Call it after the change to PAUSED.

    The device need not exist for that. The state of the pipeline would not tell: one that fails to
    open reports nothing, and with a `clocksync` every video looks live.
    """
    gst, base = gstreamer(), require("gi.repository.GstBase").BaseSrc
    return any(
        element.is_live
        if isinstance(element, base)
        # An rtspsrc creates its sources when it connects.
        else element.get_state(0)[0] == gst.StateChangeReturn.NO_PREROLL
        for element in _elements(built)
        if element.numsinkpads == 0
    )


def _elements(built: Any) -> Iterator[Any]:
    """Every element of a pipeline; some twice if elements are added or removed meanwhile."""
    gst, elements = gstreamer(), built.iterate_recurse()
    while True:
        result, element = elements.next()
        if result == gst.IteratorResult.RESYNC:
            elements.resync()
        elif result != gst.IteratorResult.OK:
            return
        else:
            yield element
