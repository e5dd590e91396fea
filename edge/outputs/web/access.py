"""Who may look at the live page: where it listens, and what a request must bring.

On the loopback address whoever is on this machine may look, unless a token was asked for. On any
other address a request brings the token in the URL once, and from then on a cookie made from it.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
import socket
from dataclasses import dataclass
from urllib.parse import urlencode

from edge.errors import AddressError

__all__ = ["Access", "parse_address"]

SHORTEST = 16  # letters of a token that a person chose: nobody guesses them at the server's pace


def parse_address(text: str) -> tuple[str, int]:
    """`[HOST]:PORT` or `PORT` -> (host, port); without a host this machine alone.

    Raises AddressError.
    """
    host, _, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    # int() itself refuses some thousand digits, and takes those of any script.
    is_number = port.isascii() and port.isdecimal() and len(port) <= 5
    if not is_number or int(port) > 65535 or (":" in bare and bare == host):
        raise AddressError(
            f"{text!r} is not a listen address",
            "write, for example, :8080, 0.0.0.0:8080 or [::]:8080",
        )
    return bare or "127.0.0.1", int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`. Other names may mean anything, so they do not."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass(frozen=True)
class Access:
    """What a request must bring.

    host   what the server was asked to listen on
    token  empty, on the loopback address: nothing
    made   whether the token was made here, and so may be shown
    """

    host: str
    token: str
    made: bool = False

    @staticmethod
    def decide(host: str, token: str) -> Access:
        """`token`, if a person chose one, is asked for everywhere; else one is made if need be.

        Raises AddressError for a token that is short enough to be guessed.
        """
        if token and len(token) < SHORTEST:
            raise AddressError(
                f"the token for the page has fewer than {SHORTEST} letters",
                "make one: export EDGE_WEB_TOKEN=$(openssl rand -hex 16)",
            )
        if token or is_loopback(host):
            return Access(host, token)
        return Access(host, secrets.token_urlsafe(24), made=True)

    def knows_host(self, header: str) -> bool:
        """Whether a request's Host is one by which this server can be meant.

        A page of somebody else's may let its own name point to 127.0.0.1, and the browser then
        takes this server for a part of that page. With a token its cookie is not sent there.
        """
        if not is_loopback(self.host):
            return True
        name = header.rpartition(":")[0] if header[-1:].isdigit() and ":" in header else header
        name = name.removeprefix("[").removesuffix("]").lower()
        return is_loopback(name) or name == self.host

    def opens(self, given: str) -> bool:
        """Whether `given`, from the URL, is the token; there may be none to give."""
        return bool(self.token) and hmac.compare_digest(_digest(given), _digest(self.token))

    def admits(self, cookies: str) -> bool:
        """Whether a request with this Cookie header may look."""
        brought = [part.strip() for part in cookies.split(";")]
        return not self.token or any(
            hmac.compare_digest(part.encode(), self.cookie.encode()) for part in brought
        )

    @property
    def cookie(self) -> str:
        """`name=value`. Made from the token, and not the token itself, which may hold any letter.

        The name is another one for each token: cookies know no ports, and runs may share a host.
        """
        digest = _digest(self.token)
        return f"vit-edge-{digest[:8]}={digest}"

    def url(self, port: int) -> str:
        """What to type into a browser; with the token only if it was made here."""
        anywhere = self.host in ("0.0.0.0", "::")
        host = _own_address(self.host) if anywhere else self.host
        query = f"?{urlencode({'token': self.token})}" if self.made else ""
        return f"http://{f'[{host}]' if ':' in host else host}:{port}/{query}"


def _digest(text: str) -> str:
    return hashlib.sha256(f"vit-edge page {text}".encode(errors="surrogateescape")).hexdigest()


def _own_address(wildcard: str) -> str:
    """The address by which the network knows this machine; without a network its name."""
    far = ("2001:db8::1", 9) if ":" in wildcard else ("192.0.2.1", 9)
    family = socket.AF_INET6 if ":" in wildcard else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(far)  # sends nothing: it only chooses a way
            return str(probe.getsockname()[0])
        except OSError:
            return socket.gethostname()
