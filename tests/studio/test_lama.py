"""LaMa over HTTP: a server that does as agreed, and those that do not."""

import base64
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import PIL.Image
import pytest

from llavakit.core.errors import RemoteError
from llavakit.studio.defaults import default_bench
from llavakit.studio.fill.lama import Lama
from llavakit.studio.scene import EditError
from llavakit.studio.session import Session
from tests.studio.pictures import png, scenery


class Painter(BaseHTTPRequestHandler):
    """Fills the hole with green; by its path it fails in a way of its own."""

    def do_POST(self):
        said = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        image, mask = (PIL.Image.open(io.BytesIO(base64.b64decode(said[name]))) for name in ("image", "mask"))
        image.paste((0, 200, 0), mask=mask)
        if self.path.startswith("/small"):
            image = image.resize((5, 5))
        body = b"no picture" if self.path.startswith("/broken") else png(np.asarray(image))
        self.send_response(500 if self.path.startswith("/angry") else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words):
        pass


@pytest.fixture
def url():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Painter)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_a_removal_is_filled_by_the_server(url):
    session = Session.create(None, png(scenery()), default_bench(lama=url))
    session.apply({"do": "paint", "path": [[100, 100]], "width": 40})
    session.apply({"do": "remove", "grow": 0})
    shown = session.tile(session.rev, 0, 0, 0)[..., :3]
    assert (shown[100, 100] == (0, 200, 0)).all() and np.array_equal(shown[:60], scenery()[:60, :256])


@pytest.mark.parametrize(
    ("path", "line"),
    [("/angry", "500"), ("/broken", "not an image"), ("/small", "gave 5 x 5 pixels for 30 x 20")],
)
def test_what_is_not_as_agreed_is_one_line(url, path, line):
    rgb, hole = scenery(30, 20), np.zeros((20, 30), bool)
    hole[5:9, 5:9] = True
    with pytest.raises(RemoteError, match=line):
        Lama(url + path).fill(rgb, hole)


def test_nobody_there_and_words_are_one_line():
    rgb, hole = scenery(30, 20), np.ones((20, 30), bool)
    with pytest.raises(RemoteError, match=":9/api"):
        Lama("http://127.0.0.1:9").fill(rgb, hole)
    with pytest.raises(EditError, match="no prompt"):
        Lama("http://127.0.0.1:9").fill(rgb, hole, "a dog")
