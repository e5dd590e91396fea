"""`Source`: the frames of one camera, file or stream, from its GStreamer pipeline.

GStreamer captures and decodes on its own threads; `Source.read` returns their frames.
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
from edge.sources.arrivals import arrival_times
from edge.sources.camera import STALL, Camera, Thinning
from edge.sources.containers import check_complete
from edge.sources.conversions import check_not_alternate, conversions
from edge.sources.credentials import resolve
from edge.sources.diagnostics import connection_error, explain, no_times, stall_error
from edge.sources.feeds import Link
from edge.sources.frame import Frame
from edge.sources.gst import detect_platform, gstreamer, trim_heap
from edge.sources.launch import described, has_camera, launch
from edge.sources.memory.gpu_reader import GpuReader
from edge.sources.orientation import watch_orientation
from edge.sources.pipelines import GATE, PARSED, SINK
from edge.sources.probes import Buffer, probe_buffers
from edge.sources.samples import frame_from_sample, stream_seconds
from edge.sources.uris import check, is_live, is_network, is_rtsp, path_of

__all__ = ["Source"]

# Seconds that a call waits for GStreamer before it checks the time and `stop()` again.
_POLL_SECONDS = 0.1
# Frames that were captured before the connection, or while the decoder was loaded, arrive in a
# burst: each is fresher than the one before. The burst is over when no frame in a pause was fresher
# by more than jitter.
_PAUSE, _JITTER = 0.1, 0.005  # seconds
_MAX_BURST = 2.0  # seconds: a machine that is too slow for its camera never catches up
_MAX_FROZEN = 5.0  # seconds with the same timestamp: the age of frames is unknown meanwhile
_CONNECT_TIMEOUT = 1.0  # seconds: a camera that is on answers at once


class Source:
    """The frames of one camera, file or stream.

    Open it once, by `open` or `with`, and close it once. `read` is called on one thread; `stop` may
    be called from any.

    name     the name of the camera, by default its URI without credentials
    live     newer frames replace older ones; for `gst:` known once it is open
    camera   it is a camera and not a video; for `gst:` known after an attempt to open, even a
             failed one
    link     how its frames reach this program, see `edge.sources.feeds.Link`
    dropped  frames that newer ones replaced, up to the newest frame that `read` returned
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
        """camera    a camera, or just its URI
        platform  "pc" or "jetson"; by default it is detected
        gpu       reads frames in the memory of the GPU; without it they come in system memory
        first     the number of the first frame
        wait      seconds to wait for the first frame
        info      called once it is open, with each message about its decoder and conversions

        Raises SourceError if the file or the device does not exist, or a variable is not set.
        """
        self._camera = camera = Camera(camera) if isinstance(camera, str) else camera
        self._access = resolve(camera.uri, credentials=camera.credentials)
        self._uri = self._access.uri  # may hold secrets: never in a message
        with self._access.redacting():
            check(self._uri)
        self._platform = platform
        self._wait = wait
        self._gpu, self._info = gpu, info
        self._first = first
        self.name = camera.name or self._access.name
        self.camera = is_live(self._uri)
        self.live = camera.realtime or self.camera
        custom, network = self._uri.startswith("gst:"), is_network(self._uri)
        self.link: Link = "unknown" if custom else "network" if network else "local"
        self._is_file = self._uri.startswith("file://")
        # RTSP timestamps are of the camera's clock, not of arrival.
        self._ages = TimestampAges() if is_rtsp(self._uri) else None
        self._thinning = Thinning(camera.every, camera.max_fps)
        self.dropped = 0
        self._pipeline: Any = None
        self._stopping = threading.Event()
        # All times are `time.monotonic()` seconds. GStreamer's threads append, `read` consumes.
        # When the frames inside the sink arrived there; used only where no frame is dropped.
        self._sink_times: deque[float] = deque(maxlen=8)
        self._gate_times: deque[float] = deque(maxlen=32)  # when the latest frames reached the gate
        # When the first frame passed the gate since the last one reached the sink.
        self._converting_since: deque[float] = deque(maxlen=1)
        # The frames that passed the gate: number, time of capture, and EXIF orientation.
        self._passed: deque[tuple[int, float, int]] = deque()

    def __enter__(self) -> Source:
        return self.open()

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def interval(self) -> float | None:
        """Seconds between the latest frames; None before the second."""
        times = list(self._gate_times)
        return (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else None

    def open(self) -> Source:
        """Start the pipeline and wait for its first frame. Raises SourceError if none comes."""
        gst = gstreamer()
        # GStreamer takes long to notice an unreachable host, and does not report the reason.
        if problem := connection_error(self._access, _CONNECT_TIMEOUT):
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
        # The probes refer to these, and to nothing that refers to the pipeline: a reference cycle
        # through it would leak.
        bus, sink_times, numbers = self._bus, self._sink_times, itertools.count(self._first)
        gate_times, passed, arrived = self._gate_times, self._passed, itertools.count()
        ages, thinning, converting_since = self._ages, self._thinning, self._converting_since
        orientation = watch_orientation(self._gate, path_of(self._uri) if self._is_file else None)

        def at_gate(buffer: Buffer) -> bool:
            """Number a frame, and drop it if thinning does not want it."""
            now, number = time.monotonic(), next(numbers)
            gate_times.append(now)
            stamp = stream_seconds(buffer.pts)
            age = ages.age(stamp, now) if ages is not None and stamp is not None else 0.0
            # A camera's own timestamps may be frozen for the whole connection.
            seconds = now - age if ages is not None or stamp is None else stamp
            if not thinning.wants(number, seconds):
                return False
            # The offset of a buffer survives conversions, so it carries the number.
            buffer.offset = number
            passed.append((number, now - age, orientation[0]))
            if not converting_since:
                converting_since.append(now)
            return True

        def at_sink(_buffer: Buffer) -> bool:
            """Record an arrival, and announce the first one on the bus."""
            sink_times.append(time.monotonic())
            converting_since.clear()
            if next(arrived) == 0:
                first = gst.Structure.new_empty("first-frame")
                bus.post(gst.Message.new_application(None, first))
            return True

        if (parsed := self._pipeline.get_by_name(PARSED)) is not None:
            probe_buffers(parsed.get_static_pad("src"), arrival_times(self._pipeline))
        probe_buffers(self._gate, at_gate)
        probe_buffers(self._sink.get_static_pad("sink"), at_sink)

        change = self._pipeline.set_state(gst.State.PAUSED)
        self.camera = self.camera or has_camera(self._pipeline)
        if change == gst.StateChangeReturn.NO_PREROLL and not self.live:
            # A custom pipeline turns out to be a camera; no frame has flowed yet.
            self.live = True
            gate.set_property("leaky", 2)
            gate.set_property("max-size-buffers", 1)
            self._sink.set_property("drop", True)
            self._sink.set_property("max-buffers", 1)
        self._pipeline.set_state(gst.State.PLAYING)

    def _await_first_frame(self, gst: Any) -> None:
        kinds = gst.MessageType
        wanted = kinds.ERROR | kinds.WARNING | kinds.EOS | kinds.APPLICATION | kinds.ELEMENT
        # An RTSP camera gets the long wait for a frame only after it has accepted PLAY.
        accepted, missing = self._ages is None, ""
        timeout = self._wait if accepted else self._camera.stall
        deadline = time.monotonic() + timeout
        while not self._stopping.is_set():
            message = self._bus.timed_pop_filtered(
                int(_POLL_SECONDS * gst.SECOND), wanted | kinds.PROGRESS
            )
            if time.monotonic() > deadline:
                raise self._stall_error(timeout)
            if message is None:
                continue
            structure = message.get_structure()
            if message.type == kinds.APPLICATION and structure.get_name() == "first-frame":
                arrived = self._sink.get_static_pad("sink").get_current_caps()
                converted = conversions(self.name, self._gate.get_current_caps(), arrived)
                for text in (*converted, *described(self._pipeline, self.name)):
                    self._info(text)
                self._await_end_of_burst()
                return
            if message.type == kinds.PROGRESS:
                kind, code, _ = message.parse_progress()
                if (kind, code) == (gst.ProgressType.COMPLETE, "request") and not accepted:
                    accepted, timeout = True, self._wait
                    deadline = time.monotonic() + timeout
            elif message.type == kinds.ELEMENT and structure.get_name() == "missing-plugin":
                missing = structure.get_value("name")
            elif message.type == kinds.EOS:
                raise SourceError(f"{self.name} holds no video", "give a file with a video stream")
            elif message.type == kinds.ERROR:
                check_not_alternate(self.name, self._gate.get_current_caps())
                raise explain(self._access, *message.parse_error(), missing=missing)
            elif message.type == kinds.WARNING and self._is_file:
                # For a file without video this warning may be all there is: no pad fits the gate.
                error, debug = message.parse_warning()
                if error.domain == "gst_parse_error":
                    raise explain(self._access, error, debug, missing=missing)

    def _await_end_of_burst(self) -> None:
        """Wait for the first burst of frames: its freshest one shows the age of the others."""
        if self._ages is None:
            return
        deadline = time.monotonic() + _MAX_BURST
        while time.monotonic() < deadline:
            before = self._ages.least
            if self._stopping.wait(_PAUSE) or self._ages.least > before - _JITTER:
                return

    def _stall_error(self, seconds: float) -> SourceError:
        since, times = list(self._converting_since), list(self._gate_times)
        # Frames have gone on to reach the gate, but none has reached the sink.
        not_converted = bool(since) and times[-1] - since[0] > seconds / 2
        return stall_error(self._uri, self.name, seconds, not_converted)

    def read(self, timeout: float) -> Frame | None:
        """The newest frame (of a file: the next), or None at the end of the stream or on `stop`.

        Raises SourceError when the source fails, when no frame comes within `timeout` seconds, when
        timestamps are frozen, and at the end of a truncated file.
        """
        gst = gstreamer()
        began = time.monotonic()
        warning: SourceError | None = None
        while not self._stopping.is_set():
            self._check_timestamps()
            sample = self._sink.try_pull_sample(int(min(_POLL_SECONDS, timeout) * gst.SECOND))
            if sample is not None:
                return self._frame(gst, sample)
            ended = self._sink.is_eos()
            warning = self._check_bus(gst) or warning
            if ended:
                # When the other side closes the connection, the stream ends with only a warning.
                if warning is not None:
                    raise warning
                if self._is_file:
                    check_complete(path_of(self._uri), self.name)
                return None
            # Frames that thinning drops show that the source is alive. While a wanted frame is
            # being converted they do not count: the conversion may hang.
            alive = [began, *list(self._gate_times)[-1:], *self._converting_since][-1]
            if time.monotonic() > max(began, alive) + timeout:
                raise self._stall_error(timeout)
        return None

    def _check_timestamps(self) -> None:
        if self._ages is not None and self._ages.frozen_for > _MAX_FROZEN:
            raise SourceError(
                f"the timestamps of {self.name} are frozen",
                "its clock was set back; a new connection fixes that",
            )

    def _check_bus(self, gst: Any) -> SourceError | None:
        """Raise the error on the bus, if any; return the warning about a lost resource, if any."""
        kinds, lost = gst.MessageType, None
        while message := self._bus.pop_filtered(kinds.ERROR | kinds.WARNING):
            if message.type == kinds.ERROR:
                raise explain(self._access, *message.parse_error())
            error, debug = message.parse_warning()
            if error.domain == "gst-resource-error-quark":
                lost = explain(self._access, error, debug)
        return lost

    def _frame(self, gst: Any, sample: Any) -> Frame:
        buffer, captured, orientation = sample.get_buffer(), time.monotonic(), 1
        timeless = buffer.pts == gst.CLOCK_TIME_NONE and buffer.offset > self._first
        if timeless and self._camera.realtime and not self.camera:
            raise no_times(self.name)
        while self._passed and self._passed[0][0] <= buffer.offset:
            number, captured, orientation = self._passed.popleft()
            self.dropped += number < buffer.offset
        return frame_from_sample(
            sample,
            source=self.name,
            number=buffer.offset,
            captured=self._captured(gst, sample) if self._ages is None else captured,
            device=self._gpu,
            live=self.live,
            orientation=orientation,
        )

    def _captured(self, gst: Any, sample: Any) -> float:
        """When a frame was captured, for a source with timestamps of this machine's clock."""
        if not self.live:
            return self._sink_times.popleft()
        now, clock = time.monotonic(), self._pipeline.get_pipeline_clock()
        running = sample.get_segment().to_running_time(gst.Format.TIME, sample.get_buffer().pts)
        if running == gst.CLOCK_TIME_NONE:
            return now
        age = clock.get_time() - self._pipeline.get_base_time() - running
        # The pipeline's clock may be ahead of `monotonic`, but no frame is from the future.
        return now - float(max(0, age) / gst.SECOND)

    def spacing(self, interval: float) -> float:
        """Seconds between wanted frames, if frames come every `interval` seconds."""
        return self._thinning.spacing(interval)

    def stop(self) -> None:
        """Make `open` and `read` return at once, on whatever thread they wait."""
        self._stopping.set()

    def close(self) -> None:
        """Stop the pipeline and its threads. Frames already read stay valid."""
        self._stopping.set()
        if self._gpu is not None:
            self._gpu.flush()  # while the buffers that it has registered still exist
        if self._pipeline is not None:
            self._pipeline.set_state(gstreamer().State.NULL)
            # GStreamer flushes the bus only of a pipeline that was opened. A message refers to its
            # element, whose pad has the probe that refers to the bus: a cycle.
            self._pipeline.get_bus().set_flushing(True)
            self._pipeline = self._sink = self._bus = self._gate = None
            trim_heap()
