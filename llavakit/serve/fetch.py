"""Files off the web, fetched for strangers: only from public addresses, within bounds of size and time.

A URL in a request makes this machine open a connection, so it must not reach what only this machine can reach. The
name is resolved here, every address it has is checked, and the connection goes to a checked address, so a second
answer of the name server changes nothing. Redirects go the same way again. Proxies of the environment are not used.
Not covered: a public address that forwards to a private one (`refuse_networks` is for those that are known), and a
resolver that takes longer than the bound.
"""

import errno
import http.client
import ipaddress
import socket
import ssl
import time
from collections.abc import Callable, Container, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from threading import Timer
from urllib.parse import SplitResult, urljoin, urlsplit

from llavakit.core.errors import DataError
from llavakit.version import __version__

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
PORTS = {"https": 443, "http": 80}
REDIRECTS = (301, 302, 303, 307, 308)
CHUNK = 64 * 1024
UNICAST = ipaddress.ip_network("2000::/3")  # the only part of IPv6 that is given out
# Public by the registry, yet the way into another network: 6to4 (and its relays) and Teredo wrap an IPv4 address.
TUNNELS = tuple(map(ipaddress.ip_network, ("192.88.99.0/24", "2002::/16", "2001::/32")))


def is_public(address: Address) -> bool:
    """Whether anyone on the internet could reach it: no private, shared, local, multicast or reserved address."""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if isinstance(address, ipaddress.IPv6Address) and address not in UNICAST:
        return False
    if any(address in network for network in TUNNELS if network.version == address.version):
        return False
    special = (
        address.is_private, address.is_loopback, address.is_link_local, address.is_multicast,
        address.is_reserved, address.is_unspecified,
    )  # fmt: skip
    return address.is_global and not any(special)


def is_own(address: Address) -> bool:
    """Whether it is this machine's, public or not: a socket can be bound to it. If in doubt, it is."""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError as error:
        return error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
    return True


def is_elsewhere(address: Address) -> bool:
    """Whether a stranger may have this machine connect to it: public, and not this machine itself."""
    return is_public(address) and not is_own(address)


