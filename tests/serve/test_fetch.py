"""Fetching for strangers: which addresses, how often, how much, how long."""

import errno
import ssl
import time
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st

from llavakit.core.errors import DataError
from llavakit.serve import fetch
from llavakit.serve.fetch import Fetcher, is_elsewhere, is_own, is_public, resolve
from llavakit.serve.media import default_fetcher
from llavakit.serve.settings import ServeConfig
from tests.serve.web import ANY_PORT, page, redirect, web

HOME, FORBIDDEN = ip_address("127.0.0.1"), ip_address("127.0.0.2")
INSIDE = (
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/29",
    "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
    "224.0.0.0/4", "240.0.0.0/4",
    "::/128", "::1/128", "::/96", "::ffff:0:0/104", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/32",
    "2001:db8::/32", "2002::/16", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8",
)  # fmt: skip


def fetcher(table: dict[str, list] | None = None, **how) -> Fetcher:
    """Names by a table; 127.0.0.1 stands for the internet, every other address for the inside."""
    names = {"web.test": [HOME], "inside.test": [FORBIDDEN], "both.test": [HOME, FORBIDDEN]} | (table or {})
    how = {"seconds": 5, "max_redirects": 2, "schemes": ("http",), "ports": ANY_PORT} | how
    return Fetcher(resolver=lambda host, port: names[host], allowed=lambda address: address == HOME, **how)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.sampled_from(INSIDE).map(ip_network), st.integers(0, 2**128))
def test_no_address_of_a_special_network_is_public(network, number):
    address = network[number % network.num_addresses]
    assert not is_public(address)
    if isinstance(address, IPv4Address):
        assert not is_public(IPv6Address(f"::ffff:{address}"))


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "8.8.8.8", "93.184.216.34", "2606:4700:4700::1111", "::ffff:8.8.8.8"]
)
def test_addresses_of_the_internet_are_public(address):
    assert is_public(ip_address(address))


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "0", "[::1]",
     "[::ffff:127.0.0.1]", "[::]", "10.0.0.1", "169.254.169.254", "[fe80::1]", "100.100.100.200"],
)  # fmt: skip
def test_every_spelling_of_an_inner_address_is_refused(host):
    with web({"/": page(b"secret")}) as server:
        with pytest.raises(DataError, match=r"not a public address|no such host"):
            Fetcher(5, 2, ("http",), ports=ANY_PORT).fetch(f"http://{host}:{server.port}/", 100)
        assert server.hits == []


def test_this_machine_is_not_fetched_from_whatever_its_address(monkeypatch):
    assert is_own(HOME) and is_own(IPv6Address("::ffff:127.0.0.1")) and not is_own(ip_address("1.1.1.1"))
    assert is_elsewhere(ip_address("1.1.1.1"))
    monkeypatch.setattr(fetch, "is_public", lambda address: True)  # as the address of a rented machine is
    with web({"/": page(b"secret")}) as server:
        with pytest.raises(DataError, match="not a public address of another machine"):
            Fetcher(5, 2, ("http",), ports=ANY_PORT).fetch(f"http://127.0.0.1:{server.port}/", 100)
        assert server.hits == []


def test_whose_address_cannot_be_told_is_not_fetched_from(monkeypatch):
    def exhausted(*_):
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(fetch.socket, "socket", exhausted)
    assert is_own(ip_address("1.1.1.1"))


def test_networks_and_ports_are_refused_as_the_settings_say():
    chosen = default_fetcher(ServeConfig(refuse_networks=("1.1.1.0/24",), fetch_ports=(443, 8443)))
    assert not chosen.allowed(ip_address("1.1.1.1")) and chosen.allowed(ip_address("8.8.8.8"))
    assert list(chosen.ports) == [443, 8443]
    with web({"/": page(b"x")}) as server:
        for usual in ({}, {"ports": (80, 443)}):
            with pytest.raises(DataError, match=f"port {server.port} is not fetched from"):
                Fetcher(5, 2, ("http",), resolve, lambda address: True, **usual).fetch(
                    f"http://127.0.0.1:{server.port}/", 100
                )
        assert server.hits == []


def test_the_file_comes_with_its_type():
    with web({"/a": page(b"pixels", "Image/PNG; x=y")}) as server:
        found = fetcher().fetch(f"http://web.test:{server.port}/a?b=c%20d#e", 100)
        assert (found.data, found.media_type) == (b"pixels", "image/png")
        assert server.hits == [("/a?b=c%20d", f"web.test:{server.port}")]


def test_one_inner_address_among_good_ones_is_enough_to_refuse():
    with web({"/": page(b"x")}) as server:
        for host in ("inside.test", "both.test"):
            with pytest.raises(DataError, match=f"^{host} is not a public address"):
                fetcher().fetch(f"http://{host}:{server.port}/", 100)
        assert server.hits == []


def test_a_name_is_looked_up_once_and_the_checked_address_is_used():
    answers = [[HOME], [FORBIDDEN]]  # a name server that changes its mind
    with web({"/": page(b"good")}) as good, web({"/": page(b"secret")}, str(FORBIDDEN)) as bad:
        rebinding = Fetcher(
            5,
            2,
            ("http",),
            resolver=lambda host, port: answers.pop(0),
            allowed=lambda address: address == HOME,
            ports=ANY_PORT,
        )
        assert rebinding.fetch(f"http://web.test:{good.port}/", 100).data == b"good"
        assert (len(answers), bad.hits) == (1, [])


