"""Prometheus metrics of the audit; each scrape reads its current results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, get_args

from edge.errors import require
from edge.outputs.audit.findings import Deviation, SourceAudit
from edge.run.summary import Histogram

__all__ = ["AuditMetrics"]

_COUNTERS: tuple[tuple[str, str, Callable[[SourceAudit], int]], ...] = (
    ("edge_audit_frames", "Frames compared with the reference.", lambda audit: audit.frames),
    (
        "edge_audit_agreed",
        "Compared frames on which engine and reference agree.",
        lambda audit: audit.agreed,
    ),
    (
        "edge_audit_skipped",
        "Times that a frame was due while another was being audited.",
        lambda audit: audit.skipped,
    ),
    ("edge_audit_lost", "Frames without a verdict.", lambda audit: audit.lost),
)
_SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_LEVELS = (0.01, 0.1, 0.5, 1.1, 2.1, 3.1, 5.0, 10.0, 20.0, 50.0, 100.0, 255.0)
# Name, help text, bucket bounds, histogram units per unit of the metric, the histogram.
_HISTOGRAMS: tuple[
    tuple[str, str, Sequence[float], float, Callable[[SourceAudit], Histogram]], ...
] = (
    (
        "edge_audit_probability_difference_ratio",
        "Largest difference of a class's probability, 0 to 1.",
        _SHARES,
        100.0,
        lambda audit: audit.probability,
    ),
    (
        "edge_audit_input_levels",
        "Largest difference of the network input per frame, in grey levels.",
        _LEVELS,
        1.0,
        lambda audit: audit.largest,
    ),
    (
        "edge_audit_input_mean_levels",
        "Mean difference of the network input per frame, in grey levels.",
        _LEVELS,
        1.0,
        lambda audit: audit.mean,
    ),
)


class Audited(Protocol):
    """The part of an audit that is read; `edge.outputs.audit.audit.Audit` implements it."""

    restarts: int

    @property
    def sources(self) -> list[SourceAudit]: ...


class AuditMetrics:
    """The collector of an audit's metrics, for prometheus-client."""

    def __init__(self, audit: Audited):
        """Raises MissingPackage without prometheus-client."""
        self._audit = audit
        self._core: Any = require("prometheus_client.core")

    def collect(self) -> Iterator[Any]:
        """The current metrics; called on the thread of each scrape."""
        sources, core = self._audit.sources, self._core
        for name, text, count in _COUNTERS:
            counter = core.CounterMetricFamily(name, text, labels=["source"])
            for audit in sources:
                counter.add_metric([audit.source], count(audit))
            yield counter
        text = "Times that the auditing process ended before the run did."
        yield core.CounterMetricFamily("edge_audit_restarts", text, self._audit.restarts)
        text = "1 for a current deviation."
        deviations = core.GaugeMetricFamily("edge_audit_deviation", text, labels=["source", "kind"])
        for audit in sources:
            for kind in get_args(Deviation):
                deviations.add_metric([audit.source, kind], float(kind in audit.deviations))
        yield deviations
        for name, text, bounds, unit, measured in _HISTOGRAMS:
            family = core.HistogramMetricFamily(name, text, labels=["source"])
            for audit in sources:
                histogram = measured(audit)
                counts = histogram.up_to([bound * unit for bound in bounds])
                # Other threads keep counting: the total must not be less than any bucket.
                buckets = [*zip(map(str, bounds), counts, strict=True)]
                buckets.append(("+Inf", max(histogram.count, counts[-1])))
                family.add_metric([audit.source], buckets, histogram.sum / unit)
            yield family