def resolve(host: str, port: int) -> list[Address]:
    """All addresses of a name, or of a number in any spelling that the system takes."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]


def uncounted(count: int) -> None:
    """Nobody asks how many bytes came."""


@dataclass(frozen=True)
class Fetched:
    """What came back: the bytes, and the media type the server named (empty where it named none)."""

    data: bytes
    media_type: str


@dataclass(frozen=True)
class Fetcher:
    """Fetches one file at a time. Tests hand in their own `resolver` and rule of what may be reached."""

    seconds: float
    max_redirects: int
    schemes: tuple[str, ...] = ("https",)
    resolver: Callable[[str, int], Sequence[Address]] = resolve
    allowed: Callable[[Address], bool] = is_elsewhere
    ports: Container[int] = frozenset(PORTS.values())
    tls: ssl.SSLContext = field(default_factory=ssl.create_default_context)  # the system's certificates

    def fetch(self, url: str, max_bytes: int, take: Callable[[int], object] = uncounted) -> Fetched:
        """The file behind `url`. Raises DataError, whose text tells nothing of what a refused address holds.

        `take` is told of bytes as they come, and may raise.
        """
        deadline = time.monotonic() + self.seconds
        for _ in range(self.max_redirects + 1):
            parts = self._split(url)
            connection = self._connect(parts, deadline)
            # A socket's own timeout bounds each wait, not their sum; this ends the whole of it.
            timer = Timer(max(deadline - time.monotonic(), 0), connection.cut)
            timer.daemon = True
            timer.start()
            try:
                with closing(connection):
                    answer = self._ask(connection, parts, max_bytes, take)
            except (OSError, http.client.HTTPException) as error:
                if connection.is_cut or isinstance(error, TimeoutError):
                    raise DataError(f"not complete within {self.seconds:g} s") from None
                raise DataError(f"cannot be fetched: {_reason(error)}") from None
            finally:
                timer.cancel()
            if isinstance(answer, Fetched):
                return answer
            url = urljoin(url, answer)
        raise DataError(f"more than {self.max_redirects} redirects")

    def _split(self, url: str) -> SplitResult:
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise DataError(f"not a URL: {error}") from None
        if parts.scheme not in self.schemes:
            raise DataError(
                f"{parts.scheme or 'no'}:// is not fetched here; use {' or '.join(self.schemes)}://"
            )
        if not host or parts.username is not None or parts.password is not None or port == 0:
            raise DataError("a URL needs a host name, and no user name or password in front of it")
        if port is not None and port not in self.ports:
            raise DataError(f"port {port} is not fetched from; leave it out of the URL")
        if not (parts.path + parts.query).isascii() or any(letter <= " " for letter in url):
            raise DataError("a URL holds ASCII letters without blanks; percent-encode it")
        return parts

    def _connect(self, parts: SplitResult, deadline: float) -> "_Pinned":
        host, port = str(parts.hostname), parts.port or PORTS[parts.scheme]
        try:
            addresses = list(dict.fromkeys(self.resolver(host.encode("idna").decode(), port)))
        except (OSError, UnicodeError):
            addresses = []
        if not addresses:
            raise DataError(f"{host}: no such host")
        if not all(map(self.allowed, addresses)):
            raise DataError(
                f"{host} is not a public address of another machine; this server fetches from the internet only"
            )
        return _Pinned(host, port, addresses, self.tls if parts.scheme == "https" else None, deadline)

    def _ask(
        self, connection: "_Pinned", parts: SplitResult, max_bytes: int, take: Callable[[int], object]
    ) -> Fetched | str:
        """The file, or where the server sends us instead."""
        target = f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}"
        headers = {
            "User-Agent": f"llavakit/{__version__}",
            "Accept-Encoding": "identity",
            "Connection": "close",
        }
        connection.request("GET", target, headers=headers)
        with closing(connection.getresponse()) as response:
            return self._read(response, connection, max_bytes, take)

    def _read(
        self,
        response: http.client.HTTPResponse,
        connection: "_Pinned",
        max_bytes: int,
        take: Callable[[int], object],
    ) -> Fetched | str:
        place = response.getheader("Location")
        if response.status in REDIRECTS and place:
            return place
        if response.status != 200:
            raise DataError(f"the server answered {response.status}")
        if response.getheader("Content-Encoding", "identity").lower() != "identity":
            raise DataError("the server sent it compressed, which was not asked for")
        data = bytearray()
        while chunk := response.read(CHUNK):  # what Content-Length says is not believed
            data += chunk
            take(len(chunk))
            if len(data) > max_bytes:
                raise DataError(f"larger than {max_bytes} bytes")
        if connection.is_cut:  # which looks like the end of a file of unknown length
            raise TimeoutError
        if response.length:  # http.client counts down what was announced
            raise DataError("the connection ended before the file did")
        return Fetched(bytes(data), response.getheader("Content-Type", "").partition(";")[0].strip().lower())


class _Pinned(http.client.HTTPConnection):
    """A connection to addresses that were checked; the name is used for TLS and the Host header only."""

    def __init__(
        self, host: str, port: int, addresses: list[Address], tls: ssl.SSLContext | None, deadline: float
    ) -> None:
        super().__init__(host, port)
        # What the base class leaves out of the Host header.
        self.default_port = PORTS["https" if tls else "http"]
        self._addresses, self._tls, self._deadline = addresses, tls, deadline
        self.is_cut = False
        self._wire: socket.socket | None = None  # the base class lets go of its own before the body is read

    def connect(self) -> None:
        """The first address that answers."""
        failure: OSError | None = None
        for address in self._addresses:
            left = max(self._deadline - time.monotonic(), 0.001)
            try:
                self._wire = self.sock = socket.create_connection((str(address), self.port), timeout=left)
            except OSError as error:
                failure = error
                continue
            if self._tls is not None:
                secure = self._tls.wrap_socket(
                    self.sock, server_hostname=self.host, do_handshake_on_connect=False
                )
                self._wire = self.sock = secure  # now, so that `cut` can end the handshake
                secure.do_handshake()
            return
        raise failure or OSError("no address")

    def cut(self) -> None:
        """End all waiting on it, from another thread."""
        self.is_cut = True
        if self._wire is not None:
            with suppress(OSError):  # it may have ended meanwhile
                socket.socket.shutdown(
                    self._wire, socket.SHUT_RDWR
                )  # TLS's own would wait for the other side


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not valid: {error.verify_message}"
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return type(error).__name__  # a broken answer: its bytes are not repeated
