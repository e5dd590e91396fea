"""The alert rules in docs/metrics.md fire for the states that a run exports."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any, get_args

import pytest
from prometheus_client import CollectorRegistry

from edge.errors import SourceError
from edge.outputs.telemetry.metrics import RunMetrics
from edge.run.interfaces import Result, Sink
from edge.run.loop import run
from edge.run.status import State, Status, Transition
from edge.sources.feeds import Feed
from tests.run.test_loop import Fake

MANUAL = Path(__file__).parents[3] / "docs" / "metrics.md"
RULE = re.compile(r"- alert: (\w+)\n +expr: (.*)")
# A rule on the state alone; its label is compared, or matched with an anchored expression.
BY_STATE = re.compile(r'edge_source_state{state(=~?)"([^"]*)"} == 1')


def alerts_of(status: Status) -> dict[str, set[str]]:
    """The alerts on states that fire, after their time, for each source of a run."""
    registry = CollectorRegistry()
    registry.register(RunMetrics(status))
    states = [
        sample.labels
        for family in registry.collect()
        for sample in family.samples
        if sample.name == "edge_source_state" and sample.value == 1
    ]
    fired: dict[str, set[str]] = {source.name: set() for source in status.sources}
    for alert, expression in RULE.findall(MANUAL.read_text()):
        if match := BY_STATE.fullmatch(expression):
            wanted = match[2] if match[1] == "=~" else re.escape(match[2])
            for labels in states:
                if re.fullmatch(wanted, labels["state"]):
                    fired[labels["source"]].add(alert)
    return fired


def test_a_camera_that_is_off_from_the_start_fires_an_alert(engine: Any, paint: Any) -> None:
    def refuse(first: int, wait: float) -> Any:
        raise SourceError("it is off", "switch it on")

    class Both(Sink):
        """Stops the run when one camera plays and the other was tried."""

        def __init__(self) -> None:
            self.stop = threading.Event()
            self._tried = False

        def changed(self, transition: Transition) -> None:
            self._tried = self._tried or transition == Transition(
                "off", "waiting", "it is off; switch it on"
            )

        def write(self, result: Result) -> None:
            if self._tried:
                self.stop.set()

    status, both = Status(), Both()
    on = Feed("on", lambda first, wait: Fake(paint, 10**6, "on", live=True), live=True)
    off = Feed("off", refuse, live=True)
    seen: list[dict[str, set[str]]] = []
    run(
        engine, [on, off], [both], status=status, stop=both.stop,
        on_end=lambda summary: seen.append(alerts_of(status)),
    )  # fmt: skip
    assert seen == [{"on": set(), "off": {"SourceIsAway"}}]


@pytest.mark.parametrize("state", get_args(State))
def test_every_state_except_playing_and_ended_fires_an_alert(state: State) -> None:
    status = Status()
    status.change(Transition("door", state))
    alerts = {
        "failed": {"SourceFailed"},
        "connecting": {"SourceIsAway"},
        "waiting": {"SourceIsAway"},
    }
    assert alerts_of(status) == {"door": alerts.get(state, set())}


def test_the_rules_name_existing_states() -> None:
    named = re.findall(r'state=~?"([^"]*)"', "".join(map(str, RULE.findall(MANUAL.read_text()))))
    assert len(named) > 2
    assert {state for names in named for state in names.split("|")} <= set(get_args(State))
