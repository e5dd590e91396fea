"""The run's own account of itself."""

from __future__ import annotations

from edge.run.status import Status, Transition


def test_a_source_is_connecting_until_it_is_said_to_play():
    now = [5.0]
    status = Status(clock=lambda: now[0])
    assert status.add("camera").state == "connecting"
    now[0] = 7.0
    status.change(Transition("camera", "playing"))
    (source,) = status.sources
    assert (source.state, source.since, source.reconnects) == ("playing", 7.0, 0)


def test_only_the_end_of_an_outage_is_a_reconnect():
    status = Status()
    status.add("camera")
    for state, outage in (("playing", None), ("waiting", None), ("playing", 2.5)):
        status.change(Transition("camera", state, outage=outage))
    assert status.sources[0].reconnects == 1


def test_a_source_that_comes_back_goes_on_counting():
    status = Status()
    status.add("camera").dropped += 3
    assert status.add("camera").dropped == 3
    assert [source.name for source in status.sources] == ["camera"]


def test_stages_are_counted_by_name():
    status = Status()
    status.stage("infer", 4.0)
    status.stage("infer", 6.0)
    assert status.stages["infer"].count == 2
    assert status.stages["infer"].sum == 10.0
