"""The terminal shows answers; it does not obey them."""

import pytest

from llavakit.core.progress import say
from llavakit.engine.sampler import Sampling
from llavakit.terminal import Terminal


class Hostile:
    """Answers with what a picture told the model to write: a title, a cleared screen, an overwritten line."""

    pieces = ("  fine\x1b]0;owned\x07", "\x1b[2J\x9b31m", "\r\x08still\tfine\n", "äöü 日本 😀\x7f")

    def __init__(self):
        self.heard = []

    def stream(self, conversation, *, sampling):
        self.heard.append(conversation)
        yield from self.pieces

    def num_tokens(self, answer):
        return None


def test_an_answer_cannot_command_the_terminal(capsys):
    bot = Hostile()
    terminal = Terminal(bot, Sampling())
    terminal.ask("What?")
    shown = capsys.readouterr().out
    assert shown.startswith("fine]0;owned[2J31mstill   fine\näöü 日本 😀")
    assert not [letter for letter in shown if not letter.isprintable() and letter not in "\n\t"]
    terminal.ask("And?")
    assert bot.heard[1].messages[1].parts[0].text == "".join(bot.pieces).strip(), (
        "the model hears what it said"
    )


@pytest.mark.parametrize("text", ["a server said \x1b[31mred", "\x1b]8;;http://evil.example\x1b\\click"])
def test_no_line_of_ours_passes_a_command_on(capsys, text):
    say(text)
    assert "\x1b" not in capsys.readouterr().out
