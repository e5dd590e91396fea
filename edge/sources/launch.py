"""A pipeline's text becomes a pipeline, with the credentials that it needs; and what came of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any

from edge.errors import require
from edge.sources.camera import Camera
from edge.sources.credentials import Access
from edge.sources.diagnostics import explain, trusted_file
from edge.sources.gst import gstreamer, pipeline_of
from edge.sources.pipelines import CAMERA, pipeline
from edge.sources.uris import is_rtsp, is_tls

__all__ = ["decoder_of", "has_camera", "launch"]


def launch(camera: Camera, access: Access, *, platform: str, gpu: bool = False) -> Any:
    """The Gst.Pipeline of a camera, not started yet. Raises SourceError."""
    _prefer_hardware()
    with access.hidden():
        text = pipeline(replace(camera, uri=access.uri), platform=platform, gpu=gpu)
    try:
        built = pipeline_of(text)
    except require("gi.repository.GLib").Error as error:
        # Not chained: the original repeats the pipeline, keys and all.
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
    return built


class _FirstVideo:
    """Of the streams that an RTSP camera offers, its first video; the others are not asked for.

    Of two videos, such as heat and light, rtspsrc would give the one that comes first: another one
    at each opening. This holds nothing of the pipeline that holds it: no cycle, no leak.
    """

    def __init__(self) -> None:
        self._chosen: int | None = None  # by its number: it may be asked for more than once

    def __call__(self, _source: Any, number: int, caps: Any) -> bool:
        is_video = caps.get_structure(0).get_string("media") == "video"
        if is_video and self._chosen is None:
            self._chosen = number
        return number == self._chosen


@lru_cache(maxsize=1)
def _prefer_hardware() -> None:
    """Of two decoders of the same rank the one in hardware is taken, where names would decide.

    nvh264dec has the rank of avdec_h264. One that ranks below software is left there: GStreamer
    does not trust it.
    """
    gst, primary = gstreamer(), gstreamer().Rank.PRIMARY
    for decoder in gst.ElementFactory.list_get_elements(gst.ELEMENT_FACTORY_TYPE_DECODER, primary):
        in_hardware = "Hardware" in decoder.get_metadata("klass").split("/")
        if in_hardware and decoder.get_rank() == primary:
            decoder.set_rank(primary + 1)


def decoder_of(built: Any) -> str:
    """What decodes the pictures of a pipeline which plays, and in what; "" where nothing does."""
    for element in _elements(built):
        if (factory := element.get_factory()) is not None:
            kinds = factory.get_metadata("klass").split("/")
            if "Decoder" in kinds and {"Video", "Image"} & set(kinds):
                name = str(factory.get_name())
                # Those of a Jetson do not say of themselves that they are hardware.
                is_hardware = "Hardware" in kinds or name.startswith("nv")
                return f"{name}, in {'hardware' if is_hardware else 'software'}"
    return ""


def has_camera(built: Any) -> bool:
    """Whether a source of a pipeline, which was to be paused, says of itself that it is live.

    It need not be there to say so. The pipeline as a whole cannot be asked: one that fails to open
    says nothing, and with a `clocksync` every film looks live.
    """
    gst, base = gstreamer(), require("gi.repository.GstBase").BaseSrc
    return any(
        element.is_live
        if isinstance(element, base)
        # An rtspsrc, which makes its sources when it is connected.
        else element.get_state(0)[0] == gst.StateChangeReturn.NO_PREROLL
        for element in _elements(built)
        if element.numsinkpads == 0
    )


def _elements(built: Any) -> Iterator[Any]:
    """Every element of a pipeline; some of them twice, when others come or go meanwhile."""
    gst, elements = gstreamer(), built.iterate_recurse()
    while True:
        result, element = elements.next()
        if result == gst.IteratorResult.RESYNC:
            elements.resync()
        elif result != gst.IteratorResult.OK:
            return
        else:
            yield element
