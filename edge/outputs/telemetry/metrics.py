"""How the run is doing, for Prometheus, by prometheus-client: http://127.0.0.1:9100/metrics.

Nothing is counted here: each scrape reads the run's `Status`, the process and the board.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from email.message import Message
from http import HTTPStatus
from pathlib import Path
from typing import Any, get_args

from edge import __version__
from edge.errors import EdgeError, require
from edge.outputs.telemetry import board
from edge.outputs.web.access import parse_address
from edge.outputs.web.server import Reply, Server
from edge.run.status import SourceStatus, State, Status
from edge.run.summary import Histogram

__all__ = ["RunMetrics", "serve"]

# Upper bounds in seconds: from one frame of a fast network to a camera that is far behind.
_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)

_COUNTERS: tuple[tuple[str, str, Callable[[SourceStatus], int]], ...] = (
    ("edge_frames", "Frames labelled.", lambda source: source.tally.frames),
    ("edge_frames_dropped", "Frames that gave way to a newer one.", lambda source: source.dropped),
    (
        "edge_frames_stale",
        "Frames that came too late, and were left out.",
        lambda source: source.stale,
    ),
    (
        "edge_reconnects",
        "Times that a source played again after it had stopped to.",
        lambda source: source.reconnects,
    ),
)
_HISTOGRAMS: tuple[tuple[str, str, Callable[[SourceStatus], Histogram]], ...] = (
    (
        "edge_frame_age_seconds",
        "Age of a frame when its label is out.",
        lambda source: source.tally.age,
    ),
    (
        "edge_frame_latency_seconds",
        "From the moment a frame is taken from its source to its label.",
        lambda source: source.tally.latency,
    ),
    ("edge_preprocess_seconds", "Preparation of a frame.", lambda source: source.preprocess),
)


class RunMetrics:
    """A collector of prometheus-client: what a scrape is answered with.

    mqtt_dropped  results that the broker never took
    gpu_memory    bytes of the GPU's memory: free, and in all. An EdgeError leaves them out
    sysfs         where the board's sensors are
    """

    def __init__(
        self,
        status: Status,
        *,
        mqtt_dropped: Callable[[], int] | None = None,
        gpu_memory: Callable[[], tuple[int, int]] | None = None,
        sysfs: Path = board.SYSFS,
    ):
        """Raises MissingPackage without prometheus-client."""
        self._status = status
        self._mqtt_dropped = mqtt_dropped
        self._gpu_memory = gpu_memory
        self._sysfs = sysfs
        self._core: Any = require("prometheus_client.core")

    def collect(self) -> Iterator[Any]:
        """The metrics as they are now; called on a thread of each scrape's."""
        build = {
            "version": __version__,
            "python": platform.python_version(),
            "backend": self._status.backend,
            "frame_path": self._status.frame_path,
        }
        yield self._core.InfoMetricFamily("edge_build", "What runs here.", build)
        yield from self._of_sources()
        yield self._histogram(
            "edge_stage_seconds", "A stage of a batch.", "stage", self._status.stages.copy()
        )
        if self._mqtt_dropped is not None:
            text = "Results that the MQTT broker never took."
            yield self._core.CounterMetricFamily("edge_mqtt_dropped", text, self._mqtt_dropped())
        yield from self._of_machine()

    def _of_sources(self) -> Iterator[Any]:
        sources, now = self._status.sources, self._status.clock()
        for name, text, count in _COUNTERS:
            counter = self._core.CounterMetricFamily(name, text, labels=["source"])
            for source in sources:
                counter.add_metric([source.name], count(source))
            yield counter
        states = self._core.GaugeMetricFamily(
            "edge_source_state", "1 for the state that a source is in.", labels=["source", "state"]
        )
        for source in sources:
            now_in = source.state
            for state in get_args(State):
                states.add_metric([source.name, state], float(state == now_in))
        yield states
        last_frame_age = {
            source.name: now - source.last_labelled
            for source in sources
            if source.last_labelled is not None
        }
        text = "Since a source's last frame was labelled; absent before the first."
        yield self._gauge("edge_last_frame_age_seconds", text, "source", last_frame_age)
        for name, text, measured in _HISTOGRAMS:
            histograms = {source.name: measured(source) for source in sources}
            yield self._histogram(name, text, "source", histograms)

    def _of_machine(self) -> Iterator[Any]:
        threads = sum(1 for _ in Path("/proc/self/task").iterdir())
        yield self._gauge("edge_threads", "Threads of the process, GStreamer's too.", "", threads)
        if self._gpu_memory is not None:
            with suppress(EdgeError):
                free, total = self._gpu_memory()
                text = "Memory of the GPU in use, by whomever; on a Jetson the CPU's as well."
                yield self._gauge("edge_gpu_memory_used_bytes", text, "", total - free)
                yield self._gauge("edge_gpu_memory_bytes", "Memory of the GPU.", "", total)
        warmth, drawn = board.temperatures(self._sysfs), board.power(self._sysfs)
        yield self._gauge("edge_temperature_celsius", "By thermal zone.", "zone", warmth)
        yield self._gauge("edge_power_watts", "By rail of the board.", "rail", drawn)

    def _gauge(self, name: str, text: str, label: str, values: dict[str, float] | float) -> Any:
        """A gauge with a value for each value of `label`; or, without labels, with one."""
        if not isinstance(values, dict):
            return self._core.GaugeMetricFamily(name, text, values)
        gauge = self._core.GaugeMetricFamily(name, text, labels=[label])
        for which, value in values.items():
            gauge.add_metric([which], value)
        return gauge

    def _histogram(self, name: str, text: str, label: str, histograms: dict[str, Histogram]) -> Any:
        family = self._core.HistogramMetricFamily(name, text, labels=[label])
        for which, histogram in histograms.items():
            counts = histogram.up_to([bound * 1e3 for bound in _BUCKETS])
            # Others count on meanwhile: in all there are never fewer than in a bucket.
            bounds, everything = map(str, _BUCKETS), max(histogram.count, counts[-1])
            buckets = [*zip(bounds, counts, strict=True), ("+Inf", everything)]
            family.add_metric([which], buckets, histogram.sum / 1e3)
        return family


@contextmanager
def serve(address: str, *metrics: Any) -> Iterator[str]:
    """Answer Prometheus at `address`, of `parse_address`, until the block ends; yields the URL.

    metrics: collectors, such as `RunMetrics`. Metrics of the process itself are there, too, under
    the names that Prometheus gives them. Raises AddressError when the address is wrong or in use,
    MissingPackage without prometheus-client.
    """
    client = require("prometheus_client")
    host, port = parse_address(address)
    registry = client.CollectorRegistry()
    client.ProcessCollector(registry=registry)
    for collector in metrics:
        registry.register(collector)

    def answer(_path: str, headers: Message) -> Reply:
        encode, kind = client.exposition.choose_encoder(headers.get("Accept", ""))
        return Reply(HTTPStatus.OK, encode(registry), kind)

    # Not prometheus-client's own server: that has no end of threads for clients that say nothing.
    with closing(Server("the metrics", host, port, answer)) as server:
        shown = f"[{host}]" if ":" in host else host
        yield f"http://{shown}:{server.port}/metrics"
