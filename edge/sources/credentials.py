"""`Access`: the address and the credentials of a source, and how to keep them out of messages.

A password need not be part of a URI: it may be in the environment, as in
`rtsp://${CAMERA_USER}:${CAMERA_PASSWORD}@host/`, or in a netrc file. In any case it is set as a
property of the element that connects, and is never part of the text of a pipeline.
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
from edge.files.reading import check_regular
from edge.files.redaction import VARIABLE, redact, redact_text
from edge.sources.uris import (
    address_of,
    as_uri,
    is_network,
    split_login,
)

__all__ = ["CREDENTIALS", "Access", "resolve"]

CREDENTIALS = "EDGE_CREDENTIALS"  # holds the path of the netrc file
_SYSTEMD = "CREDENTIALS_DIRECTORY"  # holds the folder of a service's credentials


@dataclass(frozen=True)
class Access:
    """The address and credentials of a source. Only `name` may appear in messages.

    name      the URI as it was typed, without credentials
    uri       for GStreamer: variables replaced, user and password removed
    template  `uri` with its variables in place of their values; only values that cannot hold a
              secret are filled in
    user      and password: "" if the source has none
    secrets   texts that no message may contain
    """

    name: str
    uri: str = field(repr=False)
    template: str = field(repr=False)
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    secrets: Sequence[str] = field(default=(), repr=False)

    @property
    def camera(self) -> str:
        """A network camera for messages: by its host and port, if they may be shown."""
        address = address_of(self.uri)
        # What looks like a host and a port may be a user and a password with a slash in it.
        if address is None or address_of(self.name) != address:
            return f"the camera {self.name}"
        return f"the camera at {address[0]}:{address[1]}"

    def redact(self, text: str) -> str:
        """`text`, of GStreamer or of this program, without secrets."""
        for secret in sorted(filter(None, self.secrets), key=len, reverse=True):
            for spelling in (secret, quote(secret), quote(secret, safe="")):
                text = text.replace(spelling, "***")
        return redact_text(text)

    @contextmanager
    def redacting(self) -> Iterator[None]:
        """Remove secrets from a SourceError that is raised inside this context."""
        try:
            yield
        except SourceError as error:
            # Not chained: the original error contains the secrets.
            raise type(error)(self.redact(error.problem), self.redact(error.hint)) from None


def resolve(
    text: str,
    *,
    credentials: str | os.PathLike[str] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Access:
    """The access to a source as it was typed, with values of the environment and a netrc file.

    credentials: a netrc file; by default that of EDGE_CREDENTIALS, if it is set. Raises SourceError
    if a variable is not set, a path does not exist, or the netrc file cannot be used.
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

    if variable := VARIABLE.fullmatch(text):
        text = value(variable[1])  # from here on as if it had been typed
    with Access(name, text, text, secrets=values).redacting():
        text = as_uri(text)
        login, template = split_login(text) if is_network(text) else ("", text)
        user, _, password = (_fill(part, value, unquote) for part in login.partition(":"))
        if text.startswith("gst:"):
            uri = _fill(template, lambda name: _escaped(value(name), name))
        else:
            uri = as_uri(_fill(template, value))
        if login and "@" in template:  # it may be part of a password that contains a slash
            template = redact(text)
    if is_network(uri):
        path, address = credentials or environ.get(CREDENTIALS), address_of(uri)
        if path and address and not login:
            alternative = "use another" if credentials else f"unset {CREDENTIALS}"
            user, password = _from_netrc(Path(path), address[0], environ.get(_SYSTEMD), alternative)
    elif not uri.startswith("gst:"):
        template = uri
    return Access(name, uri, template, user, password, (*values, password))


def _fill(
    text: str, value: Callable[[str], str], literal: Callable[[str], str] = lambda text: text
) -> str:
    """`text` with `value` applied to its variables, and `literal` to the text between them."""
    parts = VARIABLE.split(text)
    parts[::2] = map(literal, parts[::2])
    parts[1::2] = map(value, parts[1::2])
    return "".join(parts)


def _escaped(text: str, variable: str) -> str:
    """`text` as a literal in the description of a pipeline."""
    if {'"', "\\", "\n"} & set(text):
        raise SourceError(
            f"the variable {variable} holds a quote, a backslash or a line break, which gst: does "
            "not allow",
            "choose another password, or use rtsp:// or http://",
        )
    return re.sub(r"([^\w./:-])", r"\\\1", text)


def _from_netrc(path: Path, host: str, service: str | None, alternative: str) -> tuple[str, str]:
    """The user and the password for `host` in a netrc file; "" if it has none.

    service: the folder of the credentials that systemd gives this service. alternative: for the
    hint of a file that cannot be read.
    """
    with suppress(RuntimeError, ValueError):  # ~NAME stays as it is if there is no such user
        path = path.expanduser()
    try:
        mode = check_regular(path).st_mode
        found = netrc.netrc(path).authenticators(host)
    except netrc.NetrcParseError as error:
        # Not chained: what could not be parsed may be part of a password.
        raise SourceError(
            f"line {error.lineno} of the credentials in {path} cannot be read",
            "write lines such as: machine HOST login USER password PASSWORD; "
            "quotes, for a password with a space, need Python 3.11",
        ) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise SourceError(
            f"the credentials in {path} cannot be read ({reason})",
            f"create the file, or {alternative}",
        ) from None
    others = 0o077
    if service and path.resolve().parent == Path(service).resolve():
        # Since version 254 systemd gives this user access by an access control list; the mask of
        # that list appears as the permissions of the group.
        others = 0o007
    if mode & others:
        raise SourceError(
            f"{path} holds passwords, but other users may read it", f"run: chmod 600 '{path}'"
        )
    user, _, password = found or ("", "", "")
    return user or "", password or ""
