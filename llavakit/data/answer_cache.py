"""Log-probabilities of answers by a model that does not change, kept on disk: computed once for all runs.

A cache is a folder with a folder for each model, named by its fingerprint. A key names what a sample says and shows
(token ids, what is learned of them, the pictures' contents and plans), so a changed text, template, picture or rule
is computed anew. Every process writes a file of its own, a line a sample: `KEY LOGPROB LOGPROB...`, a number an
answer. Runs may fill one cache at once, and a process that is killed leaves a shorter but correct cache.
"""

from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from uuid import uuid4

from llavakit.data.contents import Contents
from llavakit.data.encode import Sample


class AnswerCache:
    """The summed log-probability of every answer of a sample, by content."""

    def __init__(self, folder: Path, model: str) -> None:
        """`model` is the model's fingerprint; each has a folder of its own inside `folder`."""
        self.others = [path for path in folder.glob("*/*.answers") if path.parent.name != model]
        self.folder = folder / model
        self.folder.mkdir(parents=True, exist_ok=True)
        self._contents = Contents(folder / "contents")
        self._file = self.folder / f"{uuid4().hex}.answers"
        self._known: dict[str, tuple[float, ...]] = {}
        self.read()

    def read(self) -> None:
        """Learn what all writers have finished."""
        for file in sorted(self.folder.glob("*.answers")):
            for line in file.read_text().split("\n")[:-1]:  # a last line without its end is half written
                key, *numbers = line.split(" ")
                self._known[key] = tuple(map(float, numbers))

    def key(self, sample: Sample) -> str:
        """What the sample says and shows. DataError where a picture cannot be read."""
        found = blake2b(repr((sample.ids, sample.weights, sample.segments)).encode(), digest_size=16)
        for media in sample.media:
            found.update(f" {self._contents.of(media)} {media.plan}".encode())
        return found.hexdigest()

    def __contains__(self, key: str) -> bool:
        return key in self._known

    def logprobs(self, keys: Iterable[str]) -> list[float]:
        """Of every answer of the samples, in order. KeyError where one is not known."""
        return [number for key in keys for number in self._known[key]]

    def add(self, found: Mapping[str, Sequence[float]]) -> None:
        """Keep what a model gave for the answers of samples."""
        with self._file.open("a") as lines:
            for key, numbers in found.items():
                lines.write(f"{key} {' '.join(map(repr, numbers))}\n")
                self._known[key] = tuple(numbers)
        self._contents.save()
