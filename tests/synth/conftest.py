"""Pictures with facts, and an endpoint that writes about them."""

import json
from pathlib import Path

import pytest

from tests import tiny
from tests.synth.endpoint import endpoint


class Album:
    """A folder of pictures, and a file of what is known about each: one caption with a word of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.pictures, self.facts = folder, folder / "pictures", folder / "facts.jsonl"
        self.pictures.mkdir(parents=True, exist_ok=True)

    def add(self, *words: str, **more) -> "Album":
        rows = []
        have = len(list(self.pictures.iterdir()))
        for number, word in enumerate(words, have):
            tiny.picture(self.pictures / f"{number:03}.png", number)
            box = {"label": "cup", "box": [0.1, 0.2, 0.3, 0.4]}
            rows.append({"image": f"{number:03}.png", "captions": [f"fact {word}"], "boxes": [box], **more})
        with self.facts.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        return self

    def words(self, url: str, kind: str = "detail", out: str = "data.jsonl") -> list:
        return [
            "synth", kind, "--images", self.pictures, "--facts", self.facts, "--by", url, "--out", self.folder / out
        ]  # fmt: skip

    def rows(self, out: str = "data.jsonl") -> list[dict]:
        return [json.loads(line) for line in (self.folder / out).read_text().splitlines()]


@pytest.fixture
def album(tmp_path) -> Album:
    return Album(tmp_path)


@pytest.fixture
def asked(monkeypatch):
    """(URL, script) of an endpoint; a server that fails is asked again at once."""
    monkeypatch.setattr("llavakit.synth.writers.PAUSE", 0.001)
    with endpoint() as found:
        yield found
