"""Rules for snapshots, such as `label=dog and confidence>0.8 for 2s`: parser and evaluation.

A rule tests the best class of a frame. Each source is evaluated separately. A rule fires once when
it has been true for its hold time without a break, and again only after it was false or the source
had a gap.
"""

from __future__ import annotations

import difflib
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeAlias

from edge.errors import OptionError, require
from edge.files.redaction import redact
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
# The hint for each terminal of the grammar.
_HINTS = {
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
    """What a rule is evaluated on: the best class of a frame."""

    label: str
    confidence: float
    source: str


Condition: TypeAlias = Callable[[Observation], bool]


@dataclass(frozen=True)
class Rule:
    """A parsed rule.

    text     the rule as it was written
    holds    function: whether the rule is true for an observation
    hold     seconds for which it must be true before it fires
    labels   the labels that it names
    sources  the sources that it names
    """

    text: str
    holds: Condition
    hold: float
    labels: tuple[str, ...]
    sources: tuple[str, ...]


def read_rule(text: str) -> Rule:
    """Parse a rule. Raises OptionError, which names the column of the mistake."""
    unexpected = require("lark").exceptions.UnexpectedInput
    try:
        condition, length = _parser().parse(text).children
    except unexpected as error:
        raise _unexpected(text, error) from None
    tests = [*condition.find_data("test")]
    for name, _, value in (test.children for test in tests):
        if name == "confidence" and float(value) > 1:
            raise _syntax_error(
                text, value.start_pos, "a confidence is a number from 0 to 1: write 0.8"
            )
    try:
        hold = seconds(length) if length else 0.0
    except OptionError as error:
        raise _syntax_error(text, length.start_pos, error.hint) from None
    named: dict[str, set[str]] = {"label": set(), "source": set()}
    for name, _, value in (test.children for test in tests):
        if name in named:
            named[name].add(_unquote(value))
    labels, sources = (tuple(sorted(names)) for names in named.values())
    try:
        return Rule(text, _compile(condition), hold, labels, sources)
    except RecursionError:
        raise OptionError("a rule is nested too deeply", "write several shorter rules") from None


def check_labels(rules: Iterable[Rule], labels: Sequence[str]) -> None:
    """Raises OptionError when a rule names a label that the engine lacks: it would never fire."""
    for rule in rules:
        _check_names(rule, rule.labels, labels, "the engine has no label")


def check_sources(rules: Iterable[Rule], sources: Sequence[str]) -> None:
    """Raises OptionError when a rule names a source that is not in the run."""
    for rule in rules:
        _check_names(rule, rule.sources, sources, "the run has no source")


class RuleState:
    """Evaluates a rule over time, for each source separately."""

    def __init__(self, rule: Rule):
        self.rule = rule
        self._timers: dict[str, _HoldTimer] = {}

    def fires(self, result: Result) -> bool:
        """Whether the rule fires with this result: it has now been true for its hold time."""
        frame, (_, label, confidence) = result.frame, result.prediction.top(1)[0]
        timer = self._timers.setdefault(frame.source, _HoldTimer())
        return timer.update(
            self.rule.holds(Observation(label, confidence, frame.source)),
            frame_time(frame),
            self.rule.hold,
        )

    def forget(self, source: str) -> None:
        """Reset the source, which was disconnected: it may show another scene next."""
        self._timers.pop(source, None)


@dataclass
class _HoldTimer:
    """Measures for how long a rule has been true on one source.

    since  `frame_time` of the first frame for which it was true; None while it is false
    fired  whether it has fired since then
    """

    since: float | None = None
    fired: bool = False
    cadence: Cadence = field(default_factory=Cadence)

    def update(self, holds: bool, time: float, hold: float) -> bool:
        """Add a frame at `time` for which the rule is true or not. Whether the rule fires."""
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


def _compile(tree: Any) -> Condition:
    """The condition that a branch of the syntax tree stands for."""
    if tree.data == "test":
        name, sign, value = tree.children
        compare = _COMPARE[sign]
        wanted = float(value) if name == "confidence" else _unquote(value)
        return lambda observation: compare(getattr(observation, name), wanted)
    parts = [_compile(child) for child in tree.children]
    if tree.data == "opposite":
        return lambda observation: not parts[0](observation)
    combine = any if tree.data == "either" else all
    return lambda observation: combine(part(observation) for part in parts)


def _check_names(rule: Rule, names: Iterable[str], known: Sequence[str], problem: str) -> None:
    """Raises OptionError, which begins with `problem`, for the first unknown name."""
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, cutoff=0.4) or known[:3]
            raise OptionError(
                f"{problem} {redact(name)!r}, which the rule {redact(rule.text)!r} names",
                f"write an existing name, such as: {', '.join(map(repr, near))}",
            )


def _unquote(name: str) -> str:
    return name[1:-1] if name[0] in "\"'" else str(name)


def _unexpected(text: str, error: Any) -> OptionError:
    expected = getattr(error, "allowed", None) or getattr(error, "accepts", None) or ()
    hints = [hint for terminal, hint in _HINTS.items() if terminal in expected]
    if "_AND" in expected:
        hints[-1] = 'or put a name with spaces in quotes: "Egyptian cat"'
    at_end = getattr(getattr(error, "token", None), "type", "") == "$END"
    position = len(text) if at_end else error.pos_in_stream
    return _syntax_error(text, position, f"expected there: {', '.join(hints)}")


def _syntax_error(text: str, position: int, hint: str) -> OptionError:
    rest, shown = text[position:].split(), redact(text)
    where = f" at {rest[0]!r}" if rest else " at its end"
    if shown != text:  # the mistake may be inside a password
        where = ""
    return OptionError(f"the rule {shown!r} is not understood{where}, column {position + 1}", hint)
