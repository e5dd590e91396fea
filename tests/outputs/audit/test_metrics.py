"""The metrics of an audit as Prometheus receives them."""

from __future__ import annotations

import urllib.request
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from edge.outputs.audit.auditor import Verdict
from edge.outputs.audit.findings import SourceAudit
from edge.outputs.audit.metrics import AuditMetrics
from edge.outputs.telemetry.metrics import RunMetrics, serve
from edge.run.status import Status


@dataclass
class Samples:
    """The samples of a scrape: name and labels -> value."""

    values: dict[tuple[str, frozenset[str]], float]

    def __call__(self, name: str, *labels: str) -> float:
        return self.values[name, frozenset(labels)]


@pytest.fixture
def samples() -> Samples:
    """Two cameras: one without deviations, and one with wrong input and labels."""
    good, wrong = SourceAudit("yard"), SourceAudit("gate")
    for _ in range(4):
        good.add(Verdict(True, 0.3, 1.0, 0.05, None), full_range=False)
        wrong.add(Verdict(False, 40.0, 17.0, 8.0, None), full_range=False)
    wrong.skipped, wrong.lost = 2, 1
    audit = SimpleNamespace(sources=[good, wrong], restarts=3)
    with (
        serve(":0", RunMetrics(Status()), AuditMetrics(audit)) as url,
        urllib.request.urlopen(url, timeout=30) as answer,
    ):
        families = text_string_to_metric_families(answer.read().decode())
        found = [sample for family in families for sample in family.samples]
    return Samples({(each.name, frozenset(each.labels.values())): each.value for each in found})


def test_frames_are_counted_by_source(samples):
    assert (
        samples("edge_audit_frames_total", "yard"),
        samples("edge_audit_agreed_total", "yard"),
    ) == (
        4,
        4,
    )
    assert [
        samples(f"edge_audit_{name}_total", "gate")
        for name in ("frames", "agreed", "skipped", "lost")
    ] == [4, 0, 2, 1]
    assert samples("edge_audit_restarts_total") == 3


def test_a_current_deviation_is_one(samples):
    assert [
        samples("edge_audit_deviation", source, kind)
        for source in ("yard", "gate")
        for kind in ("labels", "input", "range")
    ] == [0, 0, 0, 1, 1, 0]


def test_input_differences_are_in_grey_levels(samples):
    assert samples("edge_audit_input_levels_bucket", "yard", "1.1") == 4
    assert samples("edge_audit_input_levels_bucket", "gate", "10.0") == 0
    assert samples("edge_audit_input_levels_bucket", "gate", "20.0") == 4
    assert samples("edge_audit_input_levels_sum", "gate") == 4 * 17
    assert samples("edge_audit_input_mean_levels_sum", "gate") == 4 * 8


def test_the_difference_of_probabilities_is_a_ratio(samples):
    name = "edge_audit_probability_difference_ratio"
    assert [samples(f"{name}_bucket", "gate", bound) for bound in ("0.2", "0.5", "1.0")] == [
        0,
        4,
        4,
    ]
    assert samples(f"{name}_sum", "gate") == pytest.approx(4 * 0.4)


def test_the_run_s_other_metrics_are_included(samples):
    assert samples("edge_threads") >= 1
