"""Rules, such as `label=dog and confidence>0.8 for 2s`: when something is worth a picture.

A rule speaks of the best class of a frame. It fires once when it has been true for its time without
a break, on one source, and again only after it was false or the source was away.
"""

from __future__ import annotations

import difflib
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeAlias

from edge.errors import OptionError, require
from edge.outputs.record.cadence import Cadence, frame_time
from edge.outputs.record.durations import seconds
from edge.run.interfaces import Result

__all__ = ["Observation", "Rule", "RuleState", "check_labels", "check_sources", "read_rule"]

_GRAMMAR = r"""
    rule: either [_FOR DURATION]
    ?either: both (_OR both)*
    ?both: single (_AND single)*
    ?single: _NOT single -> opposite
        | "(" either ")"
        | (LABEL | SOURCE) (IS | IS_NOT) (WORD | QUOTED) -> test
        | CONFIDENCE ORDER NUMBER -> test

    LABEL: "label"
    SOURCE: "source"
    CONFIDENCE: "confidence"
    IS: "==" | "="
    IS_NOT: "!="
    ORDER: ">=" | "<=" | ">" | "<"
    _AND: /and\b/i
    _OR: /or\b/i
    _NOT: /not\b/i
    _FOR: /for\b/i
    NUMBER: /\d*\.?\d+/
    DURATION: /[\d.]+ *[a-z]+/
    QUOTED: /"[^"]+"|'[^']+'/
    WORD: /[^\s()"'=<>!]+/
    %ignore /\s+/
"""
# What a person may write where the grammar takes one of its terminals.
_WORDS = {
    "LABEL": "label=NAME",
    "SOURCE": "source=NAME",
    "CONFIDENCE": "confidence>0.8",
    "IS": "=",
    "IS_NOT": "!=",
    "ORDER": "one of > >= < <=",
    "_AND": "and",
    "_OR": "or",
    "_NOT": "not",
    "_FOR": "for 2s",
    "NUMBER": "a number from 0 to 1",
    "DURATION": "a time such as 2s",
    "WORD": 'a name, in quotes if it has spaces: "Egyptian cat"',
    "LPAR": "(",
    "RPAR": ")",
    "$END": "nothing more",
}
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}


@dataclass(frozen=True)
class Observation:
    """What a rule looks at: the best class of a frame."""

    label: str
    confidence: float
    source: str


Condition: TypeAlias = Callable[[Observation], bool]


@dataclass(frozen=True)
class Rule:
    """A rule that was understood.

    text     as it was written
    holds    whether it is true of a frame
    hold     seconds that it must be true for
    labels   the labels that it names
    sources  the sources that it names
    """

    text: str
    holds: Condition
    hold: float
    labels: tuple[str, ...]
    sources: tuple[str, ...]


def read_rule(text: str) -> Rule:
    """Understand a rule. Raises OptionError, which points at the column that is wrong."""
    unexpected = require("lark").exceptions.UnexpectedInput
    try:
        condition, length = _parser().parse(text).children
    except unexpected as error:
        raise _unexpected(text, error) from None
    tests = [*condition.find_data("test")]
    for name, _, value in (test.children for test in tests):
        if name == "confidence" and float(value) > 1:
            raise _wrong(text, value.start_pos, "a confidence is a number from 0 to 1: write 0.8")
    try:
        hold = seconds(length) if length else 0.0
    except OptionError as error:
        raise _wrong(text, length.start_pos, error.hint) from None
    named: dict[str, set[str]] = {"label": set(), "source": set()}
    for name, _, value in (test.children for test in tests):
        if name in named:
            named[name].add(_bare(value))
    labels, sources = (tuple(sorted(names)) for names in named.values())
    try:
        return Rule(text, _meaning(condition), hold, labels, sources)
    except RecursionError:
        raise OptionError("a rule is nested too deeply", "write several, shorter ones") from None


def check_labels(rules: Iterable[Rule], labels: Sequence[str]) -> None:
    """Raises OptionError when a rule names a label that the engine has not: it would never fire."""
    for rule in rules:
        _check_names(rule, rule.labels, labels, "the engine has no label")


def check_sources(rules: Iterable[Rule], sources: Sequence[str]) -> None:
    """Raises OptionError when a rule names a source that the run has not."""
    for rule in rules:
        _check_names(rule, rule.sources, sources, "the run has no source")


class RuleState:
    """Sees when a rule comes true, on each source by itself."""

    def __init__(self, rule: Rule):
        self.rule = rule
        self._sources: dict[str, _Spell] = {}

    def fires(self, result: Result) -> bool:
        """Whether the rule has, with this result, been true for as long as it must."""
        frame, (_, label, confidence) = result.frame, result.prediction.top(1)[0]
        spell = self._sources.setdefault(frame.source, _Spell())
        return spell.over(
            self.rule.holds(Observation(label, confidence, frame.source)),
            frame_time(frame),
            self.rule.hold,
        )

    def forget(self, source: str) -> None:
        """The source stopped: nothing is known of what it shows next."""
        self._sources.pop(source, None)


@dataclass
class _Spell:
    """For how long a rule has been true on one source.

    since  `frame_time` of the first frame of which it was true; None while it is false
    fired  that was long enough, and was told
    """

    since: float | None = None
    fired: bool = False
    cadence: Cadence = field(default_factory=Cadence)

    def over(self, holds: bool, time: float, hold: float) -> bool:
        if self.cadence.broken(time) or not holds:
            self.since, self.fired = None, False
        if not holds:
            return False
        if self.since is None:
            self.since = time
        fires = not self.fired and time - self.since >= hold
        self.fired |= fires
        return fires


@lru_cache(maxsize=1)
def _parser() -> Any:
    return require("lark").Lark(_GRAMMAR, start="rule", parser="lalr", maybe_placeholders=True)


def _meaning(tree: Any) -> Condition:
    """What a branch of the tree says of a frame."""
    if tree.data == "test":
        name, sign, value = tree.children
        compare = _COMPARE[sign]
        wanted = float(value) if name == "confidence" else _bare(value)
        return lambda seen: compare(getattr(seen, name), wanted)
    parts = [_meaning(child) for child in tree.children]
    if tree.data == "opposite":
        return lambda seen: not parts[0](seen)
    among = any if tree.data == "either" else all
    return lambda seen: among(part(seen) for part in parts)


def _check_names(rule: Rule, names: Iterable[str], known: Sequence[str], none: str) -> None:
    """Raises OptionError for the first of the names that is not known; none: how that begins."""
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, cutoff=0.4) or known[:3]
            raise OptionError(
                f"{none} {name!r}, which the rule {rule.text!r} names",
                f"write one of its own, such as: {', '.join(map(repr, near))}",
            )


def _bare(name: str) -> str:
    return name[1:-1] if name[0] in "\"'" else str(name)


def _unexpected(text: str, error: Any) -> OptionError:
    wanted = getattr(error, "allowed", None) or getattr(error, "accepts", None) or ()
    words = [word for terminal, word in _WORDS.items() if terminal in wanted]
    if "_AND" in wanted:
        words[-1] = 'or put a name with spaces in quotes: "Egyptian cat"'
    at_end = getattr(getattr(error, "token", None), "type", "") == "$END"
    place = len(text) if at_end else error.pos_in_stream
    return _wrong(text, place, f"write there: {', '.join(words)}")


def _wrong(text: str, place: int, hint: str) -> OptionError:
    rest = text[place:].split()
    where = f"at {rest[0]!r}" if rest else "at its end"
    return OptionError(f"the rule {text!r} is not understood {where}, column {place + 1}", hint)
