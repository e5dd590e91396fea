"""The H.264 encoder of this machine, and how pictures are handed to it."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

from edge.errors import MissingPackage
from edge.outputs.record.worker import lower_thread_priority
from edge.preprocess.surface import FORMATS, Layout, Surface
from edge.sources.gst import gstreamer, pipeline_of

__all__ = ["Encoder", "buffer_of", "caps_of", "encoder", "lower_priority"]

# Best first. No picture waits for a later one, and every thirtieth stands alone: a viewer who
# joins, or seeks, waits for it.
_ENCODERS = {
    "nvv4l2h264enc": "nvvidconv ! video/x-raw(memory:NVMM),format=NV12 ! "
    "nvv4l2h264enc bitrate=4000000 iframeinterval=30 idrinterval=30 insert-sps-pps=true",
    "nvh264enc": "nvh264enc bitrate=4000 gop-size=30 zerolatency=true",
    "x264enc": "x264enc tune=zerolatency speed-preset=superfast pass=qual quantizer=23 "
    "bitrate=8000 key-int-max=30",
    "openh264enc": "openh264enc bitrate=4000000 max-bitrate=8000000 gop-size=30",
}
# H.264 may hold 4:4:4 and grey, too, and then hardly anything plays it.
_CONVERT = "videoconvert ! video/x-raw,format=(string){NV12,I420}"
_PROBE_SECONDS = 10


class Encoder(NamedTuple):
    """elements: raw video to H.264, as gst-launch writes it. reason: why not a better one."""

    name: str
    elements: str
    reason: str


@lru_cache(maxsize=1)
def encoder() -> Encoder:
    """The best encoder that encodes a picture here: to be installed is not to work.

    An Orin Nano has NVIDIA's element and no hardware for it. Raises MissingPackage.
    """
    failures: list[str] = []
    for name, elements in _ENCODERS.items():
        problem = _problem(name, elements)
        if not problem:
            reason = f"; {', '.join(failures)}" if failures else ""
            return Encoder(name, f"{_CONVERT} ! {elements} ! h264parse", reason)
        failures.append(f"{name} {problem}")
    raise MissingPackage(
        f"no H.264 encoder works here ({', '.join(failures)})",
        "run sudo apt install gstreamer1.0-plugins-ugly gstreamer1.0-plugins-bad",
    )


def _problem(name: str, elements: str) -> str:
    """Why an encoder does not encode a picture here; nothing when it does."""
    gst = gstreamer()
    if gst.ElementFactory.find(name) is None:
        return "is not installed"
    source = "videotestsrc num-buffers=2 ! video/x-raw,width=640,height=360,framerate=0/1"
    trial = None
    try:
        trial = pipeline_of(f"{source} ! {_CONVERT} ! {elements} ! h264parse ! fakesink")
        trial.set_state(gst.State.PLAYING)
        wanted = gst.MessageType.EOS | gst.MessageType.ERROR
        said = trial.get_bus().timed_pop_filtered(_PROBE_SECONDS * gst.SECOND, wanted)
    except Exception as error:  # GLib.Error, of an element or a property that this version has not
        return f"cannot be used ({error})"
    finally:
        if trial is not None:
            trial.set_state(gst.State.NULL)
    if said is None:
        return "does not answer"
    return "" if said.type == gst.MessageType.EOS else f"fails ({said.parse_error()[0].message})"


# GStreamer's numbers for matrices, in a colorimetry: range:matrix:transfer:primaries.
_MATRICES = {"bt709": 3, "bt601": 4, "bt2020": 6}


def caps_of(layout: Layout) -> Any:
    """Gst.Caps of pictures that come at their own times, with no steady rate."""
    text = f"video/x-raw,format={layout.format},width={layout.width},height={layout.height}"
    colour = layout.colour
    if not FORMATS[layout.format].is_rgb:
        text += f",colorimetry={1 if colour.full_range else 2}:{_MATRICES[colour.matrix]}:0:0"
    return gstreamer().Caps.from_string(f"{text},framerate=0/1")


def buffer_of(picture: Surface) -> Any:
    """A picture by `edge.outputs.record.overlay.captioned` as a Gst.Buffer without a time."""
    return gstreamer().Buffer.new_wrapped(b"".join(plane.tobytes() for plane in picture.planes))


def lower_priority(pipeline: Any) -> None:
    """Let the threads that encode step back behind those that infer."""
    gst = gstreamer()

    def begun(_bus: Any, message: Any) -> Any:
        is_status = message.type == gst.MessageType.STREAM_STATUS
        # Told in the new thread itself; those that the encoder starts there are like it.
        if is_status and message.parse_stream_status()[0] == gst.StreamStatusType.ENTER:
            lower_thread_priority()
        return gst.BusSyncReply.PASS

    pipeline.get_bus().set_sync_handler(begun)
