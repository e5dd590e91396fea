"""Rules: their meaning, their error messages, and when they fire."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.errors import OptionError
from edge.outputs.record.rules import Observation, RuleState, check_labels, check_sources, read_rule
from edge.preprocess.surface import Surface
from edge.run.interfaces import Result
from edge.sources.frame import Frame

SURFACE = Surface.from_rgb(np.zeros((1, 1, 3), np.uint8))


class OneClass:
    """A prediction of one class."""

    def __init__(self, label: str, confidence: float):
        self.label, self.confidence = label, confidence

    def top(self, k: int) -> list[tuple[int, str, float]]:
        return [(0, self.label, self.confidence)]


def result(label: str, time: float, source: str = "gate", confidence: float = 0.9) -> Result:
    frame = Frame(source, 0, time, 0.0, "system", SURFACE)
    return Result(frame, OneClass(label, confidence), 0.0, 0.0, 0.0)


def firings(text: str, labels: str, rate: float = 10) -> list[float]:
    """The times at which a rule fires; each letter of `labels` is a frame: d a dog, c a cat."""
    state, names = RuleState(read_rule(text)), {"d": "dog", "c": "cat"}
    return [
        number / rate
        for number, letter in enumerate(labels)
        if state.fires(result(names[letter], number / rate))
    ]


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("label=dog", True),
        ("label==dog", True),
        ("label != dog", False),
        ("label=cat", False),
        ("label='dog'", True),
        ('label="dog" and source="gate"', True),
        ("source=yard", False),
        ("confidence>0.8", False),
        ("confidence>=0.8", True),
        ("confidence<0.8", False),
        ("confidence<=0.8", True),
        ("confidence > .5", True),
        ("not label=dog", False),
        ("not not label=dog", True),
        ("NOT label=cat AND source=gate", True),
        ("label=cat or label=dog", True),
        ("label=dog or label=cat and source=yard", True),  # "and" binds tighter than "or"
        ("(label=dog or label=cat) and source=yard", False),
        ("not (label=cat or label=fox) for 3s", True),
    ],
)
def test_a_rule_is_evaluated_for_a_frame(text: str, holds: bool) -> None:
    assert read_rule(text).holds(Observation("dog", 0.8, "gate")) is holds


@pytest.mark.parametrize(
    "label", ["for", "and", "Egyptian cat", "猫", "it's", "a(b)", "tabby, cat"]
)
def test_any_label_can_be_named_in_quotes(label: str) -> None:
    rule = read_rule(f'label="{label}" for 1s')
    assert rule.holds(Observation(label, 0.5, "gate"))
    assert rule.labels == (label,)


def test_keywords_are_names_after_an_equals_sign() -> None:
    assert read_rule("label=for for 1s").labels == ("for",)


def test_the_hold_time_is_parsed() -> None:
    assert read_rule("label=dog").hold == 0
    assert read_rule("label=dog for 2s").hold == 2
    assert read_rule("label=dog for 500 ms").hold == 0.5


@pytest.mark.parametrize(
    ("text", "where", "hint"),
    [
        ("", "at its end, column 1", "label=NAME, source=NAME, confidence>0.8, not, ("),
        ("lable=dog", "at 'lable=dog', column 1", "label=NAME"),
        ("label=Egyptian cat", "at 'cat', column 16", 'quotes: "Egyptian cat"'),
        ("label=dog und source=a", "at 'und', column 11", "and, or, for 2s"),
        ("label>dog", "at '>dog', column 6", "=, !="),
        ("confidence=0.8", "at '=0.8', column 11", "one of > >= < <="),
        ("confidence>80", "at '80', column 12", "a number from 0 to 1"),
        ("confidence>high", "at 'high', column 12", "a number from 0 to 1"),
        ("(label=dog", "at its end, column 11", "expected there: )"),
        ("label=dog)", "at ')', column 10", "nothing more"),
        ("label=dog for", "at its end, column 14", "a time such as 2s"),
        ("label=dog for 2", "at '2', column 15", "a time such as 2s"),
        ("label=dog for 2 years", "at '2', column 15", "write 500ms, 2s"),
        ("label=dog for 2s or label=cat", "at 'or', column 18", "nothing more"),
        ('label="dog', "at '\"dog', column 7", "a name"),
        ("notlabel=dog", "at 'notlabel=dog', column 1", "not"),
        ("label=a or\n)", "at ')', column 12", "label=NAME"),
    ],
)
def test_an_error_names_the_column_and_what_is_expected_there(
    text: str, where: str, hint: str
) -> None:
    with pytest.raises(OptionError, match=re.escape(f"is not understood {where};")) as error:
        read_rule(text)
    assert hint in error.value.hint


def test_a_rule_nested_too_deeply_is_refused() -> None:
    with pytest.raises(OptionError, match="a rule is nested too deeply; write several"):
        read_rule("not " * 5000 + "label=dog")


def test_an_unknown_label_is_refused_and_the_nearest_is_suggested() -> None:
    rules = [read_rule("label=dgo or label=cat")]
    check_labels(rules, ["dog", "dgo", "cat"])
    with pytest.raises(OptionError, match=r"no label 'dgo'.*such as: 'dog'"):
        check_labels(rules, ["cat", "dog", "fox"])


def test_an_unknown_source_is_refused_and_the_nearest_is_suggested() -> None:
    rules = [read_rule("source=door and (label=dog or source='the yard')")]
    check_sources(rules, ["the yard", "door", "gate"])
    with pytest.raises(OptionError, match=r"no source 'door'.*such as: 'doors'"):
        check_sources(rules, ["the yard", "doors"])


def test_without_a_hold_time_a_rule_fires_when_it_becomes_true_and_again_after_it_was_false() -> (
    None
):
    assert firings("label=dog", "ccdddcdd") == [0.2, 0.6]


def test_a_rule_fires_once_when_it_has_been_true_for_its_hold_time() -> None:
    assert firings("label=dog for 500ms", "c" + "d" * 30) == [0.6]


def test_a_frame_for_which_it_is_false_resets_the_hold_time() -> None:
    assert firings("label=dog for 500ms", "ddddd" + "c" + "ddddddd") == [1.1]


def test_the_hold_time_is_measured_in_frame_time_at_any_rate() -> None:
    assert firings("label=dog for 2s", "d" * 100, rate=10) == [2.0]
    assert firings("label=dog for 2s", "d" * 100, rate=1) == [2.0]


def test_each_source_has_its_own_hold_time() -> None:
    state = RuleState(read_rule("label=dog for 1s"))
    fired = []
    for number in range(21):
        for source, since in (("gate", 0.0), ("yard", 0.5)):
            label = "dog" if number / 10 >= since else "cat"
            if state.fires(result(label, number / 10, source)):
                fired.append((source, number / 10))
    assert fired == [("gate", 1.0), ("yard", 1.5)]


def test_a_gap_resets_the_hold_time() -> None:
    state = RuleState(read_rule("label=dog for 1s"))
    times = [number / 10 for number in range(9)] + [60 + number / 10 for number in range(12)]
    assert [time for time in times if state.fires(result("dog", time))] == [61.0]


def test_forget_resets_the_hold_time() -> None:
    state = RuleState(read_rule("label=dog for 1s"))
    times = [number / 10 for number in range(21)]
    fired = []
    for time in times:
        if time == 0.5:
            state.forget("gate")
        if state.fires(result("dog", time)):
            fired.append(time)
    assert fired == [1.5]


def test_after_a_gap_a_rule_that_fired_can_fire_again() -> None:
    state = RuleState(read_rule("label=dog"))
    fired: list[Any] = [state.fires(result("dog", time)) for time in (0.0, 0.1, 0.2, 30.0, 30.1)]
    assert fired == [True, False, False, True, False]


def test_the_rules_in_the_documentation_can_be_parsed() -> None:
    manual = (Path(__file__).parents[3] / "docs" / "recording.md").read_text()
    rules = manual.partition("## Rules\n\n```\n")[2].partition("```")[0].splitlines()
    assert len(rules) == 3
    for text in [*rules, *re.findall(r'--on "(.*?)" --', manual)]:
        assert read_rule(text).text == text
