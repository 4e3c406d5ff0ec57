"""Messages in, text out: the one door to a model for the command line, evaluation and Python.

bot = llavakit.load("runs/demo")
bot.ask("What color is the shape?", images=["x.png"])
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers.utils.quantization_config import QuantizationConfigMixin

from llavakit.core.errors import ConfigError
from llavakit.data.encode import Encoder
from llavakit.data.media import Planned, plan_media
from llavakit.engine.decoder import Decoder, Kernels, ModuleDecoder, Weights, fuse
from llavakit.engine.engine import Engine
from llavakit.engine.responder import GREEDY, Answer, Responder
from llavakit.engine.sampler import Sampling
from llavakit.model import checkpoint
from llavakit.model.card import Card
from llavakit.model.directory import load_card
from llavakit.model.placement import DeviceMap
from llavakit.text.conversation import Conversation, Video
from llavakit.text.reply import Reply


class Chat(Responder):
    """A model that answers conversations, through the encoder it was trained with."""

    def __init__(self, engine: Engine, encoder: Encoder) -> None:
        self.engine, self.encoder = engine, encoder

    def answers(self, conversations: Sequence[Conversation], *, sampling: Sampling = GREEDY) -> list[Answer]:
        """The next assistant text of each conversation, all generated together."""
        plan = Planned()
        samples = [self.encoder.encode(talk, open_turn=True, plan=plan) for talk in conversations]
        replies = [self.reply(sampling) for _ in samples]
        finishes, said = ["stop"] * len(samples), [0] * len(samples)
        for index, event in self.engine.events(
            samples, _without_stops(sampling), lambda index, token: _ends(replies[index], token)
        ):
            said[index] += event.token is not None
            if event.finish is not None:
                finishes[index] = event.finish
        for reply in replies:
            reply.finish()
        return [
            Answer(reply.text.strip(), finish, sample.num_tokens, count)
            for reply, finish, sample, count in zip(replies, finishes, samples, said, strict=True)
        ]

    def stream(self, conversation: Conversation, *, sampling: Sampling = GREEDY) -> Iterator[str]:
        """The next assistant text in pieces. Joined and stripped, they are what `batch` gives."""
        sample = self.encoder.encode(conversation, open_turn=True)
        reply, shown = self.reply(sampling), 0
        for _ in self.engine.stream(
            [sample], _without_stops(sampling), lambda index, token: _ends(reply, token)
        ):
            if len(reply.text) > shown:
                yield reply.text[shown:]
                shown = len(reply.text)
        rest = reply.finish()
        if rest:
            yield rest

    def num_tokens(self, answer: str) -> int:
        """Tokens of an answer."""
        return len(self.encoder.tokenizer.hf(answer)["input_ids"])

    def describe(self, video: Video) -> str:
        """One line about a video as the model will see it."""
        medium = plan_media(video, self.encoder.image, self.encoder.video, alone=True)
        return f"{medium.plan.frames} frames, {medium.plan.num_tokens} tokens"

    def reply(self, sampling: Sampling) -> Reply:
        """An empty answer that ends at the template's stops, and at those of `sampling`."""
        stops = self.encoder.tokenizer.stop_strings(self.encoder.template)
        return Reply(self.encoder.tokenizer, (*stops, *sampling.stop))


def _without_stops(sampling: Sampling) -> Sampling:
    """The replies look for the stops: they make text of every token, and the engine need not do it again."""
    return sampling.model_copy(update={"stop": ()})


def _ends(reply: Reply, token: int) -> bool:
    reply.add(token)
    return reply.ended


def load(
    path: str | Path,
    *,
    template_name: str | None = None,
    dtype: torch.dtype | None = None,
    rope_factor: float | None = None,
    device_map: DeviceMap | None = None,
    quantization: QuantizationConfigMixin | None = None,
    weights: Weights = "as_is",
    kernels: Kernels = "auto",
    max_sequences: int = 64,
    step_tokens: int = 2048,
    kv_bytes: int | None = None,
) -> Chat:
    """A checkpoint, a run directory, a hub id or a released model's name, ready to talk.

    A directory that does not say which template it was trained with needs `template_name`.

    `rope_factor=2` lets twice as many tokens in (linear RoPE scaling); `device_map` and `quantization` are those of
    `transformers`, for the decoder alone. Without a `device_map` the model is on the GPU if there is one.
    `weights` ("bf16", "int8", "int4") are the decoder's, by the engine's own products, and `kernels` says whose
    (`fuse`); the last three are limits of the engine (`Engine`). The model is for talking only: its decoder's
    weights lie as the engine wants them.
    """
    if quantization is not None and weights != "as_is":
        raise ConfigError(f"weights={weights} and a quantization of transformers exclude each other")
    refuse_reward_model(load_card(Path(path), template_name), path)
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
    return _chat(
        loaded, fuse(loaded.model, weights, kernels=kernels, release=True),
        max_sequences=max_sequences, step_tokens=step_tokens, kv_bytes=kv_bytes,
    )  # fmt: skip


def refuse_reward_model(card: Card, path: str | Path) -> None:
    """One line instead of answers that mean nothing."""
    if card.grading is not None:
        raise ConfigError(f"{path} is a reward model: it scores answers (llavakit reward) and gives none")


def answer(
    loaded: checkpoint.Checkpoint, conversations: Sequence[Conversation], max_tokens: int
) -> list[str]:
    """Greedy answers of a model in training, run by its own modules: what a run asks its probes with."""
    chat = _chat(loaded, ModuleDecoder(loaded.model))
    return chat.batch(conversations, sampling=Sampling(max_tokens=max_tokens))


def _chat(loaded: checkpoint.Checkpoint, decoder: Decoder, **limits: Any) -> Chat:
    encoder = Encoder(loaded.tokenizer, loaded.card.prompt(), loaded.card.image, loaded.card.video)
    stop_ids = encoder.tokenizer.stop_ids(encoder.template)
    return Chat(
        Engine(loaded.model, stop_ids, tokenizer=encoder.tokenizer, decoder=decoder, **limits), encoder
    )
