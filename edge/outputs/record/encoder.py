"""Selection of the H.264 encoder, and conversion of frames to GStreamer caps and buffers."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

from edge.errors import MissingPackage
from edge.outputs.record.worker import lower_thread_priority
from edge.preprocess.surface import FORMATS, Layout, Surface
from edge.sources.gst import gstreamer, parse_pipeline

__all__ = ["Encoder", "buffer_of", "caps_of", "encoder", "lower_priority"]

# Best first. No B-frames, so no frame waits for a later one. Every 30th frame is a key frame: a
# viewer who joins or seeks waits for the next one.
_ENCODERS = {
    "nvv4l2h264enc": "nvvidconv ! video/x-raw(memory:NVMM),format=NV12 ! "
    "nvv4l2h264enc bitrate=4000000 iframeinterval=30 idrinterval=30 insert-sps-pps=true",
    "nvh264enc": "nvh264enc bitrate=4000 gop-size=30 zerolatency=true",
    "x264enc": "x264enc tune=zerolatency speed-preset=superfast pass=qual quantizer=23 "
    "bitrate=8000 key-int-max=30",
    "openh264enc": "openh264enc bitrate=4000000 max-bitrate=8000000 gop-size=30",
}
# 4:2:0 only: few players support H.264 in 4:4:4 or grey.
_CONVERT = "videoconvert ! video/x-raw,format=(string){NV12,I420}"
_PROBE_SECONDS = 10


class Encoder(NamedTuple):
    """An H.264 encoder that works on this machine.

    name      the GStreamer element
    elements  raw video to H.264, in gst-launch syntax
    reason    why better encoders cannot be used, beginning with "; "; empty if this is the best
    """

    name: str
    elements: str
    reason: str


@lru_cache(maxsize=1)
def encoder() -> Encoder:
    """The best encoder that passes a trial encode on this machine.

    The trial is needed because an installed element may not work: an Orin Nano has NVIDIA's
    element and no hardware for it. Raises MissingPackage if no encoder works.
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
    """Why an encoder fails a trial encode, as a predicate; empty if it works."""
    gst = gstreamer()
    if gst.ElementFactory.find(name) is None:
        return "is not installed"
    source = "videotestsrc num-buffers=2 ! video/x-raw,width=640,height=360,framerate=0/1"
    trial = None
    try:
        trial = parse_pipeline(f"{source} ! {_CONVERT} ! {elements} ! h264parse ! fakesink")
        trial.set_state(gst.State.PLAYING)
        wanted = gst.MessageType.EOS | gst.MessageType.ERROR
        message = trial.get_bus().timed_pop_filtered(_PROBE_SECONDS * gst.SECOND, wanted)
    except Exception as error:  # GLib.Error: an element or property is missing in this version
        return f"cannot be used ({error})"
    finally:
        if trial is not None:
            trial.set_state(gst.State.NULL)
    if message is None:
        return "does not answer"
    if message.type == gst.MessageType.EOS:
        return ""
    return f"fails ({message.parse_error()[0].message})"


# GStreamer's numbers for the matrix in a colorimetry string: range:matrix:transfer:primaries.
_MATRICES = {"bt709": 3, "bt601": 4, "bt2020": 6}


def caps_of(layout: Layout) -> Any:
    """Gst.Caps of frames with this layout and a variable frame rate."""
    text = f"video/x-raw,format={layout.format},width={layout.width},height={layout.height}"
    colour = layout.colour
    if not FORMATS[layout.format].is_rgb:
        text += f",colorimetry={1 if colour.full_range else 2}:{_MATRICES[colour.matrix]}:0:0"
    return gstreamer().Caps.from_string(f"{text},framerate=0/1")


def buffer_of(surface: Surface) -> Any:
    """A surface from `edge.outputs.record.overlay.captioned` as a Gst.Buffer without timestamp."""
    return gstreamer().Buffer.new_wrapped(b"".join(plane.tobytes() for plane in surface.planes))


def lower_priority(pipeline: Any) -> None:
    """Lower the priority of the pipeline's threads, so that inference goes first."""
    gst = gstreamer()

    def on_message(_bus: Any, message: Any) -> Any:
        is_status = message.type == gst.MessageType.STREAM_STATUS
        # ENTER is posted from the new thread; threads that it starts inherit its niceness.
        if is_status and message.parse_stream_status()[0] == gst.StreamStatusType.ENTER:
            lower_thread_priority()
        return gst.BusSyncReply.PASS

    pipeline.get_bus().set_sync_handler(on_message)
