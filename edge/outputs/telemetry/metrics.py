"""Prometheus metrics of a run, such as http://127.0.0.1:9100/metrics, using prometheus-client.

Nothing is counted here: each scrape reads the run's `Status`, the process and the board.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from email.message import Message
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from edge import __version__
from edge.errors import EdgeError, require
from edge.outputs.telemetry import board
from edge.outputs.web.access import parse_address
from edge.outputs.web.server import Reply, Server
from edge.run.status import SourceStatus, State, Status
from edge.run.summary import Histogram

if TYPE_CHECKING:
    from edge.engine.passport import PlanAccuracy

__all__ = ["RunMetrics", "serve"]

# Upper bounds in seconds: from one inference of a fast network to a camera that lags far behind.
_TEXT = "text/plain; version=0.0.4; charset=utf-8"
_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)

_COUNTERS: tuple[tuple[str, str, Callable[[SourceStatus], int]], ...] = (
    ("edge_frames", "Frames labelled.", lambda source: source.tally.frames),
    (
        "edge_frames_dropped",
        "Live frames that a newer one replaced before they were labelled.",
        lambda source: source.dropped,
    ),
    (
        "edge_frames_stale",
        "Live frames that were too old and were not labelled.",
        lambda source: source.stale,
    ),
    (
        "edge_reconnects",
        "Number of reconnects.",
        lambda source: source.reconnects,
    ),
)
_HISTOGRAMS: tuple[tuple[str, str, Callable[[SourceStatus], Histogram]], ...] = (
    (
        "edge_frame_age_seconds",
        "Time from capture to label.",
        lambda source: source.tally.age,
    ),
    (
        "edge_frame_latency_seconds",
        "Time from reading a frame to its label.",
        lambda source: source.tally.latency,
    ),
    ("edge_preprocess_seconds", "Preprocessing of a frame.", lambda source: source.preprocess),
)


class RunMetrics:
    """The collector of a run's metrics, for prometheus-client.

    mqtt_dropped   number of results that were not delivered to the broker
    gpu_memory     free and total bytes of GPU memory; if it raises EdgeError, both are left out
    plan_accuracy  of the plan that runs, if one does and was judged
    sysfs          root of the board's sensor files
    """

    def __init__(
        self,
        status: Status,
        *,
        mqtt_dropped: Callable[[], int] | None = None,
        gpu_memory: Callable[[], tuple[int, int]] | None = None,
        plan_accuracy: PlanAccuracy | None = None,
        sysfs: Path = board.SYSFS,
    ):
        """Raises MissingPackage without prometheus-client."""
        self._status = status
        self._mqtt_dropped = mqtt_dropped
        self._gpu_memory = gpu_memory
        self._plan_accuracy = plan_accuracy
        self._sysfs = sysfs
        self._core: Any = require("prometheus_client.core")

    def collect(self) -> Iterator[Any]:
        """The current metrics; called on the thread of each scrape."""
        build = {
            "version": __version__,
            "python": platform.python_version(),
            "backend": self._status.backend,
            "frame_path": self._status.frame_path,
        }
        yield self._core.InfoMetricFamily(
            "edge_build", "Version, Python, backend and frame path.", build
        )
        if self._plan_accuracy is not None:
            text = (
                "Share of the witnesses on which the plan agrees with FP32, when it was compiled."
            )
            agreement = self._plan_accuracy.accuracy.agreement / 100
            yield self._gauge("edge_plan_agreement_ratio", text, "", agreement)
        yield from self._source_metrics()
        yield self._histogram(
            "edge_stage_seconds",
            "Duration of a stage of a batch.",
            "stage",
            self._status.stages.copy(),
        )
        if self._mqtt_dropped is not None:
            text = "Results that were not delivered to the MQTT broker."
            yield self._core.CounterMetricFamily("edge_mqtt_dropped", text, self._mqtt_dropped())
        yield from self._machine_metrics()

    def _source_metrics(self) -> Iterator[Any]:
        sources, now = self._status.sources, self._status.clock()
        for name, text, count in _COUNTERS:
            counter = self._core.CounterMetricFamily(name, text, labels=["source"])
            for source in sources:
                counter.add_metric([source.name], count(source))
            yield counter
        text = "Frames labelled, by their most probable label."
        counter = self._core.CounterMetricFamily("edge_labels", text, labels=["source", "label"])
        for source in sources:
            for label, frames in source.tally.labels.copy().items():
                counter.add_metric([source.name, label], frames)
        yield counter
        states = self._core.GaugeMetricFamily(
            "edge_source_state", "1 for the current state of a source.", labels=["source", "state"]
        )
        for source in sources:
            current = source.state  # read once: it may change meanwhile
            for state in get_args(State):
                states.add_metric([source.name, state], float(state == current))
        yield states
        last_frame_age = {
            source.name: now - source.last_labelled
            for source in sources
            if source.last_labelled is not None
        }
        text = "Time since the last labelled frame of a source; absent before the first."
        yield self._gauge("edge_last_frame_age_seconds", text, "source", last_frame_age)
        for name, text, measured in _HISTOGRAMS:
            histograms = {source.name: measured(source) for source in sources}
            yield self._histogram(name, text, "source", histograms)

    def _machine_metrics(self) -> Iterator[Any]:
        threads = sum(1 for _ in Path("/proc/self/task").iterdir())
        yield self._gauge(
            "edge_threads", "Threads of the process, including GStreamer's.", "", threads
        )
        if self._gpu_memory is not None:
            with suppress(EdgeError):
                free, total = self._gpu_memory()
                text = "GPU memory in use, all processes; on a Jetson also the CPU's memory."
                yield self._gauge("edge_gpu_memory_used_bytes", text, "", total - free)
                yield self._gauge("edge_gpu_memory_bytes", "Total GPU memory.", "", total)
        temperatures, watts = board.temperatures(self._sysfs), board.power(self._sysfs)
        yield self._gauge(
            "edge_temperature_celsius", "Temperature by thermal zone.", "zone", temperatures
        )
        yield self._gauge("edge_power_watts", "Power by rail of the board.", "rail", watts)

    def _gauge(self, name: str, text: str, label: str, values: dict[str, float] | float) -> Any:
        """A gauge with one value per value of `label`; if `values` is a number, without labels."""
        if not isinstance(values, dict):
            return self._core.GaugeMetricFamily(name, text, values)
        gauge = self._core.GaugeMetricFamily(name, text, labels=[label])
        for label_value, value in values.items():
            gauge.add_metric([label_value], value)
        return gauge

    def _histogram(self, name: str, text: str, label: str, histograms: dict[str, Histogram]) -> Any:
        family = self._core.HistogramMetricFamily(name, text, labels=[label])
        for label_value, histogram in histograms.items():
            counts = histogram.up_to([bound * 1e3 for bound in _BUCKETS])
            # Other threads keep counting: the total must not be less than any bucket.
            bounds, total = map(str, _BUCKETS), max(histogram.count, counts[-1])
            buckets = [*zip(bounds, counts, strict=True), ("+Inf", total)]
            family.add_metric([label_value], buckets, histogram.sum / 1e3)
        return family


@contextmanager
def serve(address: str, *metrics: Any) -> Iterator[str]:
    """Serve metrics at `address` (see `parse_address`) until the block ends; yields the URL.

    metrics: collectors, such as `RunMetrics`. Prometheus' standard metrics of the process are
    included. Raises AddressError when the address is invalid or in use, MissingPackage without
    prometheus-client.
    """
    client = require("prometheus_client")
    openmetrics = require("prometheus_client.openmetrics.exposition")
    host, port = parse_address(address)
    registry = client.CollectorRegistry()
    client.ProcessCollector(registry=registry)
    for collector in metrics:
        registry.register(collector)

    def answer(_path: str, headers: Message) -> Reply:
        # Not `choose_encoder`, which fails for a version that is not a number. The version that a
        # client asks for makes no difference to these metrics.
        if "application/openmetrics-text" in headers.get("Accept", ""):
            body, kind = openmetrics.generate_latest(registry), openmetrics.CONTENT_TYPE_LATEST
        else:
            body, kind = client.generate_latest(registry), _TEXT
        return Reply(HTTPStatus.OK, body, kind)

    # Not prometheus-client's own server, which has no limit on threads of idle clients.
    with closing(Server("the metrics", host, port, answer)) as server:
        url_host = f"[{host}]" if ":" in host else host
        yield f"http://{url_host}:{server.port}/metrics"
