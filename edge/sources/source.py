"""A source at work: the GStreamer pipeline of one camera, file or stream, and what it says.

GStreamer captures and decodes on threads of its own; `Source.read` hands over what they made.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from edge.errors import SourceError
from edge.sources.ages import TimestampAges
from edge.sources.camera import STALL, Camera, Thinning
from edge.sources.containers import missing_bytes
from edge.sources.conversions import check_not_alternate, conversions
from edge.sources.credentials import resolve
from edge.sources.diagnostics import explain, knock, silence
from edge.sources.feeds import Link
from edge.sources.frame import Frame
from edge.sources.gst import detect_platform, give_back, gstreamer
from edge.sources.launch import decoder_of, has_camera, launch
from edge.sources.memory.gpu_reader import GpuReader
from edge.sources.pipelines import GATE, SINK
from edge.sources.probes import Buffer, see_buffers
from edge.sources.samples import frame_from_sample, stream_seconds
from edge.sources.uris import check, is_live, is_network, is_rtsp, path_of

__all__ = ["Source"]

# Seconds a call waits for GStreamer before it looks at the clock, and for `stop()`, again.
_SLICE = 0.1
# Pictures that were taken before there was a connection, or while the decoder was loaded, come one
# upon the other: then the freshest becomes fresher with each, by more than chance.
_PAUSE, _FRESHER = 0.1, 0.005  # seconds
_SETTLE = 2.0  # seconds for which they may: a machine too slow for its camera never catches up
_STILL = 5.0  # seconds for which stamps may stand still: how old a frame is nobody knows
_KNOCK = 1.0  # seconds to connect: a camera that is off answers nothing, one that is on at once


class Source:
    """The frames of one camera, file or stream.

    It is opened once, by `open` or `with`, and closed once. `read` belongs to one thread; `stop`
    may be called from any.

    name    what the camera is called, by default its URI without credentials
    live    the newest frame wins, older ones are dropped; for `gst:` it is known once it is open
    camera  it is one, and no film; for `gst:` it is known once `open` was tried, even in vain
    """

    def __init__(
        self,
        camera: Camera | str,
        *,
        platform: str | None = None,
        gpu: GpuReader | None = None,
        first: int = 0,
        wait: float = STALL,
        info: Callable[[str], None] = lambda text: None,
    ) -> None:
        """camera: may be just its URI. gpu: reads pictures in the GPU's memory; without it they
        come to system memory. first: the first frame's number. wait: seconds for it to come.
        say: is told, when it is open, what decodes the pictures, and what is done to them.

        Raises SourceError when the file or the device is not there, or a variable is not set.
        """
        self._camera = camera = Camera(camera) if isinstance(camera, str) else camera
        self._access = resolve(camera.uri, credentials=camera.credentials)
        self._uri = self._access.uri  # never shown
        with self._access.hidden():
            check(self._uri)
        self._platform = platform
        self._wait = wait
        self._gpu, self._info = gpu, info
        self._first = first
        self.name = camera.name or self._access.name
        self.camera = is_live(self._uri)
        self.live = camera.realtime or self.camera
        self.link: Link = "network" if is_network(self._uri) else "local"
        if self._uri.startswith("gst:"):
            self.link = "unknown"
        # Frames bear the times of the camera's own clock, and not of their arrival.
        self._ages = TimestampAges() if is_rtsp(self._uri) else None
        self._thinning = Thinning(camera.every, camera.max_fps)
        self.dropped = 0  # up to the newest frame returned: what came after it is still inside
        self._pipeline: Any = None
        self._stopping = threading.Event()
        # Arrival times of the few frames inside the sink; matters only where none is dropped.
        self._arrivals: deque[float] = deque(maxlen=8)
        self._heard: deque[float] = deque(maxlen=32)  # when the latest frames came to the gate
        # When the first frame went through it after the last one that came to the sink.
        self._inside: deque[float] = deque(maxlen=1)
        # Numbers of the frames that were let through it, and when they were taken.
        self._passed: deque[tuple[int, float]] = deque()

    def __enter__(self) -> Source:
        return self.open()

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def interval(self) -> float | None:
        """Seconds between the latest frames that came; None before the second."""
        heard = list(self._heard)
        return (heard[-1] - heard[0]) / (len(heard) - 1) if len(heard) > 1 else None

    def open(self) -> Source:
        """Start the pipeline and wait for its first frame; SourceError says why none came."""
        gst = gstreamer()
        # GStreamer takes long to find out that nobody is there, and does not say why.
        if problem := knock(self._access, _KNOCK):
            raise problem
        platform = self._platform or detect_platform()
        self._pipeline = launch(
            self._camera, self._access, platform=platform, gpu=self._gpu is not None
        )
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
        self._gate = gate.get_static_pad("sink")
        # The probes hold these, and nothing that holds the pipeline: no cycle, no leak.
        bus, arrivals, numbers = self._bus, self._arrivals, itertools.count(self._first)
        heard, passed, arrived = self._heard, self._passed, itertools.count()
        ages, thinning, inside = self._ages, self._thinning, self._inside

        def number(buffer: Buffer) -> bool:
            now, place = time.monotonic(), next(numbers)
            heard.append(now)
            stamp = stream_seconds(buffer.pts)
            age = ages.age(stamp, now) if ages is not None and stamp is not None else 0.0
            # A camera's stamps may stand still for as long as it is played.
            when = now - age if ages is not None or stamp is None else stamp
            if not thinning.wants(place, when):
                return False
            # A buffer's offset travels with it through conversions, so it carries the number.
            buffer.offset = place
            passed.append((place, now - age))
            if not inside:
                inside.append(now)
            return True

        def arrive(_buffer: Buffer) -> bool:
            arrivals.append(time.monotonic())
            inside.clear()
            if next(arrived) == 0:
                first = gst.Structure.new_empty("first-frame")
                bus.post(gst.Message.new_application(None, first))
            return True

        see_buffers(self._gate, number)
        see_buffers(self._sink.get_static_pad("sink"), arrive)

        change = self._pipeline.set_state(gst.State.PAUSED)
        self.camera = self.camera or has_camera(self._pipeline)
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
        answered, missing = self._ages is None, ""
        patience = self._wait if answered else self._camera.stall
        deadline = time.monotonic() + patience
        while not self._stopping.is_set():
            message = self._bus.timed_pop_filtered(
                int(_SLICE * gst.SECOND), wanted | kinds.PROGRESS
            )
            if time.monotonic() > deadline:
                raise self._silent(patience)
            if message is None:
                continue
            said = message.get_structure()
            if message.type == kinds.APPLICATION and said.get_name() == "first-frame":
                arrived = self._sink.get_static_pad("sink").get_current_caps()
                for text in conversions(self.name, self._gate.get_current_caps(), arrived):
                    self._info(text)
                if decoder := decoder_of(self._pipeline):
                    self._info(f"{self.name}: decoded by {decoder}")
                self._settle()
                return
            if message.type == kinds.PROGRESS:
                # A camera that agreed to play may take as long as it was seen to take.
                kind, code, _ = message.parse_progress()
                if (kind, code) == (gst.ProgressType.COMPLETE, "request") and not answered:
                    answered, patience = True, self._wait
                    deadline = time.monotonic() + patience
            elif message.type == kinds.ELEMENT and said.get_name() == "missing-plugin":
                missing = said.get_value("name")
            elif message.type == kinds.EOS:
                raise SourceError(f"{self.name} holds no video", "give a file with a video stream")
            elif message.type == kinds.ERROR:
                check_not_alternate(self.name, self._gate.get_current_caps())
                raise explain(self._access, *message.parse_error(), missing=missing)
            elif message.type == kinds.WARNING and self._uri.startswith("file://"):
                # A file without video may end in this warning alone: no pad fits the gate's.
                error, debug = message.parse_warning()
                if error.domain == "gst_parse_error":
                    raise explain(self._access, error, debug, missing=missing)

    def _settle(self) -> None:
        """Wait for the frames that come at once: the freshest shows how late the others were."""
        if self._ages is None:
            return
        deadline = time.monotonic() + _SETTLE
        while time.monotonic() < deadline:
            before = self._ages.least
            if self._stopping.wait(_PAUSE) or self._ages.least > before - _FRESHER:
                return

    def _silent(self, seconds: float) -> SourceError:
        inside, heard = list(self._inside), list(self._heard)
        behind = bool(inside) and heard[-1] - inside[0] > seconds / 2  # they go on to come
        return silence(self._uri, self.name, seconds, behind)

    def _check_whole(self) -> None:
        if not self._uri.startswith("file://"):
            return
        try:
            cut = missing_bytes(path_of(self._uri))
        except OSError:  # it was removed while it played: all of it was there
            return
        if cut:
            raise SourceError(
                f"{self.name} is cut off: its last {cut} bytes are missing", "copy it again, whole"
            )

    def read(self, timeout: float) -> Frame | None:
        """The newest frame (of a file: the next), or None at the end of the stream or on `stop`.

        Raises SourceError when the source fails, when no frame comes within `timeout` seconds, when
        their times stand still, and at the end of a file that was cut off.
        """
        gst = gstreamer()
        began = time.monotonic()
        warning: SourceError | None = None
        while not self._stopping.is_set():
            self._check_clock()
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
            # Frames that are not wanted, too, are a sign of life; but not while one that is wanted
            # is behind the gate, where it may stand still.
            alive = [began, *list(self._heard)[-1:], *self._inside][-1]
            if time.monotonic() > max(began, alive) + timeout:
                raise self._silent(timeout)
        return None

    def _check_clock(self) -> None:
        if self._ages is not None and self._ages.still > _STILL:
            raise SourceError(
                f"the time of the pictures of {self.name} stands still",
                "its clock was set back, and a new connection mends that",
            )

    def _check_bus(self, gst: Any) -> SourceError | None:
        """Raise the error on the bus, if there is one; return what a lost resource warned of."""
        kinds, lost = gst.MessageType, None
        while message := self._bus.pop_filtered(kinds.ERROR | kinds.WARNING):
            if message.type == kinds.ERROR:
                raise explain(self._access, *message.parse_error())
            error, debug = message.parse_warning()
            if error.domain == "gst-resource-error-quark":
                lost = explain(self._access, error, debug)
        return lost

    def _frame(self, gst: Any, sample: Any) -> Frame:
        buffer, taken = sample.get_buffer(), time.monotonic()
        while self._passed and self._passed[0][0] <= buffer.offset:
            place, taken = self._passed.popleft()
            self.dropped += place < buffer.offset
        return frame_from_sample(
            sample,
            source=self.name,
            number=buffer.offset,
            captured=self._captured(gst, sample) if self._ages is None else taken,
            device=self._gpu,
            live=self.live,
        )

    def _captured(self, gst: Any, sample: Any) -> float:
        """When the picture was at the source, whose times are those of our own clock."""
        if not self.live:
            return self._arrivals.popleft()
        now, clock = time.monotonic(), self._pipeline.get_pipeline_clock()
        running = sample.get_segment().to_running_time(gst.Format.TIME, sample.get_buffer().pts)
        if running == gst.CLOCK_TIME_NONE:
            return now
        age = clock.get_time() - self._pipeline.get_base_time() - running
        # Clocks may run ahead of ours, but no frame is from the future.
        return now - float(max(0, age) / gst.SECOND)

    def spacing(self, interval: float) -> float:
        """Seconds between the frames that are wanted, where frames come each `interval` seconds."""
        return self._thinning.spacing(interval)

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
            # GStreamer empties the bus of what was opened only. A message holds its element, and
            # that, by its pad and the probe there, the bus.
            self._pipeline.get_bus().set_flushing(True)
            self._pipeline = self._sink = self._bus = self._gate = None
            give_back()
