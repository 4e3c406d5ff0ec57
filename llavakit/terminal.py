"""Chat in a terminal: one question, or a conversation with pictures attached on the way."""

import time
from collections.abc import Sequence
from pathlib import Path

from llavakit.core.errors import UserError
from llavakit.core.progress import console, printable, say
from llavakit.engine.responder import Responder
from llavakit.engine.sampler import Sampling
from llavakit.text.conversation import Conversation, Message, Video, assistant, system, user
from llavakit.vision.image import load_image

HELP = "/image PATH or /video PATH attaches to your next question; /new starts over; /quit ends"


class Terminal:
    """A conversation held on the console. Answers appear as they are made."""

    def __init__(
        self,
        chat: Responder,
        sampling: Sampling,
        *,
        images: Sequence[Path] = (),
        videos: Sequence[Path] = (),
        system_text: str | None = None,
    ) -> None:
        self.chat, self.sampling = chat, sampling
        self._opening = () if system_text is None else (system(system_text),)
        self._messages: tuple[Message, ...] = self._opening
        self._images: list[Path] = []
        self._videos: list[Path] = []
        for path in images:
            self._attach_image(path)
        for path in videos:
            self._attach_video(path)

    def ask(self, question: str) -> str:
        """Ask with whatever is attached, print the answer, remember both."""
        asked = (*self._messages, user(question, self._images, self._videos))
        began = time.perf_counter()
        pieces: list[str] = []
        for piece in self.chat.stream(Conversation(asked), sampling=self.sampling):
            text = piece if pieces else piece.lstrip()
            console.print(printable(text), end="", markup=False, soft_wrap=True)
            if text:
                pieces.append(text)
        console.print()
        answer = "".join(pieces).strip()
        if console.is_terminal:
            console.print(f"[dim]{self._speed(answer, time.perf_counter() - began)}[/dim]")
        self._messages = (*asked, assistant(answer))
        self._images, self._videos = [], []
        return answer

    def talk(self) -> None:
        """Read questions until /quit or the end of input. A mistake costs one line, not the conversation."""
        say(HELP)
        while True:
            try:
                line = console.input("[bold]> [/bold]" if console.is_terminal else "").strip()
            except (EOFError, KeyboardInterrupt):
                say("")
                return
            command, _, rest = line.partition(" ")
            try:
                if command in ("/quit", "/exit"):
                    return
                if command == "/new":
                    self._messages, self._images, self._videos = self._opening, [], []
                elif command == "/image":
                    self._attach_image(Path(rest.strip()).expanduser())
                elif command == "/video":
                    self._attach_video(Path(rest.strip()).expanduser())
                elif command.startswith("/"):
                    say(HELP)
                elif line:
                    self.ask(line)
            except UserError as error:
                say(f"error: {error}")

    def _attach_image(self, path: Path) -> None:
        width, height = load_image(path).size  # decoded now: a broken file must not fail every later question
        self._images.append(path)
        self._note(f"{path}: {width} x {height}")

    def _attach_video(self, path: Path) -> None:
        seen = self.chat.describe(Video(path))
        self._videos.append(path)
        self._note(f"{path}: {seen}")

    def _speed(self, answer: str, seconds: float) -> str:
        count = self.chat.num_tokens(answer)
        if count is None:
            return f"{seconds:.1f} s"
        return f"{count} tokens, {seconds:.1f} s, {count / max(seconds, 1e-9):.1f} tokens/s"

    def _note(self, text: str) -> None:
        if console.is_terminal:
            console.print(printable(text), style="dim", markup=False)
