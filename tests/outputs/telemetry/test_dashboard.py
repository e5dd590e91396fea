"""The dashboard and docs/metrics.md name existing metrics; docs/metrics.md names all of them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from edge.engine.accuracy import Accuracy
from edge.engine.passport import PlanAccuracy
from edge.outputs.audit.auditor import Verdict
from edge.outputs.audit.findings import SourceAudit
from edge.outputs.audit.metrics import AuditMetrics
from edge.outputs.telemetry.metrics import RunMetrics
from edge.run.status import Status
from tests.outputs.telemetry.test_board import write

DOCS = Path(__file__).parents[3] / "docs"
DASHBOARD = json.loads((DOCS / "grafana" / "vit-edge.json").read_text())


def exposition(tmp_path: Path) -> dict[str, set[str]]:
    """Each metric that a run can have, and its labels."""
    status = Status("onnxruntime", "system")
    source = status.add("test://ball")
    source.tally.add(1.0, 1.0, 0.0, 1.0)
    source.last_labelled = status.clock()
    status.stage("infer", 1.0)
    write(tmp_path / "class/thermal/thermal_zone0", type="cpu-thermal", temp=48500)
    write(tmp_path / "class/hwmon/hwmon0", name="ina238", power1_input=1)
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    plan = PlanAccuracy(Accuracy(64, 98.4375, 50.0, 0.1, None, None), (1,), 8)
    registry.register(
        RunMetrics(
            status,
            mqtt_dropped=lambda: 0,
            gpu_memory=lambda: (1, 2),
            plan_accuracy=plan,
            sysfs=tmp_path,
        )
    )
    audit = SourceAudit("test://ball")
    audit.add(Verdict(True, 0.3, 1.0, 0.05, None), full_range=False)
    registry.register(AuditMetrics(SimpleNamespace(sources=[audit], restarts=0)))
    families = text_string_to_metric_families(generate_latest(registry).decode())
    found: dict[str, set[str]] = {}
    for sample in (sample for family in families for sample in family.samples):
        found.setdefault(sample.name, set()).update(sample.labels)
    return found


def metrics_in(text: str) -> set[str]:
    return set(re.findall(r"\b(?:edge|process)_\w+", text))


def test_each_metric_of_the_dashboard_exists(tmp_path):
    known = exposition(tmp_path)
    targets = [target for panel in DASHBOARD["panels"] for target in panel["targets"]]
    assert len(targets) > 15
    for target in targets:
        named = metrics_in(target["expr"])
        assert named and named <= set(known), target["expr"]
        # What a sum keeps, and what a legend shows, are labels of the metric.
        kept = re.findall(r"by \(([^)]*)\)", target["expr"])
        shown = re.findall(r"{{(\w+)}}", target["legendFormat"])
        labels = {label for group in kept for label in group.split(", ")} | set(shown)
        assert labels <= known[named.pop()] | {"instance"}, target


def test_the_dashboard_shows_all_metrics_of_the_audit(tmp_path):
    shown = set().union(
        *(
            metrics_in(target["expr"])
            for panel in DASHBOARD["panels"]
            for target in panel["targets"]
        )
    )
    audited = {name for name in exposition(tmp_path) if name.startswith("edge_audit_")}
    kinds = {re.sub(r"_(bucket|count|sum)$", "", name) for name in audited}
    assert len(kinds) > 7
    assert kinds <= {re.sub(r"_bucket$", "", name) for name in shown}


def test_panels_do_not_overlap():
    taken = [
        (panel["gridPos"]["x"] + x, panel["gridPos"]["y"] + y)
        for panel in DASHBOARD["panels"]
        for x in range(panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["h"])
    ]
    assert len(taken) == len(set(taken))
    assert max(x for x, _ in taken) < 24


def test_the_dashboard_queries_the_selected_data_source_and_device():
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    assert variables == {"datasource", "instance"}
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(numbers) == len(set(numbers))
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            assert '{instance="$instance"}' in target["expr"]


def test_the_documentation_names_all_metrics_and_no_others(tmp_path):
    known = set(exposition(tmp_path))
    manual = (DOCS / "metrics.md").read_text()
    families = {re.sub(r"_(bucket|count|sum)$", "", name) for name in known}
    named = metrics_in(manual) - {"process_"}
    assert named <= known | families
    assert {name for name in families if name.startswith("edge_")} <= named
