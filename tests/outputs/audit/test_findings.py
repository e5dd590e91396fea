"""When audits become a warning, and when the warning is over."""

from __future__ import annotations

import pytest

from edge.outputs.audit.auditor import Luma, Verdict
from edge.outputs.audit.findings import Parity

GOOD = Verdict(agrees=True, probability=0.4, largest=1.0, mean=0.1, luma=None)


def verdict(**changes: object) -> Verdict:
    return Verdict(**{**GOOD.__dict__, **changes})


def feed(parity: Parity, *verdicts: Verdict, full_range: bool = False) -> list[str]:
    return [said for each in verdicts for said in parity.add(each, full_range)]


@pytest.fixture
def parity() -> Parity:
    return Parity("yard")


def test_a_good_engine_is_not_spoken_of(parity):
    assert feed(parity, *[GOOD] * 500) == []
    assert parity.numbers() == {
        "frames": 500,
        "agreement": 1.0,
        "skipped": 0,
        "lost": 0,
        "probability_points": 0.4,
        "input_levels": {"largest": 1.0, "mean": 0.1},
    }


def test_without_frames_there_are_no_numbers(parity):
    numbers = parity.numbers()
    assert numbers["agreement"] is None
    assert numbers["probability_points"] is None


def test_one_frame_in_fifty_proves_nothing(parity):
    odd = verdict(agrees=False)
    assert feed(parity, *[odd, *[GOOD] * 49] * 10) == []
    assert parity.numbers()["agreement"] == 0.98


def test_an_engine_that_is_wrong_from_the_start_is_found_in_three_frames(parity):
    bad = verdict(agrees=False)
    assert feed(parity, bad, bad) == []
    (said,) = feed(parity, bad)
    assert said.startswith("yard: the engine says the same as the FP32 graph of 0 of the last 3")


def test_one_that_becomes_wrong_is_found_within_a_hundred_and_said_once(parity):
    feed(parity, *[GOOD] * 1000)
    said = feed(parity, *[verdict(agrees=False), GOOD] * 50)
    assert len(said) == 1
    assert "labels" in parity.deviations
    assert feed(parity, *[verdict(agrees=False), GOOD] * 200) == []


def test_it_is_right_again_when_enough_of_the_last_hundred_are(parity):
    feed(parity, *[verdict(agrees=False)] * 100)
    assert feed(parity, *[GOOD] * 94) == []
    assert feed(parity, *[GOOD] * 6) == ["yard: the engine and the FP32 graph agree again"]
    assert parity.deviations == {}


def test_what_the_engine_saw_may_differ_by_roundings_only(parity):
    assert feed(parity, verdict(largest=2.5)) == []
    wrong = verdict(largest=17.0, mean=8.5)
    (said,) = feed(parity, wrong, wrong, wrong)
    assert "differs from the reference by up to 17 grey levels, 8.5 in the mean" in said
    assert feed(parity, GOOD) == ["yard: the engine sees again what the reference sees"]
    assert parity.numbers()["input_levels"] == pytest.approx({"largest": 17, "mean": 8.5}, rel=0.01)


def test_limited_range_with_levels_outside_is_doubted(parity):
    full = verdict(luma=Luma(3, 252, 0.08))
    (said,) = feed(parity, full, full)
    assert "says that its luma is 16 to 235, and 8% lies outside" in said


def test_the_ringing_of_a_compressed_picture_is_no_doubt(parity):
    assert feed(parity, *[verdict(luma=Luma(14, 238, 0.004))] * 30) == []


def test_full_range_that_ends_at_the_limits_is_doubted_after_ten_frames(parity):
    limited = verdict(luma=Luma(16, 235, 0.0))
    assert feed(parity, *[limited] * 9, full_range=True) == []
    (said,) = feed(parity, limited, full_range=True)
    assert "luma is 0 to 255, and in 10 audited frames it ends at 16 and 235" in said
    whole = verdict(luma=Luma(1, 250, 0.05))
    said = feed(parity, whole, full_range=True)
    assert said == ["yard: the range of its luma is again what it says"]


def test_a_dull_scene_says_nothing_of_its_range(parity):
    assert feed(parity, *[verdict(luma=Luma(40, 180, 0.0))] * 30, full_range=True) == []


def test_sources_are_added_up(parity):
    whole = Parity("all")
    feed(parity, GOOD, verdict(agrees=False))
    parity.skipped, parity.lost = 3, 1
    for _ in range(2):
        whole.merge(parity)
    numbers = whole.numbers()
    assert (numbers["frames"], numbers["agreement"]) == (4, 0.5)
    assert (numbers["skipped"], numbers["lost"]) == (6, 2)
    assert whole.largest.count == whole.mean.count == whole.probability.count == 4
