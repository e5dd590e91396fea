"""Source URIs: parse what a person typed, and check it.

Pure functions, except `as_uri` and `check`, which access the file system.
"""

from __future__ import annotations

import os
import re
import stat
from contextlib import suppress
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from edge.errors import SourceError
from edge.files.reading import did_you_mean
from edge.files.redaction import VARIABLE, redact
from edge.sources.containers import check_supported

__all__ = [
    "KNOWN",
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
    "split_login",
]

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
# Videos of a web server; everything else at http:// is a camera.
_VIDEOS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".m3u8")


def is_live(uri: str) -> bool:
    """Whether `uri` is a camera, as far as the URI tells: `gst:` may be anything.

    `http://` is a camera unless its path ends like that of a video, such as `.mp4`.
    """
    if uri.startswith(("http://", "https://")):
        path = re.split(r"[?#]", uri, maxsplit=1)[0]
        return not path.lower().endswith(_VIDEOS)
    return uri.startswith(_LIVE)


def is_rtsp(uri: str) -> bool:
    """Whether `uri` is RTSP, with or without TLS."""
    return uri.startswith(("rtsp://", "rtsps://"))


def is_tls(uri: str) -> bool:
    """Whether `uri` uses TLS."""
    return uri.startswith(("rtsps://", "https://"))


def is_network(uri: str) -> bool:
    """Whether `uri` has a host, and may have a user name and a password."""
    return uri.partition("://")[0] in _PORTS


def split_login(uri: str) -> tuple[str, str]:
    """The `user:password` of an `rtsp://` or `http://` URI, or "", and the URI without it."""
    scheme, _, rest = uri.partition("://")
    login = re.split(r"[/?#]", rest, maxsplit=1)[0].rpartition("@")[0]
    return login, f"{scheme}://{rest.removeprefix(login + '@')}"


def options_of(uri: str, names: tuple[str, ...]) -> tuple[str, dict[str, str]]:
    """`uri` without its query, and the options in the query, by name.

    Raises SourceError for an option that is not among `names`, and for a login or a key.
    """
    if (shown := redact(uri)) != uri:  # not taken apart: a part of a password may be an option
        raise SourceError(
            f"{shown} has a password or a key, which only rtsp and http take", "remove it"
        )
    plain, _, query = uri.partition("?")
    found = dict(parse_qsl(query, keep_blank_values=True))
    for name in found:
        if name not in names:
            raise SourceError(
                f"{uri} has an unknown option {name!r}",
                f"use one of: {', '.join(names)}",
            )
    return plain, found


def path_of(uri: str) -> Path:
    """The path of a `file://` URI. Raises SourceError if it is not absolute."""
    path = Path(unquote(uri[len("file://") :], errors="surrogateescape"))
    if not path.is_absolute():
        raise SourceError(f"{redact(uri)} has no absolute path", "write file:///folder/video.mp4")
    return path


def device_of(uri: str) -> str:
    """The device path of a `/dev/...` or `v4l2://` URI."""
    return uri.removeprefix("v4l2://").partition("?")[0]


def as_uri(text: str) -> str:
    """A source as it was typed, as a URI: the path of a file becomes `file://`, URIs stay.

    A text with a `${VARIABLE}` stays as it is; a scheme becomes lower case. Raises SourceError for
    a path that does not exist.
    """
    text = _SCHEME.sub(lambda scheme: scheme[0].lower(), text)
    if text.startswith("file://"):
        # A file whose literal name has a space or a % takes precedence over percent-decoding.
        literal = Path(text[len("file://") :])
        return literal.as_uri() if literal.is_absolute() and _exists(literal, text) else text
    if text.startswith(("/dev/", "gst:")) or "://" in text:
        return text
    if typo := re.match(r"(\w{2,}):/+(?=[^/])", text):  # not shown further: a password may follow
        raise SourceError(f"a source must not begin with {typo[0]}", f"write {typo[1]}://...")
    if not text.strip():
        raise SourceError("the source is empty", f"use one of: {KNOWN}")
    shown, path = redact(text), Path(text)
    with suppress(RuntimeError, ValueError):  # ~cam stays, as in a shell, if there is no user cam
        path = path.expanduser()
    path = path.absolute()
    if _exists(path, shown):
        return path.as_uri()
    if "${" in text:
        return text
    if text.isdecimal():  # as OpenCV numbers cameras
        raise SourceError(f"there is no file {shown}", f"for a USB camera write /dev/video{text}")
    near = did_you_mean(path, default=f"give a video, or one of: {KNOWN}")
    raise SourceError(f"there is no file {shown}", near)


def _exists(path: Path, shown: str) -> bool:
    """Whether a path exists. Raises SourceError if this user may not access its folder."""
    try:
        return path.exists()
    except OSError as error:
        raise SourceError(
            f"{shown} cannot be accessed ({error.strerror})", "check the path and its permissions"
        ) from error


def check_scheme(uri: str) -> None:
    """Raises SourceError for an unknown scheme, unless a `${VARIABLE}` may contain it."""
    if not (uri.startswith(_SCHEMES) or VARIABLE.match(uri)):
        raise SourceError(f"{redact(uri)!r} is not a source", f"use one of: {KNOWN}")


def check(uri: str) -> None:
    """Raises SourceError if the file or the device of `uri` does not exist or cannot be opened."""
    if uri.startswith("file://"):
        path = path_of(uri)
        if not _exists(path, str(path)):
            raise SourceError(f"there is no file {path}", did_you_mean(path))
        if not path.is_file():
            raise SourceError(f"{path} is not a file", "give the path of a video")
        if not os.access(path, os.R_OK):
            raise SourceError(f"you have no permission to read {path}", f"run: chmod +r '{path}'")
        check_supported(path)
    elif uri.startswith(("/dev/", "v4l2://")):
        device, shown = Path(device_of(uri)), device_of(redact(uri))
        if not device.exists():
            raise SourceError(
                f"there is no camera {shown}",
                "plug it in, and run: gst-device-monitor-1.0 Video/Source",
            )
        if not stat.S_ISCHR(device.stat().st_mode):
            raise SourceError(
                f"{shown} is not a camera", "run: gst-device-monitor-1.0 Video/Source"
            )
        if not os.access(device, os.R_OK | os.W_OK):
            raise SourceError(
                f"you have no permission to open {shown}",
                "run: sudo usermod -aG video $USER, and log in again",
            )


def address_of(uri: str) -> tuple[str, int] | None:
    """Host and port of an `rtsp://` or `http://` URI; None for other or invalid URIs."""
    scheme, plain = uri.partition("://")[0], split_login(uri)[1]
    if scheme not in _PORTS:
        return None
    try:
        found = urlsplit(plain)
        return (found.hostname, found.port or _PORTS[scheme]) if found.hostname else None
    except ValueError:
        return None


_SCHEME = re.compile(r"\A(?:gst:|[a-z][\w+.-]*://)", re.I)