def test_a_redirect_is_checked_like_the_first_address():
    with web({"/secret": page(b"secret")}, str(FORBIDDEN)) as inside:
        pages = {
            "/in": redirect(f"http://inside.test:{inside.port}/secret"),
            "/number": redirect(f"http://127.0.0.2:{inside.port}/secret", 307),
            "/file": redirect("file:///etc/passwd"),
            "/loop": redirect("/loop"),
            "/one": redirect("two", 303),
            "/two": redirect("//web.test/three", 308),
            "/plain": redirect("https://web.test/"),
        }
        with web(pages) as outside:
            pages["/two"] = redirect(f"//web.test:{outside.port}/three", 308)
            pages["/three"] = page(b"found")
            for path, said in {
                "/in": "inside.test is not a public address",
                "/number": "127.0.0.2 is not a public address",
                "/file": "file:// is not fetched",
                "/plain": "https:// is not fetched",
                "/loop": "more than 2 redirects",
            }.items():
                with pytest.raises(DataError, match=said):
                    fetcher({"127.0.0.2": [FORBIDDEN]}).fetch(f"http://web.test:{outside.port}{path}", 100)
            assert fetcher().fetch(f"http://web.test:{outside.port}/one", 100).data == b"found"
        assert inside.hits == []


def test_size_is_what_comes_not_what_is_said():
    def endless(handler):
        handler.send_response(200)
        handler.end_headers()
        while True:
            handler.wfile.write(bytes(1000))

    pages = {
        "/endless": endless,
        "/large": page(bytes(101)),
        "/fits": page(bytes(100)),
        "/short": page(bytes(50), Content_Length="80"),
        "/zipped": page(bytes(10), Content_Encoding="gzip"),
        "/missing": page(b"", status=404),
    }
    with web(pages) as server:
        base = f"http://web.test:{server.port}"
        assert len(fetcher().fetch(f"{base}/fits", 100).data) == 100
        for path, said in {
            "/endless": "larger than 100 bytes",
            "/large": "larger than 100 bytes",
            "/short": "ended before the file did",
            "/zipped": "compressed",
            "/missing": "answered 404",
        }.items():
            with pytest.raises(DataError, match=said):
                fetcher().fetch(base + path, 100)


@pytest.mark.parametrize("where", ["headers", "body", "silence"])
def test_a_server_that_drips_is_cut_off(where):
    def drip(handler):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n" if where != "silence" else b"")
        handler.wfile.write(b"\r\n" if where == "body" else b"")
        for _ in range(200):
            time.sleep(0.05)
            if where != "silence":
                handler.wfile.write(b"X")
                handler.wfile.flush()

    with web({"/": drip}) as server:
        began = time.monotonic()
        with pytest.raises(DataError, match=r"not complete within 0.3 s"):
            fetcher(seconds=0.3).fetch(f"http://web.test:{server.port}/", 10_000)
        assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("ftp://web.test/", "ftp:// is not fetched"),
        ("gopher://web.test/", "gopher:// is not fetched"),
        ("javascript:alert(1)", "javascript:// is not fetched"),
        ("web.test/x.png", "no:// is not fetched"),
        ("http://", "needs a host name"),
        ("http:///x", "needs a host name"),
        ("http://user:word@web.test/", "no user name or password"),
        ("http://web.test@inside.test/", "no user name or password"),
        ("http://web.test:0/", "needs a host name"),
        ("http://web.test:99999/", "not a URL"),
        ("http://[::1/", "not a URL"),
        ("http://web.test/a b", "percent-encode"),
        ("http://web.test/a\r\nX: y", "percent-encode"),
        ("http://web.test/ä", "percent-encode"),
        ("http://a..test/", "no such host"),
        (f"http://{'a' * 64}.test/", "no such host"),
    ],
)
def test_odd_urls_are_one_clear_line(url, said):
    with pytest.raises(DataError, match=said):
        fetcher().fetch(url, 100)


def test_plain_http_is_off_by_default():
    with pytest.raises(DataError, match="http:// is not fetched here; use https://"):
        Fetcher(5, 2).fetch("http://web.test/", 100)


def test_nobody_there_is_one_clear_line():
    with web({}) as server:
        port = server.port
    with pytest.raises(DataError, match="cannot be fetched: Connection refused"):
        fetcher().fetch(f"http://web.test:{port}/", 100)
    with pytest.raises(DataError, match="no such host"):
        fetcher({"gone.test": []}).fetch("http://gone.test/", 100)


def test_the_certificate_must_be_the_names():
    authority = trustme.CA()
    ours, trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("web.test").configure_cert(ours)
    authority.configure_trust(trusting)
    with web({"/": page(b"pixels")}, tls=ours) as server:
        url = f"https://web.test:{server.port}/"
        secure = {"schemes": ("https",), "tls": trusting}
        assert fetcher(**secure).fetch(url, 100).data == b"pixels"
        with pytest.raises(DataError, match="certificate is not valid"):
            fetcher({"other.test": [HOME]}, **secure).fetch(f"https://other.test:{server.port}/", 100)
        with pytest.raises(DataError, match="certificate is not valid"):
            fetcher(schemes=("https",)).fetch(url, 100)


def test_the_systems_names_resolve():
    assert HOME in resolve("localhost", 80)
