"""Write golden/NAME.txt, a page per template: what it renders and what is learned of it.

`python -m tests.text.write_golden` rewrites them all. Read the difference against the published strings before it
is committed: the pages are only worth what that reading was.
"""

import re
from itertools import groupby, product
from pathlib import Path

from llavakit.text.conversation import Conversation, Message, assistant, user
from llavakit.text.template import Piece, Template, Weights
from llavakit.text.templates import ALIASES, TEMPLATES

FOLDER = Path(__file__).parent / "golden"
ROWS = {name: row for name, row in TEMPLATES.items() if name not in ALIASES}
PICTURE = Path("a.png")


def talk(rounds: int, image: bool) -> list[Message]:
    """Q1, A1, Q2, ...; the image belongs to Q1."""
    messages = []
    for number in range(1, rounds + 1):
        messages += [user(f"Q{number}", [PICTURE] if image and number == 1 else []), assistant(f"A{number}")]
    return messages


def marked(
    row: Template, messages: list[Message], *, open_turn: bool = False, weights: Weights = "ours"
) -> str:
    """The rendered text on one line: ⏎ for a newline, <image> for the image, ⟦ ⟧ around what is learned."""
    runs: list[tuple[str, bool]] = []
    for piece in row.pieces(Conversation(tuple(messages)), open_turn=open_turn, weights=weights):
        if not isinstance(piece, Piece):
            runs.append(("<image>", False))
            continue
        tokens = "|".join(map(re.escape, piece.tokens))
        for text in re.split(f"({tokens})", piece.text) if tokens else [piece.text]:
            runs.append((text, piece.weight == 1 or text in piece.tokens))
    line = ""
    for learned, group in groupby((run for run in runs if run[0]), key=lambda run: run[1]):
        text = "".join(text for text, _ in group)
        line += f"⟦{text}⟧" if learned else text
    return line.replace("\n", "⏎")


def page(row: Template) -> str:
    """The golden page of a row."""
    frame = f"{row.media_frame[0]} {row.media_frame[1]}" if row.media_frame[0] else "nothing"
    lines = [
        f"name       {row.name}",
        f"BOS        {'yes' if row.bos else 'no'}",
        f"placement  {row.placement}, {frame} around each image",
        f"stops      {' '.join(dict.fromkeys((row.end.strip(' '), *row.stops)))}".replace("\n", "⏎"),
        f"compat     learned wherever they stand: {' '.join(row.compat_tokens) or 'none'}".replace("\n", "⏎"),
    ]
    for rounds, image, weights in product((1, 3), (False, True), ("ours", "compat")):
        title = f"{rounds} round{'s' * (rounds > 1)}{', image' * image}, {weights}"
        lines += ["", f"# {title}", marked(row, talk(rounds, image), weights=weights)]
    for rounds, image in product((1, 3), (False, True)):
        title = f"open turn {rounds}{', image' * image}, ours"
        lines += ["", f"# {title}", marked(row, talk(rounds, image)[:-1], open_turn=True)]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Rewrite every page and remove those of rows that are gone."""
    FOLDER.mkdir(exist_ok=True)
    for old in FOLDER.glob("*.txt"):
        old.unlink()
    for name, row in ROWS.items():
        (FOLDER / f"{name}.txt").write_bytes(page(row).encode())


if __name__ == "__main__":
    main()
