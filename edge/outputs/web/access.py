"""Access control of the live page: its listen address, token and cookie.

On the loopback address everybody on this machine has access, unless a token was set. On any other
address a request must bring the token in the URL once, and afterwards a cookie derived from it.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import secrets
import socket
from dataclasses import dataclass
from urllib.parse import urlencode

from edge.errors import AddressError
from edge.files.redaction import redact_address

__all__ = ["Access", "accepts_host", "parse_address"]

# Characters of a chosen token: at the server's request rate it cannot be guessed.
MIN_TOKEN_LENGTH = 16


def parse_address(text: str) -> tuple[str, int]:
    """`[HOST]:PORT` or `PORT` -> (host, port); the default host is 127.0.0.1.

    Raises AddressError.
    """
    host, _, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    # int() raises for thousands of digits, and accepts digits of any script.
    is_number = port.isascii() and port.isdecimal() and len(port) <= 5
    is_name = re.fullmatch(r"[\w.-]*", host) or (":" in bare and bare != host)
    if not is_number or int(port) > 65535 or not is_name:
        raise AddressError(
            f"{redact_address(text)!r} is not a listen address",
            "write, for example, :8080, 0.0.0.0:8080 or [::]:8080",
        )
    return bare or "127.0.0.1", int(port)


def is_loopback(host: str) -> bool:
    """Whether `host` is reachable from this machine only; False for unknown host names."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def accepts_host(listening: str, header: str) -> bool:
    """Whether a request's Host header names a server: protects against DNS rebinding.

    Another site may let its own name resolve to 127.0.0.1, and the browser then considers this
    server a part of that site. listening: the server's listen address; on other addresses than
    loopback any name is accepted. There the cookie, which is not sent to that site, protects the
    live page.
    """
    if not is_loopback(listening):
        return True
    name = header.rpartition(":")[0] if header[-1:].isdigit() and ":" in header else header
    name = name.removeprefix("[").removesuffix("]").lower()
    return is_loopback(name) or name == listening


@dataclass(frozen=True)
class Access:
    """The credentials that a request must have.

    host       the listen address of the server
    token      empty if none is needed, which is possible on the loopback address only
    generated  whether the token was generated here, and so may be shown
    """

    host: str
    token: str
    generated: bool = False

    @staticmethod
    def decide(host: str, token: str) -> Access:
        """Require `token` if it is not empty; otherwise generate one unless `host` is loopback.

        Raises AddressError for a token that is too short.
        """
        if token and len(token) < MIN_TOKEN_LENGTH:
            raise AddressError(
                f"the token for the page has fewer than {MIN_TOKEN_LENGTH} characters",
                "generate one: export EDGE_WEB_TOKEN=$(openssl rand -hex 16)",
            )
        if token or is_loopback(host):
            return Access(host, token)
        return Access(host, secrets.token_urlsafe(24), generated=True)

    def is_token(self, value: str) -> bool:
        """Whether `value`, from the URL, is the token; False if no token is needed."""
        return bool(self.token) and hmac.compare_digest(_digest(value), _digest(self.token))

    def admits(self, cookies: str) -> bool:
        """Whether a request with this Cookie header has access."""
        parts = [part.strip() for part in cookies.split(";")]
        return not self.token or any(
            hmac.compare_digest(part.encode(), self.cookie.encode()) for part in parts
        )

    @property
    def cookie(self) -> str:
        """`name=value`, a hash of the token, which itself may contain any character.

        The name differs for each token, since browsers share cookies between ports and several
        runs may use the same host.
        """
        digest = _digest(self.token)
        return f"vit-edge-{digest[:8]}={digest}"

    def url(self, port: int) -> str:
        """The URL for a browser; it contains the token only if that was generated here."""
        is_wildcard = self.host in ("0.0.0.0", "::")
        host = _own_address(self.host) if is_wildcard else self.host
        query = f"?{urlencode({'token': self.token})}" if self.generated else ""
        return f"http://{f'[{host}]' if ':' in host else host}:{port}/{query}"


def _digest(text: str) -> str:
    return hashlib.sha256(f"vit-edge page {text}".encode(errors="surrogateescape")).hexdigest()


def _own_address(wildcard: str) -> str:
    """This machine's address in the network; without a network its host name."""
    remote = ("2001:db8::1", 9) if ":" in wildcard else ("192.0.2.1", 9)
    family = socket.AF_INET6 if ":" in wildcard else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(remote)  # sends nothing: it only selects a route
            return str(probe.getsockname()[0])
        except OSError:
            return socket.gethostname()
