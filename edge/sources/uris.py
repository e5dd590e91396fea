"""Source URIs: what a person types is read, checked against the machine, and shown without secrets.

Pure functions, but for `as_uri` and `check`, which look at the file system.
"""

from __future__ import annotations

import os
import re
import stat
from contextlib import suppress
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from edge.errors import SourceError

__all__ = [
    "KNOWN",
    "VARIABLE",
    "address_of",
    "as_uri",
    "check",
    "check_scheme",
    "device_of",
    "is_live",
    "is_network",
    "is_rtsp",
    "is_tls",
    "options_of",
    "path_of",
    "redact",
    "redact_address",
    "redact_text",
    "split_login",
    "tells_password",
]

VARIABLE = re.compile(r"\$\{(\w+)\}")
KNOWN = (
    "test://ball, file:///a.mp4, /dev/video0, v4l2:///dev/video0, csi://0, rtsp://..., "
    "rtsps://..., http://..., https://..., gst:..."
)
_SCHEMES = (
    "test://",
    "file://",
    "/dev/",
    "v4l2://",
    "csi://",
    "rtsp://",
    "rtsps://",
    "http://",
    "https://",
    "gst:",
)
_PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443}
_LIVE = ("test://", "/dev/", "v4l2://", "csi://", "rtsp://", "rtsps://")
# What a web server hands out as fast as it can; everything else that it sends is a camera's.
_FILMS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".m3u8")


def is_live(uri: str) -> bool:
    """Whether `uri` is a camera, as far as it says so: `gst:` may be anything.

    At `http://` it is, unless its path ends like that of a film, such as `.mp4`.
    """
    if uri.startswith(("http://", "https://")):
        path = re.split(r"[?#]", uri, maxsplit=1)[0]
        return not path.lower().endswith(_FILMS)
    return uri.startswith(_LIVE)


def is_rtsp(uri: str) -> bool:
    """Whether `uri` is an RTSP camera's, over TLS or not."""
    return uri.startswith(("rtsp://", "rtsps://"))


def is_tls(uri: str) -> bool:
    """Whether the host of `uri` shows a certificate."""
    return uri.startswith(("rtsps://", "https://"))


def is_network(uri: str) -> bool:
    """Whether `uri` names a host, to which a user name and a password may be told."""
    return uri.partition("://")[0] in _PORTS


def split_login(uri: str) -> tuple[str, str]:
    """The `user:password` of an `rtsp://` or `http://` URI, or "", and the URI without it."""
    scheme, _, rest = uri.partition("://")
    login = re.split(r"[/?#]", rest, maxsplit=1)[0].rpartition("@")[0]
    return login, f"{scheme}://{rest.removeprefix(login + '@')}"


def options_of(uri: str, names: tuple[str, ...]) -> tuple[str, dict[str, str]]:
    """`uri` without its query, and what the query asks for, by name.

    Raises SourceError for a name that is not among `names`.
    """
    plain, _, query = uri.partition("?")
    found = dict(parse_qsl(query, keep_blank_values=True))
    for name in found:
        if name not in names:
            raise SourceError(f"{uri} asks for {name!r}", f"it may ask for: {', '.join(names)}")
    return plain, found


def path_of(uri: str) -> Path:
    """The file of a `file://` URI. Raises SourceError when it is not absolute."""
    path = Path(unquote(uri[len("file://") :], errors="surrogateescape"))
    if not path.is_absolute():
        raise SourceError(f"{uri} has no absolute path", "write file:///folder/video.mp4")
    return path


def device_of(uri: str) -> str:
    """The device of a `/dev/...` or `v4l2://` URI."""
    return uri.removeprefix("v4l2://").partition("?")[0]


def as_uri(text: str) -> str:
    """What a person typed, as a URI: the path of a file becomes `file://`, URIs stay as they are.

    What holds a `${VARIABLE}` is left as it is; a scheme becomes lower case, as everywhere.
    Raises SourceError for a path where nothing is.
    """
    text = _SCHEME.sub(lambda scheme: scheme[0].lower(), text)
    if text.startswith("file://"):
        # A name typed as it is, with a space or a % in it, wins over its percent-decoded reading.
        literal = Path(text[len("file://") :])
        return literal.as_uri() if literal.is_absolute() and _is_there(literal, text) else text
    if text.startswith(("/dev/", "gst:")) or "://" in text:
        return text
    if slip := re.match(r"(\w{2,}):/+(?=[^/])", text):  # what follows may be a password
        raise SourceError(
            f"a source that begins with {slip[0]} is not understood", f"write {slip[1]}://..."
        )
    if not text.strip():
        raise SourceError("the source is empty", f"use one of: {KNOWN}")
    shown, path = redact_address(text) if ":" in text else text, Path(text)
    with suppress(RuntimeError, ValueError):  # ~cam stays, as in a shell, where there is no cam
        path = path.expanduser()
    path = path.absolute()
    if _is_there(path, shown):
        return path.as_uri()
    if "${" in text:
        return text
    raise SourceError(f"there is no file {shown}", f"give a video, or one of: {KNOWN}")


def _is_there(path: Path, shown: str) -> bool:
    """Raises SourceError when that cannot be known: its folder may be closed to this user."""
    try:
        return path.exists()
    except OSError as error:
        raise SourceError(
            f"{shown} cannot be looked for ({error.strerror})", "check the path and its rights"
        ) from error


