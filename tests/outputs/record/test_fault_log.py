"""FaultLog: a repeated failure is reported once, and once more when it is over."""

from __future__ import annotations

from edge.outputs.record.fault_log import FaultLog


def test_a_failure_is_reported_once_until_success_and_each_is_counted() -> None:
    lines: list[str] = []
    log = FaultLog(lines.append)
    log.works("", "all is well")
    for _ in range(3):
        log.failed("", OSError("the disk is full"), "pictures are lost until then")
    assert lines == ["the disk is full; pictures are lost until then"]
    log.works("", "pictures are written")
    log.works("", "pictures are written")
    assert lines[1:] == ["pictures are written again after 3 failures"]
    log.failed("", OSError("the disk is full"), "pictures are lost until then")
    assert len(lines) == 3
    assert log.count == 4


def test_each_key_is_reported_separately() -> None:
    lines: list[str] = []
    log = FaultLog(lines.append)
    for key in ("gate", "yard", "gate"):
        log.failed(key, OSError(f"no room for {key}"), "labelling continues")
    log.works("gate", "gate is recorded")
    assert lines == [
        "no room for gate; labelling continues",
        "no room for yard; labelling continues",
        "gate is recorded again after 2 failures",
    ]
    assert log.count == 3
