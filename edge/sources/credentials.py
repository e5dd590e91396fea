"""What opens a source: its address, with its variables replaced, and who may see it.

A password need not stand in a URI: it may be in the environment, as in
`rtsp://${CAMERA_USER}:${CAMERA_PASSWORD}@host/`, or in a netrc file. Either way it goes to the
element that connects, as a property, and never into the text of a pipeline.
"""

from __future__ import annotations

import netrc
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, unquote

from edge.errors import SourceError
from edge.sources.uris import (
    VARIABLE,
    address_of,
    as_uri,
    is_network,
    redact,
    redact_text,
    split_login,
)

__all__ = ["CREDENTIALS", "Access", "resolve"]

CREDENTIALS = "EDGE_CREDENTIALS"  # names the netrc file
_SYSTEMD = "CREDENTIALS_DIRECTORY"  # names the folder of what systemd hands a service


@dataclass(frozen=True)
class Access:
    """Where a source is, and what opens it. Only `name` may be shown.

    name      the URI as it was typed, without credentials
    uri       for GStreamer: variables replaced, user and password taken out
    template  the same, with its variables; where no secret can be, with their values
    user      and password: "" where the source has none
    secrets   what no message may hold
    """

    name: str
    uri: str = field(repr=False)
    template: str = field(repr=False)
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    secrets: Sequence[str] = field(default=(), repr=False)

    @property
    def place(self) -> str:
        """The camera of a network, for people: by its host and port, if they may be shown."""
        found = address_of(self.uri)
        # What looks like a host and a port may be a user and a password with a slash in it.
        if found is None or address_of(self.name) != found:
            return f"the camera {self.name}"
        return f"the camera at {found[0]}:{found[1]}"

    def hide(self, text: str) -> str:
        """`text`, of GStreamer's or ours, without what is secret."""
        for secret in sorted(filter(None, self.secrets), key=len, reverse=True):
            for shape in (secret, quote(secret), quote(secret, safe="")):
                text = text.replace(shape, "***")
        return redact_text(text)

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """What is secret is taken out of a SourceError that is raised in here."""
        try:
            yield
        except SourceError as error:
            # Not chained: the original says it all.
            raise type(error)(self.hide(error.problem), self.hide(error.hint)) from None


def resolve(
    text: str,
    *,
    credentials: str | os.PathLike[str] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Access:
    """What a person typed, with what it needs from the environment and the credentials file.

    credentials: a netrc file; by default the one that EDGE_CREDENTIALS names, if it is set.
    Raises SourceError when a variable is not set, nothing is at a path, or the file is unfit.
    """
    text = as_uri(text)
    name, values = redact(text), list[str]()

    def value(variable: str) -> str:
        if variable not in environ:
            raise SourceError(
                f"{name} needs the variable {variable}, which is not set",
                f"run: export {variable}=...",
            )
        values.append(environ[variable])
        return environ[variable]

    if whole := VARIABLE.fullmatch(text):
        text = value(whole[1])  # from here on as if it had been typed
    with Access(name, text, text, secrets=values).hidden():
        text = as_uri(text)
        login, template = split_login(text) if is_network(text) else ("", text)
        user, _, password = (_fill(part, value, unquote) for part in login.partition(":"))
        if text.startswith("gst:"):
            uri = _fill(template, lambda variable: _word(value(variable), variable))
        else:
            uri = as_uri(_fill(template, value))
        if login and "@" in template:  # it may be a password's, with a slash in front of it
            template = redact(text)
    if is_network(uri):
        path, address = credentials or environ.get(CREDENTIALS), address_of(uri)
        if path and address and not login:
            other = "name another" if credentials else f"unset {CREDENTIALS}"
            user, password = _from_file(Path(path), address[0], environ.get(_SYSTEMD), other)
    elif not uri.startswith("gst:"):
        template = uri
    return Access(name, uri, template, user, password, (*values, password))


def _fill(
    text: str, value: Callable[[str], str], literal: Callable[[str], str] = lambda text: text
) -> str:
    """`text` with its variables replaced by `value`, and what stands between by `literal`."""
    parts = VARIABLE.split(text)
    parts[::2] = map(literal, parts[::2])
    parts[1::2] = map(value, parts[1::2])
    return "".join(parts)


def _word(text: str, variable: str) -> str:
    """`text` for a pipeline's description: no character of it means anything to the parser."""
    if {'"', "\\", "\n"} & set(text):
        raise SourceError(
            f"the variable {variable} holds a quote, a backslash or a line break; gst: takes none",
            "choose another password, or use rtsp:// or http://",
        )
    return re.sub(r"([^\w./:-])", r"\\\1", text)


def _from_file(path: Path, host: str, service: str | None, other: str) -> tuple[str, str]:
    """The user and the password that a netrc file has for `host`; "" where it has none.

    service: the folder of systemd's where passwords of this service lie. other: what to do, for a
    file that cannot be read, but to write such a one.
    """
    with suppress(RuntimeError, ValueError):  # a user that there is not has no such file
        path = path.expanduser()
    try:
        mode, found = path.stat().st_mode, netrc.netrc(path).authenticators(host)
    except netrc.NetrcParseError as error:
        # What it could not read may be a part of a password.
        raise SourceError(
            f"line {error.lineno} of the credentials in {path} cannot be read",
            "write lines such as: machine HOST login USER password PASSWORD; "
            "quotes, for a password with a space, need Python 3.11",
        ) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise SourceError(
            f"the credentials in {path} cannot be read ({reason})",
            f"write such a file, or {other}",
        ) from None
    others = 0o077
    if service and path.resolve().parent == Path(service).resolve():
        # It is closed to others, and systemd lets this user in by an access list: from 254 on. What
        # such a list allows at most is shown as the rights of the group.
        others = 0o007
    if mode & others:
        raise SourceError(
            f"{path} holds passwords, and others may read it", f"run: chmod 600 '{path}'"
        )
    user, _, password = found or ("", "", "")
    return user or "", password or ""
