"""Probes: the same few questions asked while a run trains, and a page that shows how the answers change.

The page stands alone: pictures are inside it, it runs no script and asks nobody for anything, and what data and
model say is shown as text, whatever it spells. Generation belongs to a higher level, so it is handed in.
"""

import base64
import html
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import PIL.Image

from llavakit.core.errors import ConfigError, DataError
from llavakit.core.files import write_text
from llavakit.data.encode import Encoder
from llavakit.data.records import read_records
from llavakit.model.checkpoint import Checkpoint
from llavakit.rules.short_answers import normalise
from llavakit.text.conversation import Conversation
from llavakit.train.settings import ProbeConfig

SIDE = 256  # longest side of a picture on the page, in pixels
FRAMES = 4  # of a video
SHORT = 4  # words of a reference up to which an answer is right or wrong

STYLE = (
    "body{font:15px/1.45 system-ui,sans-serif;margin:2em auto;max-width:60em;padding:0 1em;color:#222}"
    "section{border-top:1px solid #ccc;padding:1em 0}img{margin:0 6px 6px 0;max-width:100%;"
    "vertical-align:top}"
    "h2{font-size:1.05em;white-space:pre-wrap}td{padding:.15em .8em .15em 0;vertical-align:top}"
    "td:first-child{color:#777;white-space:nowrap}td:last-child{white-space:pre-wrap;"
    "overflow-wrap:anywhere}"
    ".reference td,.right td{color:#176117}.wrong td{color:#a02020}"
    ".right td:last-child::after{content:' \\2713'}.wrong td:last-child::after{content:' \\2717'}"
    ".probe{display:flex;gap:1.5em;flex-wrap:wrap}.probe>div:last-child{flex:1;min-width:16em}"
    "pre{overflow:auto}code{overflow-wrap:anywhere}"
)
HEAD = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" '
    "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
    '<meta name="viewport" content="width=device-width">'
)


class Answer(Protocol):
    def __call__(
        self, checkpoint: Checkpoint, conversations: Sequence[Conversation], max_tokens: int, /
    ) -> list[str]:
        """The model's greedy answers."""
        ...


@dataclass(frozen=True)
class Probe:
    """An open question, what the data answers, and small copies of what is asked about."""

    conversation: Conversation
    question: str
    reference: str
    pictures: tuple[str, ...]  # data URIs


class Probes:
    """The probes of a run: answers go to `probes.jsonl`, one line a step, and `probes.html` shows them all."""

    def __init__(
        self, config: ProbeConfig, checkpoint: Checkpoint, answer: Answer, folder: Path, *, done: int
    ) -> None:
        """`done`: the last step that counts; later answers, of a run that was killed, are dropped."""
        assert config.file is not None
        self.config, self.checkpoint, self.answer, self.folder = config, checkpoint, answer, folder
        card = checkpoint.card
        encoder = Encoder(checkpoint.tokenizer, card.prompt(), card.image, card.video)
        self.probes = read_probes(config.file, config.images, config.count, encoder)
        self.answers: dict[int, list[str]] = {}
        if self._log.exists():
            rows = [json.loads(line) for line in self._log.read_text(encoding="utf-8").splitlines()]
            self.answers = {row["step"]: row["answers"] for row in rows if row["step"] <= done}

    def ask(self, step: int) -> None:
        """Ask the model as it is now, and write both files anew. The model is left in the mode it came in."""
        model = self.checkpoint.model
        training = model.training
        model.eval()
        talks = [probe.conversation for probe in self.probes]
        self.answers[step] = self.answer(self.checkpoint, talks, self.config.max_tokens)
        model.train(training)
        rows = [json.dumps({"step": at, "answers": said}) for at, said in sorted(self.answers.items())]
        write_text(self._log, "\n".join(rows) + "\n")
        write_text(self.folder / "probes.html", draw_page(self.folder.name, self.probes, self.answers))

    @property
    def _log(self) -> Path:
        return self.folder / "probes.jsonl"


def read_probes(path: Path, images: Path | None, count: int, encoder: Encoder) -> list[Probe]:
    """The first question of each of the first `count` records."""
    probes = []
    for record in read_records(path, images)[:count]:
        messages = record.conversation().messages
        at = next((number for number, message in enumerate(messages) if message.role == "user"), None)
        if at is None:
            raise record.error("a probe needs a question")
        asked = Conversation(messages[: at + 1])
        try:
            sample = encoder.encode(asked, open_turn=True)
            shown = [picture for media in sample.media for picture in media.pictures()[:FRAMES]]
        except DataError as error:
            raise record.error(error.what) from None
        reference = messages[at + 1].text if len(messages) > at + 1 else ""
        probes.append(Probe(asked, messages[at].text.strip(), reference, tuple(map(data_uri, shown))))
    if not probes:
        raise ConfigError(f"probes.file={path}: no record in it")
    return probes


def draw_page(title: str, probes: Sequence[Probe], answers: dict[int, list[str]]) -> str:
    """The page: every probe with its pictures, its reference, and the answer of each step, newest first."""
    parts = [begin_page(f"{title}: probes")]
    for number, probe in enumerate(probes):
        pictures = "".join(
            f'<img alt="what is asked about" src="{html.escape(uri)}">' for uri in probe.pictures
        )
        lines = [f'<tr class="reference"><td>reference</td><td>{html.escape(probe.reference)}</td></tr>']
        lines += [
            f"<tr{_mark(said[number], probe.reference)}><td>step {step}</td>"
            f"<td>{html.escape(said[number])}</td></tr>"
            for step, said in sorted(answers.items(), reverse=True)
        ]
        question = html.escape(probe.question)
        parts.append(
            f'<section class="probe"><div>{pictures}</div><div><h2>{question}</h2>'
            f"<table>{''.join(lines)}</table></div></section>"
        )
    return "\n".join(parts) + "\n</html>\n"


def _mark(answer: str, reference: str) -> str:
    """Right or wrong, where the reference is short enough to say so."""
    if not 0 < len(reference.split()) <= SHORT:
        return ""
    return ' class="right"' if normalise(answer) == normalise(reference) else ' class="wrong"'


def begin_page(title: str) -> str:
    """The first lines of a page that runs nothing and asks nobody, with its heading."""
    title = html.escape(title)
    return f"{HEAD}<title>{title}</title><style>{STYLE}</style><h1>{title}</h1>"


def data_uri(picture: PIL.Image.Image) -> str:
    """A small copy of a picture, to stand in a page."""
    small = picture.convert("RGB")
    small.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    small.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
