"""What a model will be measured with: its pictures and its questions must not be in what it is trained on."""

from collections.abc import Iterable
from pathlib import Path

from llavakit.core.errors import DataError
from llavakit.core.number_map import NumberMap
from llavakit.rules.shingles import shingles_of
from llavakit.synth.items import Items
from llavakit.text.conversation import Image, Medium
from llavakit.vision.image import load_image
from llavakit.vision.likeness import Likeness, SimilarPictures, likeness


class Held:
    """Pictures by how they look, and every run of `ngram` words of the questions."""

    def __init__(self, ngram: int) -> None:
        self.names: list[str] = []  # of the sets
        self._ngram = ngram
        self._pictures, self._places = SimilarPictures(), list[str]()
        self._ngrams = NumberMap()
        self._seen: set[Path] = set()
        self.questions = 0

    @property
    def pictures(self) -> int:
        return len(self._pictures)

    def add(self, name: str, asked: Iterable[tuple[tuple[Medium, ...], Iterable[str]]]) -> None:
        """A set: of each question its media and texts. DataError for a picture that cannot be read."""
        self.names.append(name)
        for media, questions in asked:
            for medium in media:
                if isinstance(medium, Image):
                    self._add_picture(medium, name)
            for question in questions:
                self.questions += 1
                for number in shingles_of(question, self._ngram).tolist():
                    self._ngrams.put(number, len(self.names))

    def add_file(self, path: Path) -> None:
        """A folder of pictures, or a file of records or rows."""
        self.add(str(path), ((item.media, item.known.questions) for item in Items(path)))

    def find_picture(self, seen: Likeness) -> str:
        """The picture that one looks like; nothing if there is none."""
        number = self._pictures.find(seen)
        return "" if number is None else self._places[number]

    def find_question(self, questions: Iterable[str]) -> str:
        """The set and the question that shares words with it; nothing if there is none."""
        for question in questions:
            for number in shingles_of(question, self._ngram).tolist():
                if (found := self._ngrams.get(number)) is not None:
                    return f"{self.names[found - 1]}: {question}"
        return ""

    def _add_picture(self, image: Image, name: str) -> None:
        source = image.source
        if isinstance(source, Path):
            if source in self._seen:
                return
            self._seen.add(source)
        try:
            self._pictures.add(likeness(load_image(source)))
        except DataError as error:
            raise DataError(f"--against {name}: {error.what}") from None
        self._places.append(f"{name}: {source if isinstance(source, Path) else 'a picture in it'}")
