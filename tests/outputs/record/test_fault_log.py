"""What fails again and again is said once, and once more when it is over."""

from __future__ import annotations

from edge.outputs.record.fault_log import FaultLog


def test_a_failure_is_said_once_and_counted_until_it_works() -> None:
    said: list[str] = []
    log = FaultLog(said.append)
    log.works("", "all is well")
    for _ in range(3):
        log.failed("", OSError("the disk is full"), "pictures are lost until then")
    assert said == ["the disk is full; pictures are lost until then"]
    log.works("", "pictures are written")
    log.works("", "pictures are written")
    assert said[1:] == ["pictures are written again, after 3 that failed"]
    log.failed("", OSError("the disk is full"), "pictures are lost until then")
    assert len(said) == 3
    assert log.count == 4


def test_each_key_has_its_own_entry() -> None:
    said: list[str] = []
    log = FaultLog(said.append)
    for key in ("gate", "yard", "gate"):
        log.failed(key, OSError(f"no room for {key}"), "it goes on")
    log.works("gate", "gate is recorded")
    assert said == [
        "no room for gate; it goes on",
        "no room for yard; it goes on",
        "gate is recorded again, after 2 that failed",
    ]
    assert log.count == 3
