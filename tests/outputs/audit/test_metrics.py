"""What an audit found, as Prometheus gets it."""

from __future__ import annotations

import urllib.request
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from edge.outputs.audit.auditor import Verdict
from edge.outputs.audit.findings import Parity
from edge.outputs.audit.metrics import ParityMetrics
from edge.outputs.telemetry.metrics import RunMetrics, serve
from edge.run.status import Status


@dataclass
class Told:
    """The samples of a scrape: name and labels -> value."""

    samples: dict[tuple[str, frozenset[str]], float]

    def __call__(self, name: str, *labels: str) -> float:
        return self.samples[name, frozenset(labels)]


@pytest.fixture
def told() -> Told:
    """Two cameras: one is well, and one that is read wrong disagrees."""
    well, wrong = Parity("yard"), Parity("gate")
    for _ in range(4):
        well.add(Verdict(True, 0.3, 1.0, 0.05, None), full_range=False)
        wrong.add(Verdict(False, 40.0, 17.0, 8.0, None), full_range=False)
    wrong.skipped, wrong.lost = 2, 1
    audit = SimpleNamespace(sources=[well, wrong], restarts=3)
    with (
        serve(":0", RunMetrics(Status()), ParityMetrics(audit)) as url,
        urllib.request.urlopen(url, timeout=30) as answer,
    ):
        families = text_string_to_metric_families(answer.read().decode())
        found = [sample for family in families for sample in family.samples]
    return Told({(each.name, frozenset(each.labels.values())): each.value for each in found})


def test_frames_are_counted_by_source(told):
    assert (told("edge_audit_frames_total", "yard"), told("edge_audit_agreed_total", "yard")) == (
        4,
        4,
    )
    assert [
        told(f"edge_audit_{name}_total", "gate") for name in ("frames", "agreed", "skipped", "lost")
    ] == [4, 0, 2, 1]
    assert told("edge_audit_restarts_total") == 3


def test_deviations_are_one_while_they_last(told):
    assert [
        told("edge_audit_deviation", source, kind)
        for source in ("yard", "gate")
        for kind in ("labels", "input", "range")
    ] == [0, 0, 0, 1, 1, 0]


def test_differences_have_units_of_their_own(told):
    assert told("edge_audit_input_levels_bucket", "yard", "1.1") == 4
    assert told("edge_audit_input_levels_bucket", "gate", "10.0") == 0
    assert told("edge_audit_input_levels_bucket", "gate", "20.0") == 4
    assert told("edge_audit_input_levels_sum", "gate") == 4 * 17
    assert told("edge_audit_input_mean_levels_sum", "gate") == 4 * 8


def test_a_difference_of_probabilities_is_a_ratio(told):
    name = "edge_audit_probability_difference_ratio"
    assert [told(f"{name}_bucket", "gate", bound) for bound in ("0.2", "0.5", "1.0")] == [0, 4, 4]
    assert told(f"{name}_sum", "gate") == pytest.approx(4 * 0.4)


def test_the_run_s_own_metrics_are_there_too(told):
    assert told("edge_threads") >= 1
