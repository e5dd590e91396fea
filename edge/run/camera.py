"""A source at work: the GStreamer pipeline of one camera, file or stream, and what it says.

GStreamer captures and decodes on threads of its own; `Source.read` hands over what they made.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from edge import nvidia
from edge.errors import SourceError, require
from edge.gst import gstreamer
from edge.run.containers import missing_bytes
from edge.run.explain import explain
from edge.run.frames import Frame, frame_from_sample
from edge.run.gpureader import GpuReader
from edge.run.remarks import not_alternate, remarks
from edge.run.uris import GATE, SINK, as_uri, check, is_live, path_of, pipeline, redact

__all__ = ["Source", "as_uri", "detect_platform", "pipeline", "redact"]

# Seconds a call waits for GStreamer before it looks at the clock, and for `stop()`, again.
_SLICE = 0.1


def detect_platform() -> str:
    """Say "jetson" where L4T or its GStreamer plugins are installed, else "pc".

    `EDGE_PLATFORM=pc` or `jetson` decides it by hand. In a container the plugins may be there
    without L4T's release file.
    """
    if nvidia.is_jetson():
        return "jetson"
    if "EDGE_PLATFORM" in os.environ:
        return "pc"
    return "jetson" if gstreamer().ElementFactory.find("nvvidconv") else "pc"


class Source:
    """The frames of one camera, file or stream.

    It is opened once, by `open` or `with`, and closed once. `read` belongs to one thread; `stop`
    may be called from any. With `realtime` a file plays at its own speed, like a camera.

    name  the URI without credentials
    live  the newest frame wins, older ones are dropped; for `gst:` it is known once it is open
    """

    def __init__(
        self,
        uri: str,
        *,
        realtime: bool = False,
        platform: str | None = None,
        connect_timeout: float = 10.0,
        gpu: GpuReader | None = None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        """gpu: reads pictures in the GPU's memory; without it they come to system memory. say: is
        told, when it is opened, what is done to the pictures on their way.

        Raises SourceError when the file or the device is not there.
        """
        self._uri = as_uri(uri)
        check(self._uri)
        self._realtime = realtime
        self._platform = platform
        self._connect_timeout = connect_timeout
        self._gpu, self._say = gpu, say
        self.name = redact(self._uri)
        self.live = realtime or is_live(self._uri)
        self._pipeline: Any = None
        self._stopping = threading.Event()
        # Arrival times of the few frames inside the sink; matters only where none is dropped.
        self._arrivals: deque[float] = deque(maxlen=8)
        self._delivered = 0
        self._next = 0

    def __enter__(self) -> Source:
        return self.open()

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def dropped(self) -> int:
        """Frames that gave way to a newer one before `read` could return them.

        Counted up to the newest frame returned: what came after it is still inside.
        """
        return self._next - self._delivered

    def open(self) -> Source:
        """Start the pipeline and wait for its first frame; SourceError says why none came."""
        gst = gstreamer()
        platform = self._platform or detect_platform()
        description = pipeline(
            self._uri, platform=platform, realtime=self._realtime, gpu=self._gpu is not None
        )
        try:
            self._pipeline = gst.parse_launch(description)
        except require("gi.repository.GLib").Error as error:
            # Not chained: the original repeats the pipeline, credentials and all.
            raise explain(self._uri, error) from None
        try:
            if self._gpu is not None and self._uri.startswith("gst:"):
                self._gpu.share_context(self._pipeline)
            self._start(gst)
            self._await_first_frame(gst)
        except BaseException:
            self.close()
            raise
        return self

    def _start(self, gst: Any) -> None:
        self._sink = self._pipeline.get_by_name(SINK)
        self._bus = self._pipeline.get_bus()
        gate = self._pipeline.get_by_name(GATE)
        self._entrance = gate.get_static_pad("sink")
        # The probes hold these, and nothing that holds the pipeline: no cycle, no leak.
        bus, arrivals, numbers = self._bus, self._arrivals, itertools.count()

        def number(_pad: Any, info: Any) -> Any:
            # A buffer's offset travels with it through conversions, so it carries the number.
            info.get_buffer().offset = next(numbers)
            return gst.PadProbeReturn.OK

        def arrive(_pad: Any, _info: Any) -> Any:
            arrivals.append(time.monotonic())
            return gst.PadProbeReturn.OK

        def announce(_pad: Any, _info: Any) -> Any:
            first = gst.Structure.new_empty("first-frame")
            bus.post(gst.Message.new_application(None, first))
            return gst.PadProbeReturn.REMOVE

        self._entrance.add_probe(gst.PadProbeType.BUFFER, number)
        entrance = self._sink.get_static_pad("sink")
        entrance.add_probe(gst.PadProbeType.BUFFER, arrive)
        entrance.add_probe(gst.PadProbeType.BUFFER, announce)

        change = self._pipeline.set_state(gst.State.PAUSED)
        if change == gst.StateChangeReturn.NO_PREROLL and not self.live:
            # A pipeline of the user's own turns out to be a camera. Nothing has flowed yet.
            self.live = True
            gate.set_property("leaky", 2)
            gate.set_property("max-size-buffers", 1)
            self._sink.set_property("drop", True)
            self._sink.set_property("max-buffers", 1)
        self._pipeline.set_state(gst.State.PLAYING)

    def _await_first_frame(self, gst: Any) -> None:
        kinds = gst.MessageType
        wanted = kinds.ERROR | kinds.WARNING | kinds.EOS | kinds.APPLICATION | kinds.ELEMENT
        deadline = time.monotonic() + self._connect_timeout
        missing = ""
        while not self._stopping.is_set():
            message = self._bus.timed_pop_filtered(int(_SLICE * gst.SECOND), wanted)
            if time.monotonic() > deadline:
                raise self._silent(self._connect_timeout)
            if message is None:
                continue
            said = message.get_structure()
            if message.type == kinds.APPLICATION and said.get_name() == "first-frame":
                arrived = self._sink.get_static_pad("sink").get_current_caps()
                for text in remarks(self.name, self._entrance.get_current_caps(), arrived):
                    self._say(text)
                return
            if message.type == kinds.ELEMENT and said.get_name() == "missing-plugin":
                missing = said.get_value("name")
            elif message.type == kinds.EOS:
                raise SourceError(f"{self.name} holds no video", "give a file with a video stream")
            elif message.type == kinds.ERROR:
                not_alternate(self.name, self._entrance.get_current_caps())
                raise explain(self._uri, *message.parse_error(), missing=missing)
            elif message.type == kinds.WARNING and self._uri.startswith("file://"):
                # A file without video may end in this warning alone: no pad fits the gate's.
                error, debug = message.parse_warning()
                if error.domain == "gst_parse_error":
                    raise explain(self._uri, error, debug, missing=missing)

    def _silent(self, seconds: float) -> SourceError:
        mends = {
            "file": "the file may be cut off: copy it again, whole",
            "gst:": "try the pipeline alone, with gst-launch-1.0",
        }
        return SourceError(
            f"no frame came from {self.name} within {seconds:g} s",
            mends.get(self._uri[:4], "check that the camera is on, and that nothing else uses it"),
        )

    def _check_whole(self) -> None:
        if self._uri.startswith("file://") and (cut := missing_bytes(path_of(self._uri))):
            raise SourceError(
                f"{self.name} is cut off: its last {cut} bytes are missing", "copy it again, whole"
            )

    def read(self, timeout: float) -> Frame | None:
        """The newest frame (of a file: the next), or None at the end of the stream or on `stop`.

        Raises SourceError when the source fails, when no frame comes within `timeout` seconds, and
        at the end of a file that was cut off.
        """
        gst = gstreamer()
        deadline = time.monotonic() + timeout
        warning: SourceError | None = None
        while not self._stopping.is_set():
            sample = self._sink.try_pull_sample(int(min(_SLICE, timeout) * gst.SECOND))
            if sample is not None:
                return self._frame(gst, sample)
            ended = self._sink.is_eos()
            warning = self._check_bus(gst) or warning
            if ended:
                # A connection that the other side closed ends the stream with only a warning.
                if warning is not None:
                    raise warning
                self._check_whole()
                return None
            if time.monotonic() > deadline:
                raise self._silent(timeout)
        return None

    def _check_bus(self, gst: Any) -> SourceError | None:
        """Raise the error on the bus, if there is one; return what a lost resource warned of."""
        kinds, lost = gst.MessageType, None
        while message := self._bus.pop_filtered(kinds.ERROR | kinds.WARNING):
            if message.type == kinds.ERROR:
                raise explain(self._uri, *message.parse_error())
            error, debug = message.parse_warning()
            if error.domain == "gst-resource-error-quark":
                lost = explain(self._uri, error, debug)
        return lost

    def _frame(self, gst: Any, sample: Any) -> Frame:
        buffer = sample.get_buffer()
        self._delivered += 1
        self._next = buffer.offset + 1
        captured = time.monotonic()
        if self.live:
            running = sample.get_segment().to_running_time(gst.Format.TIME, buffer.pts)
            if running != gst.CLOCK_TIME_NONE:
                now = self._pipeline.get_pipeline_clock().get_time()
                age = now - self._pipeline.get_base_time() - running
                # A clock of a camera may run ahead of ours, but no frame is from the future.
                captured -= max(0, age) / gst.SECOND
        else:
            captured = self._arrivals.popleft()
        return frame_from_sample(
            sample, source=self.name, number=buffer.offset, captured=captured, device=self._gpu
        )

    def stop(self) -> None:
        """Make `open` and `read`, in whatever thread they wait, return at once."""
        self._stopping.set()

    def close(self) -> None:
        """Stop the pipeline and its threads. Frames already read stay valid."""
        self._stopping.set()
        if self._gpu is not None:
            self._gpu.flush()  # while the buffers that it has registered are there
        if self._pipeline is not None:
            self._pipeline.set_state(gstreamer().State.NULL)
            self._pipeline = self._sink = self._bus = self._entrance = None
