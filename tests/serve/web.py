"""A web server on loopback that does as the test says, honest or not."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ssl import SSLContext
from threading import Thread

ANY_PORT = range(1, 65536)  # where a test's server may be
Page = Callable[[BaseHTTPRequestHandler], None]


class Web(ThreadingHTTPServer):
    """`pages` by path; `hits` are the paths that were asked for, with their Host headers."""

    daemon_threads = True

    def __init__(self, pages: dict[str, Page], host: str) -> None:
        self.pages, self.hits = pages, []
        super().__init__((host, 0), Handler)

    @property
    def port(self) -> int:
        return self.server_address[1]

    def handle_error(self, request, client_address) -> None:
        """A client that hangs up is what these tests are about."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.hits.append((self.path, self.headers["Host"]))
        self.server.pages[self.path.partition("?")[0]](self)
        self.close_connection = True

    def do_POST(self) -> None:
        self.body = self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def log_message(self, *_) -> None:
        pass


@contextmanager
def web(pages: dict[str, Page], host: str = "127.0.0.1", tls: SSLContext | None = None) -> Iterator[Web]:
    server = Web(pages, host)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def page(body: bytes, kind: str | None = "image/png", status: int = 200, **headers: str) -> Page:
    """An honest answer, with headers as wanted (`Content_Length=...`)."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        said = {"Content-Type": kind, "Content-Length": str(len(body)), "Connection": "close"}
        said |= {name.replace("_", "-"): value for name, value in headers.items()}
        for name, value in said.items():
            if value:
                handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def redirect(place: str, status: int = 302) -> Page:
    return page(b"", None, status, Location=place)