def check_scheme(uri: str) -> None:
    """Raises SourceError for a kind of source that there is not; what is a `${VARIABLE}` may be."""
    if not (uri.startswith(_SCHEMES) or VARIABLE.match(uri)):
        raise SourceError(f"{redact(uri)!r} is not a source", f"use one of: {KNOWN}")


def check(uri: str) -> None:
    """Raises SourceError when the file or the device that `uri` names cannot be there to open."""
    if uri.startswith("file://"):
        path = path_of(uri)
        if not _is_there(path, str(path)):
            raise SourceError(f"there is no file {path}", "check the path")
        if not path.is_file():
            raise SourceError(f"{path} is not a file", "give the path of a video")
        if not os.access(path, os.R_OK):
            raise SourceError(f"{path} may not be read by you", f"run: chmod +r '{path}'")
    elif uri.startswith(("/dev/", "v4l2://")):
        device = Path(device_of(uri))
        if not device.exists():
            raise SourceError(
                f"there is no camera {device}",
                "plug it in, and run: gst-device-monitor-1.0 Video/Source",
            )
        if not stat.S_ISCHR(device.stat().st_mode):
            raise SourceError(
                f"{device} is not a camera", "run: gst-device-monitor-1.0 Video/Source"
            )
        if not os.access(device, os.R_OK | os.W_OK):
            raise SourceError(
                f"{device} may not be opened by you",
                "run: sudo usermod -aG video $USER, and log in again",
            )


def redact(uri: str) -> str:
    """`uri` without user name, password and keys; when in doubt it hides too much."""
    if uri.startswith(("file://", "test://", "/dev/", "v4l2://", "csi://")):
        return uri
    if uri.startswith("gst:"):
        return redact_text(uri)
    shown = _SHORT_IN_QUERY.sub(r"\1***", _USER.sub(_without_login, uri))
    return _IN_QUERY.sub(r"\1***", shown)


def redact_address(text: str) -> str:
    """What should be an address and may be none: without a scheme, all before an '@' is hidden."""
    return redact(text) if "://" in text else re.sub(r"\A.*@", "***@", text, flags=re.S)


def tells_password(uri: str) -> bool:
    """Whether a password, or a key, stands in `uri` itself, and not a variable in its place."""
    plain = VARIABLE.sub("\0", uri)
    return bool(_LOGIN.search(plain) or _VALUE.search(plain))


def redact_text(text: str) -> str:
    """A pipeline, or what GStreamer says of one, without user names, passwords and keys."""
    quoted = _QUOTED.sub(lambda found: f'"{redact("x:" + found[1])[2:]}"', text)
    shown = _PROPERTY.sub(r"\1***", _SHORT.sub(r"\1***", quoted))
    # Element by element, so that one '@' does not hide the others.
    return " ! ".join(_USER.sub(_without_login, part) for part in re.split(r"\s+!\s+", shown))


def address_of(uri: str) -> tuple[str, int] | None:
    """Host and port of an `rtsp://` or `http://` URI; None for other URIs, and for a faulty one."""
    scheme, plain = uri.partition("://")[0], split_login(uri)[1]
    if scheme not in _PORTS:
        return None
    try:
        found = urlsplit(plain)
        return (found.hostname, found.port or _PORTS[scheme]) if found.hostname else None
    except ValueError:
        return None


_SCHEME = re.compile(r"\A(?:gst:|[a-z][\w+.-]*://)", re.I)
_USER = re.compile(r"([a-z][\w+.-]*://)(.*@)", re.I | re.S)
_QUOTED = re.compile(r'"((?:\\.|[^"\\])*)"', re.S)
_KEY = (
    r"[\w-]*(?:p(?:s?w|s?wd|sd|word)|pas\w*|pin|token|secret|key|auth\w*|cred\w*|sig\w*|jwt|sid"
    r"|session\w*|(?<!en)(?<!de)(?<!ns)code|user-id)"  # encode, decode and transcode are none
)
# In a URI a value ends at the next '&'; as an element's property, at a space that is not quoted.
_IN_QUERY = re.compile(rf"({_KEY}=)[^&]*", re.I)
# Beside a `u`, which is who, `p` is a password, and no page.
_BESIDE = r"[?&]u=.*[?&]p=|[?&]p=(?=.*[?&]u=)"
_SHORT_IN_QUERY = re.compile(rf"({_BESIDE})[^&]*", re.I | re.S)
_SHORT = re.compile(rf"({_BESIDE})[^&\s\"']*", re.I | re.S)
_PROPERTY = re.compile(
    rf"""({_KEY}\s*=\s*)("(?:\\.|[^"\\])*("|$)|'(?:\\.|[^'\\])*('|$))?(\\.|[^\s\\])*""", re.I | re.S
)
# Where variables are NUL.
_LOGIN = re.compile(r"://[^/?#@\s:]*:\0*[^/?#@\s\0][^/?#@\s]*@")
_VALUE = re.compile(rf"(?:{_KEY}\s*=\s*[\"']?|{_BESIDE})[^\s&\"'\0]", re.I | re.S)
# An '@' after a plain host and a slash belongs to the path. After a host with a port it may: what
# looks like one may as well be a user and a password with a slash in it.
_PLAIN_HOST = re.compile(r"([^\s/?#@:]+|\[[\da-f:.]+\])[/?#]", re.I)


def _without_login(found: re.Match[str]) -> str:
    return found[0] if _PLAIN_HOST.match(found[2]) else f"{found[1]}***@"
