"""Messages in, text out: the one door to a model for the command line, evaluation and Python.

bot = llavakit.load("runs/demo")
bot.ask("What color is the shape?", images=["x.png"])
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from transformers.utils.quantization_config import QuantizationConfigMixin

from llavakit.core.errors import DataError
from llavakit.data.encode import Encoder
from llavakit.engine.engine import Engine
from llavakit.engine.sampler import Sampling
from llavakit.model import checkpoint
from llavakit.model.placement import DeviceMap
from llavakit.text.conversation import Conversation, ImageSource, user

GREEDY = Sampling()


class Chat:
    """A model that answers conversations, through the encoder it was trained with."""

    def __init__(self, engine: Engine, encoder: Encoder) -> None:
        self.engine, self.encoder = engine, encoder

    def ask(
        self, question: str, images: Sequence[str | ImageSource] = (), *, sampling: Sampling = GREEDY
    ) -> str:
        """The answer to one question about zero or more images (paths, bytes or opened images)."""
        return self.batch([Conversation((user(question, open_images(images)),))], sampling=sampling)[0]

    def batch(self, conversations: Sequence[Conversation], *, sampling: Sampling = GREEDY) -> list[str]:
        """The next assistant text of each conversation, all generated together."""
        samples = [self.encoder.encode(talk, open_turn=True) for talk in conversations]
        answers = self.engine.generate(samples, sampling)
        return [self.encoder.tokenizer.decode(ids).strip() for ids in answers]

    def stream(self, conversation: Conversation, *, sampling: Sampling = GREEDY) -> Iterator[str]:
        """The next assistant text in pieces. Joined and stripped, they are what `batch` gives."""
        sample = self.encoder.encode(conversation, open_turn=True)
        ids: list[int] = []
        shown = 0
        for _, token in self.engine.stream([sample], sampling):
            ids.append(token)
            text = self.encoder.tokenizer.decode(ids)
            if not text.endswith("\ufffd") and self.encoder.tokenizer.settles(token):
                yield text[shown:]
                shown = len(text)
        rest = self.encoder.tokenizer.decode(ids)[shown:]
        if rest:
            yield rest


def load(
    path: str | Path,
    *,
    template_name: str | None = None,
    dtype: torch.dtype | None = None,
    rope_factor: float | None = None,
    device_map: DeviceMap | None = None,
    quantization: QuantizationConfigMixin | None = None,
) -> Chat:
    """A checkpoint or run directory, ready to talk. A Hugging Face LLaVA directory needs `template_name`.

    `rope_factor=2` lets twice as many tokens in (linear RoPE scaling); `device_map` and `quantization` are those of
    `transformers`, for the decoder alone. Without a `device_map` the model is on the GPU if there is one.
    """
    where: DeviceMap | None = device_map
    if where is None and quantization is not None:
        where = "cuda" if torch.cuda.is_available() else "cpu"
    loaded = checkpoint.load(
        Path(path),
        template_name=template_name,
        dtype=dtype,
        rope_factor=rope_factor,
        device_map=where,
        quantization=quantization,
    )
    if where is None and torch.cuda.is_available():
        loaded.model.cuda()
    encoder = Encoder(loaded.tokenizer, loaded.card.prompt(), loaded.card.image, loaded.card.video)
    return Chat(Engine(loaded.model, loaded.tokenizer.stop_ids(encoder.template)), encoder)


def open_images(images: Sequence[str | ImageSource]) -> list[ImageSource]:
    """Strings become paths; a string that is not a path (one letter of a forgotten list) is an error here."""
    if isinstance(images, str | bytes | Path):
        raise DataError("images must be a list: images=['x.png']")
    return [Path(image) if isinstance(image, str) else image for image in images]
