"""SourceAudit: when deviations are reported, and when they are resolved."""

from __future__ import annotations

import pytest

from edge.outputs.audit.auditor import LumaRange, Verdict
from edge.outputs.audit.findings import SourceAudit

GOOD = Verdict(agrees=True, probability=0.4, largest=1.0, mean=0.1, luma=None)


def verdict(**changes: object) -> Verdict:
    return Verdict(**{**GOOD.__dict__, **changes})


def feed(audit: SourceAudit, *verdicts: Verdict, full_range: bool = False) -> list[str]:
    return [message for each in verdicts for message in audit.add(each, full_range)]


@pytest.fixture
def audit() -> SourceAudit:
    return SourceAudit("yard")


def test_a_good_engine_causes_no_message(audit):
    assert feed(audit, *[GOOD] * 500) == []
    assert audit.numbers() == {
        "frames": 500,
        "agreement": 1.0,
        "skipped": 0,
        "lost": 0,
        "probability_points": 0.4,
        "input_levels": {"largest": 1.0, "mean": 0.1},
    }


def test_without_frames_agreement_and_differences_are_null(audit):
    numbers = audit.numbers()
    assert numbers["agreement"] is None
    assert numbers["probability_points"] is None


def test_one_disagreement_in_fifty_is_not_reported(audit):
    bad = verdict(agrees=False)
    assert feed(audit, *[bad, *[GOOD] * 49] * 10) == []
    assert audit.numbers()["agreement"] == 0.98


def test_an_engine_that_is_wrong_from_the_start_is_reported_after_three_frames(audit):
    bad = verdict(agrees=False)
    assert feed(audit, bad, bad) == []
    (message,) = feed(audit, bad)
    assert message.startswith("yard: the engine agrees with the FP32 graph on 0 of the last 3")


def test_an_engine_that_becomes_wrong_is_reported_once_within_a_hundred_frames(audit):
    feed(audit, *[GOOD] * 1000)
    messages = feed(audit, *[verdict(agrees=False), GOOD] * 50)
    assert len(messages) == 1
    assert "labels" in audit.deviations
    assert feed(audit, *[verdict(agrees=False), GOOD] * 200) == []


def test_a_deviation_is_resolved_when_95_of_the_last_100_frames_agree(audit):
    feed(audit, *[verdict(agrees=False)] * 100)
    assert feed(audit, *[GOOD] * 94) == []
    assert feed(audit, *[GOOD] * 6) == ["yard: the engine and the FP32 graph agree again"]
    assert audit.deviations == {}


def test_input_differences_above_rounding_are_reported(audit):
    assert feed(audit, verdict(largest=2.5)) == []
    wrong = verdict(largest=17.0, mean=8.5)
    (message,) = feed(audit, wrong, wrong, wrong)
    assert "differs from the reference by up to 17 grey levels (mean 8.5)" in message
    assert feed(audit, GOOD) == ["yard: the engine's input matches the reference again"]
    assert audit.numbers()["input_levels"] == pytest.approx({"largest": 17, "mean": 8.5}, rel=0.01)


def test_declared_limited_range_with_samples_outside_is_reported(audit):
    full = verdict(luma=LumaRange(3, 252, 0.08))
    (message,) = feed(audit, full, full)
    assert "the stream declares luma 16 to 235, but 8% lies outside" in message


def test_compression_artefacts_outside_the_range_are_not_reported(audit):
    assert feed(audit, *[verdict(luma=LumaRange(14, 238, 0.004))] * 30) == []


def test_declared_full_range_within_16_to_235_is_reported_after_ten_frames(audit):
    limited = verdict(luma=LumaRange(16, 235, 0.0))
    assert feed(audit, *[limited] * 9, full_range=True) == []
    (message,) = feed(audit, limited, full_range=True)
    assert "luma 0 to 255, but 10 audited frames only have 16 to 235" in message
    full = verdict(luma=LumaRange(1, 250, 0.05))
    messages = feed(audit, full, full_range=True)
    assert messages == ["yard: the luma range matches its declaration again"]


def test_a_low_contrast_scene_does_not_show_its_range(audit):
    assert feed(audit, *[verdict(luma=LumaRange(40, 180, 0.0))] * 30, full_range=True) == []


def test_merge_adds_the_counts_of_sources(audit):
    total = SourceAudit("all")
    feed(audit, GOOD, verdict(agrees=False))
    audit.skipped, audit.lost = 3, 1
    for _ in range(2):
        total.merge(audit)
    numbers = total.numbers()
    assert (numbers["frames"], numbers["agreement"]) == (4, 0.5)
    assert (numbers["skipped"], numbers["lost"]) == (6, 2)
    assert total.largest.count == total.mean.count == total.probability.count == 4
