"""Live parity for Prometheus, beside the run's other metrics: each scrape reads the audit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, get_args

from edge.errors import require
from edge.outputs.audit.findings import Deviation, Parity
from edge.run.summary import Histogram

__all__ = ["ParityMetrics"]

_COUNTERS: tuple[tuple[str, str, Callable[[Parity], int]], ...] = (
    ("edge_audit_frames", "Frames held against the reference.", lambda parity: parity.frames),
    ("edge_audit_agreed", "Of these, of which it says the same.", lambda parity: parity.agreed),
    (
        "edge_audit_skipped",
        "Times that a frame was due while another was audited.",
        lambda parity: parity.skipped,
    ),
    ("edge_audit_lost", "Frames without a verdict.", lambda parity: parity.lost),
)
_SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_LEVELS = (0.01, 0.1, 0.5, 1.1, 2.1, 3.1, 5.0, 10.0, 20.0, 50.0, 100.0, 255.0)
# Name, text, buckets, how many of the histogram's unit are one of the metric's, the histogram.
_HISTOGRAMS: tuple[tuple[str, str, Sequence[float], float, Callable[[Parity], Histogram]], ...] = (
    (
        "edge_audit_probability_difference_ratio",
        "Largest difference of a class's probability, 0 to 1.",
        _SHARES,
        100.0,
        lambda parity: parity.probability,
    ),
    (
        "edge_audit_input_levels",
        "Largest difference of what the engine saw, in grey levels of the picture.",
        _LEVELS,
        1.0,
        lambda parity: parity.largest,
    ),
    (
        "edge_audit_input_mean_levels",
        "Mean difference of what the engine saw, in grey levels of the picture.",
        _LEVELS,
        1.0,
        lambda parity: parity.mean,
    ),
)


class Audited(Protocol):
    """What is read; `edge.outputs.audit.audit.Audit` is one."""

    restarts: int

    @property
    def sources(self) -> list[Parity]: ...


class ParityMetrics:
    """A collector of prometheus-client: the audit as it is now."""

    def __init__(self, audit: Audited):
        """Raises MissingPackage without prometheus-client."""
        self._audit = audit
        self._core: Any = require("prometheus_client.core")

    def collect(self) -> Iterator[Any]:
        """Called on a thread of each scrape's."""
        sources, core = self._audit.sources, self._core
        for name, text, count in _COUNTERS:
            counter = core.CounterMetricFamily(name, text, labels=["source"])
            for parity in sources:
                counter.add_metric([parity.source], count(parity))
            yield counter
        text = "Times that the auditing process ended before the run did."
        yield core.CounterMetricFamily("edge_audit_restarts", text, self._audit.restarts)
        text = "1 for what the audit warns of now."
        deviations = core.GaugeMetricFamily("edge_audit_deviation", text, labels=["source", "kind"])
        for parity in sources:
            for kind in get_args(Deviation):
                deviations.add_metric([parity.source, kind], float(kind in parity.deviations))
        yield deviations
        for name, text, bounds, unit, measured in _HISTOGRAMS:
            family = core.HistogramMetricFamily(name, text, labels=["source"])
            for parity in sources:
                histogram = measured(parity)
                counts = histogram.up_to([bound * unit for bound in bounds])
                # Others count on meanwhile: in all there are never fewer than in a bucket.
                buckets = [*zip(map(str, bounds), counts, strict=True)]
                buckets.append(("+Inf", max(histogram.count, counts[-1])))
                family.add_metric([parity.source], buckets, histogram.sum / unit)
            yield family
