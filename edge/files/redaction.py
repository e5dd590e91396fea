"""Redaction: texts without the user names, passwords and keys that they contain.

In doubt too much is hidden: a password may contain any character, and a URI may be mistyped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

__all__ = [
    "VARIABLE",
    "contains_password",
    "holds_secret",
    "redact",
    "redact_address",
    "redact_text",
]

VARIABLE = re.compile(r"\$\{(\w+)\}")

Span = tuple[int, int]  # the first character of a secret, and the one after its last

_HIDDEN = "***"
_LOCAL = ("file:///", "/dev/")  # a path, in which '@' and '=' are plain characters
_SCHEME = re.compile(r"\A(?:gst:|[a-z][\w+.-]+:/)", re.I)
# What ends a scheme, also with too few slashes. Not the scheme itself: looking for a word before a
# colon takes quadratic time in a long text.
_AFTER_SCHEME = re.compile(r"(?<=[\w+.-]{2}):/+")
_AT = re.compile(r"@|%40")
_COLON = re.compile(r":|%3A", re.I)
# An '@' after a plain host and a slash belongs to the path, unless a colon is between them. After a
# host name with a port that is not certain: they may be a user and a password with a slash in it.
_HOST = re.compile(
    r"(?:(?P<name>[^\s/?#@:%]+)|(?:\[[\da-f:.]+\]|\d{1,3}(?:\.\d{1,3}){3})(?::\d*)?)[/?#]", re.I
)
# A user and a password without a host: what follows the colon is neither a port nor a variable.
_NO_PORT = re.compile(
    r"[^\s/?#@:\[\]\"']+:(?!\$\{|\d*(?:[/?#\"']|[),.;:]*(?:\s|\Z)))[^\s/?#\"']*", re.I
)
_QUOTED = re.compile(r'"((?:\\.|[^"\\])*)"', re.S)
_KEY = (
    r"(?:p(?:s?w|s?wd|sd|word)|pas\w{0,20}|pin|token|secret|key|auth\w{0,20}|cred\w{0,20}"
    r"|sig\w{0,20}|jwt|sid|session\w{0,20}|(?<!en)(?<!de)(?<!ns)code"  # but not encode, transcode
    r"|user-id)"
)
_NEXT = r"(?=&[\w.-]+=|\Z)"  # where a value ends in a URI, even if it contains a '&'
_IN_QUERY = re.compile(rf"{_KEY}(?:=|%3D)(?P<value>.*?){_NEXT}", re.I | re.S)
# Of an element's property the value ends at an unquoted space.
_PROPERTY = re.compile(
    rf"""{_KEY}\s*(?:=|%3D)\s*"""
    r"""(?P<value>("(?:\\.|[^"\\])*("|$)|'(?:\\.|[^'\\])*('|$))?(\\.|[^\s\\])*)""",
    re.I | re.S,
)
# Next to a `u`, the user, `p` is a password and not a page.
_USER = re.compile(r"[?&]u=", re.I)
_SHORT_IN_QUERY = re.compile(rf"[?&]p=(?P<value>.*?){_NEXT}", re.I | re.S)
_SHORT = re.compile(rf"[?&]p=(?P<value>[^\s\"']*?)(?=[\s\"']|{_NEXT})", re.I)
# In a text whose variables are replaced by NUL.
_LOGIN = re.compile(r"://[^/?#@\s:]*:\0*[^/?#@\s\0][^/?#@\s]*@")
_VALUE = re.compile(rf"{_KEY}\s*=\s*[\"']?[^\s&\"'\0]", re.I)
_SHORT_VALUE = re.compile(r"[?&]p=[^\s&\"'\0]", re.I)


def redact(text: str) -> str:
    """A URI, or a path, without user name, password and the values of keys.

    A mistyped URI may have no scheme: if a text has a colon, all before an '@' is hidden.
    """
    if text.startswith(_LOCAL):
        return text
    if text.startswith("gst:"):
        return redact_text(text)
    if _SCHEME.match(text) or not _COLON.search(text):
        return _of_uri(text)
    return redact_address(text)


def redact_address(text: str) -> str:
    """An address that is a URI or not: without a scheme, all before an '@' is hidden."""
    if _SCHEME.match(text):
        return redact(text)
    return _of_uri(text, (0, _last_at(text)))


def redact_text(text: str) -> str:
    """The text of a pipeline, or a message of GStreamer, without user names, passwords and keys."""
    text = _QUOTED.sub(lambda found: f'"{_of_uri(found[1])}"', text)
    spans, start = list(_values(text, _PROPERTY, _SHORT)), 0
    # Element by element, so that an '@' hides only its own element.
    for element in re.split(r"(\s+!\s+)", text):
        spans += [(start + begin, start + end) for begin, end in _logins(element)]
        start += len(element)
    return _without(text, spans)


def holds_secret(text: str) -> bool:
    """Whether a URI in `text` holds a secret; a text without a URI does not."""
    return bool(_AFTER_SCHEME.search(text)) and redact(text) != text


def contains_password(uri: str) -> bool:
    """Whether `uri` contains a password or a key itself, not a variable for it."""
    plain = VARIABLE.sub("\0", uri)
    short = _USER.search(plain) and _SHORT_VALUE.search(plain)
    return bool(_LOGIN.search(plain) or _VALUE.search(plain) or short)


def _of_uri(text: str, *more: Span) -> str:
    return _without(text, [*_logins(text), *_values(text, _IN_QUERY, _SHORT_IN_QUERY), *more])


def _without(text: str, spans: Iterable[Span]) -> str:
    """`text` with `_HIDDEN` in place of the spans, which may overlap."""
    parts, done = list[str](), 0
    for start, end in sorted(spans):
        if end < start:
            continue
        if start >= done:
            parts += [text[done:start], _HIDDEN]
        done = max(done, end)
    return "".join([*parts, text[done:]])


def _last_at(text: str) -> int:
    """The index of the last '@', also if it is encoded; -1 without one."""
    return max((found.start() for found in _AT.finditer(text)), default=-1)


def _logins(text: str) -> Iterator[Span]:
    """What may be a user name and a password, after each scheme in `text`."""
    at = _last_at(text)
    for scheme in _AFTER_SCHEME.finditer(text):
        start = scheme.end()
        if at < start:
            if login := _NO_PORT.match(text, start):
                yield login.span()
        elif (host := _HOST.match(text, start)) is None:
            yield start, at
        elif _COLON.search(text, host.end(), at):
            yield start if host["name"] else host.end(), at


def _values(text: str, pattern: re.Pattern[str], short: re.Pattern[str]) -> Iterator[Span]:
    """The values of keys that hold secrets, and those of `short` next to a `u`."""
    for each in [pattern, short] if _USER.search(text) else [pattern]:
        yield from (found.span("value") for found in each.finditer(text))
