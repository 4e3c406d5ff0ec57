"""Probes: what is asked, what the page shows, and that nothing in it runs or calls anybody."""

import json
import re
from html.parser import HTMLParser

import pytest

from llavakit.chat import answer
from llavakit.core.errors import ConfigError, DataError
from llavakit.train.loop import train
from llavakit.train.probes import Probe, draw_page, read_probes
from tests import tiny
from tests.train.test_loop import interrupt_after, losses, tiny_run

HOSTILE = '<script>alert(1)</script><img src=http://x/y onerror=alert(2)> & "quotes" \'</td>'


class Page(HTMLParser):
    """What a browser would see: tags, attributes, text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.words += data


def test_hostile_text_stays_text():
    page = draw_page(HOSTILE, [Probe(None, HOSTILE, HOSTILE, ())], {1: [HOSTILE]})
    seen = Page(page)
    assert set(seen.tags) <= set(
        ["html", "meta", "title", "style", "h1", "h2", "section", "div", "table", "tr", "td"]
    )
    assert seen.words.count(HOSTILE) == 5  # title twice, question, reference, answer
    assert not [name for name, _ in seen.attributes if name.startswith("on")]


def test_the_page_carries_its_pictures_and_asks_nobody(tmp_path):
    probes = read_probes(tiny.data_file(tmp_path), None, 4, tiny.encoder())
    page = draw_page("run", probes, {2: list("abcd"), 10: list("efgh")})
    seen = Page(page)
    sources = [value for name, value in seen.attributes if name in ("src", "href")]
    assert len(sources) == 3  # every fourth record has no picture
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert "default-src 'none'" in page
    assert not re.search(r"https?:", page)
    assert seen.words.index("step 10") < seen.words.index("step 2")


def test_the_first_question_is_asked_without_its_answer(tmp_path):
    probes = read_probes(tiny.data_file(tmp_path), None, 2, tiny.encoder())
    assert [probe.question for probe in probes] == ["What color is the shape?"] * 2
    assert [probe.reference for probe in probes] == ["red", "blue"]
    assert [len(probe.conversation.messages) for probe in probes] == [1, 1]


def test_a_bad_probe_is_named(tmp_path):
    path = tiny.data_file(tmp_path)
    (tmp_path / "1.png").unlink()
    with pytest.raises(DataError, match=r"data.json:\d+: image not found"):
        read_probes(path, None, 8, tiny.encoder())
    (tmp_path / "none.json").write_text("[]")
    with pytest.raises(ConfigError, match="no record in it"):
        read_probes(tmp_path / "none.json", None, 8, tiny.encoder())


def test_a_run_asks_its_probes_and_learns_the_same(tmp_path):
    plain = tiny_run(tmp_path, "plain")
    train(plain)
    changes = {
        "probes.file": tmp_path / "data.json",
        "probes.every": 2,
        "probes.count": 3,
        "probes.max_tokens": 4,
    }
    run, cut = tiny_run(tmp_path, "run", **changes), tiny_run(tmp_path, "cut", **changes)
    train(run, answer=answer)
    assert losses(run) == losses(plain)
    rows = [json.loads(line) for line in (run.out / "probes.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4, 6]
    assert all(len(row["answers"]) == 3 for row in rows)
    page = (run.out / "probes.html").read_text()
    interrupt_after(cut, 3, answer=answer)
    assert "step 4" not in (cut.out / "probes.html").read_text()
    train(cut, resume=True, answer=answer)
    assert (cut.out / "probes.html").read_text() == page.replace("run: probes", "cut: probes").replace(
        "<title>run", "<title>cut"
    )


def test_probes_without_anybody_to_answer_are_refused(tmp_path):
    run = tiny_run(tmp_path, **{"probes.file": tmp_path / "data.json"})
    with pytest.raises(ConfigError, match=r"probes.file is set, but nothing can answer"):
        train(run)
