"""What a run starts from: a checkpoint, or fresh parts joined by a new connector."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.initialization import no_init_weights

from llavakit.core.errors import ConfigError
from llavakit.model.adapters import Adapter, add_adapters
from llavakit.model.card import Card
from llavakit.model.checkpoint import Checkpoint, load
from llavakit.model.connector import build_connector, match_scale
from llavakit.model.directory import complete_card, resolve, settings_of
from llavakit.model.empty import without_numbers
from llavakit.model.formats.gguf import read_gguf
from llavakit.model.formats.hub import locate
from llavakit.model.formats.quantized import method_of, stored_quantization
from llavakit.model.formats.vocabulary import EMBEDDING, HEAD, grow
from llavakit.model.formats.weights import Weights, open_weights
from llavakit.model.llava import Llava, Newline, Score
from llavakit.model.placement import four_bits
from llavakit.model.rope import stretch, with_context
from llavakit.model.settings import LanguageConfig, ModelConfig
from llavakit.model.tower import load_tower
from llavakit.text.grading import Grading
from llavakit.text.templates import template
from llavakit.text.tokenizer import IMAGE_TOKEN, Tokenizer


def build(config: ModelConfig, grading: Grading | None = None, *, unread: bool = False) -> Checkpoint:
    """The model a run starts from. Fresh parts are drawn with PyTorch's global seed.

    With `grading` it is a reward model: `config.start` has a head for rewards, or gets a fresh one. With `unread`
    the decoder's weights stay in their files (Checkpoint.unread); all else is always there.
    """
    card = complete_card(config).model_copy(update={"grading": grading})
    template(card.template)  # an unknown name should fail before gigabytes are read
    if config.start is not None:
        return _build_on(config.start, config, card, unread=unread)
    if config.lora is not None:
        raise ConfigError(
            "model.lora needs model.start: adapters are kept apart from the checkpoint they belong to"
        )
    stored: Weights = {}
    if unread:
        language, tokenizer, stored = open_language(config.language, card.special_tokens)
    else:
        language, tokenizer = load_language(config.language, card.special_tokens)
    if config.rope_factor is not None:
        stretch(language, config.rope_factor)
    tower = load_tower(card.tower, card.image)
    connector = build_connector(card.connector, tower.width, language.config.hidden_size)
    if card.connector.match_embeddings:
        table = stored[EMBEDDING].read() if stored else _tables(language)[0].weight.detach()
        match_scale(connector, float(table.std()), tower.width)
    newline = Newline(card.separators, language.config.hidden_size)
    return Checkpoint(Llava(tower, connector, language, newline), tokenizer, card, unread=stored)


def _build_on(start: Path, config: ModelConfig, card: Card, *, unread: bool) -> Checkpoint:
    """The model of `start` as the run goes on with it: with its tokens, rows and adapters."""
    lora = config.lora
    small = lora is not None and lora.four_bit
    # Else in float32, whatever the files hold: in half of it, small steps would be lost.
    quantization = stored_quantization(settings_of(resolve(start, weights=False)))
    if quantization is not None:
        raise ConfigError(
            f"{start}: its weights are quantized ({method_of(quantization)}), and such a model is not "
            "trained further; start from the one that it was made from (model.lora.four_bit shrinks it meanwhile)"
        )
    with torch.random.fork_rng(devices=[]):  # what is drawn afterwards does not depend on how this is read
        started = load(
            start,
            template_name=card.template,
            rope_factor=config.rope_factor,
            dtype=None if small else torch.float32,
            quantization=four_bits() if small else None,
            unread=unread,
        )
    check_parts(card, started.card, start)
    language, old = started.model.language, len(_tables(started.model.language)[0].weight)
    with torch.random.fork_rng(devices=[]):  # rows are drawn first, where there is memory for them
        add_tokens(language, started.tokenizer, card.special_tokens)
    if lora is not None and len(_tables(language)[0].weight) > old:
        raise ConfigError(
            f"{start} has no room for the tokens {', '.join(card.special_tokens)}, and adapters do not hold the "
            "token tables: train without model.lora first, or start from a checkpoint that has them"
        )
    started.model.newline = _with_separators(started.model, card.separators)
    if card.grading is not None and started.card.grading is None:
        started.model.score = Score(started.model.width).to(started.model.device)
    rows = len(_tables(language)[0].weight)
    weights = grow(started.unread, rows) if started.unread and rows > old else started.unread
    return Checkpoint(started.model, started.tokenizer, card, _adapter(config, started), weights)


def check_parts(card: Card, started: Card, start: Path) -> None:
    """Tower and connector must be those of the start; template and media rules may change.

    A model with a head for rewards goes on as one.
    """
    for name in ("tower", "connector"):
        mine, theirs = card.model_dump()[name], started.model_dump()[name]
        if mine != theirs:
            raise ConfigError(f"model.{name} is {mine}, but {start} has {theirs}")
    if started.grading is not None and card.grading is None:
        raise ConfigError(
            f"{start} is a reward model, which can only learn to score: llavakit train reward model.start={start}"
        )


def _adapter(config: ModelConfig, started: Checkpoint) -> Adapter | None:
    """The adapters that the run trains: those of its start, or fresh ones, which are put in place here."""
    lora, before = config.lora, started.adapter
    if before is None:
        if lora is None:
            return None
        assert config.start is not None
        add_adapters(started.model, lora)
        return Adapter(lora, resolve(config.start))
    if lora is None:
        raise ConfigError(
            f"{config.start} holds adapters: give model.lora with the same settings to train them further, "
            "or make it an ordinary checkpoint with `llavakit merge`"
        )
    mine, theirs = (each.model_dump(exclude={"four_bit"}) for each in (lora, before.lora))
    changed = [f"{name}={theirs[name]!r}" for name in mine if mine[name] != theirs[name]]
    if changed:
        raise ConfigError(
            f"{config.start} holds adapters with model.lora: {', '.join(changed)}; give the same"
        )
    return Adapter(lora, before.base)


def load_language(config: LanguageConfig, special: Sequence[str] = ()) -> tuple[PreTrainedModel, Tokenizer]:
    """Decoder and tokenizer, with `<image>` in the vocabulary (other programs need an id for image slots) and
    further `special` tokens.
    """
    if config.gguf is not None:
        if not config.gguf.is_file():
            raise ConfigError(f"model.language.gguf={config.gguf}: no such file")
        language: PreTrainedModel = read_gguf(config.gguf)
        tokenizer = Tokenizer.load(config.gguf.parent, gguf_file=config.gguf.name)
    else:
        try:
            language = AutoModelForCausalLM.from_pretrained(config.path, dtype=torch.float32)
        except (OSError, ValueError) as error:
            raise ConfigError(f"model.language.path={config.path!r}: {str(error).splitlines()[0]}") from None
        tokenizer = Tokenizer.load(config.path)
    _prepare(language, tokenizer, special)
    return language, tokenizer


def open_language(
    config: LanguageConfig, special: Sequence[str] = ()
) -> tuple[PreTrainedModel, Tokenizer, Weights]:
    """The same decoder without numbers, for ranks that take a share of each, and where those are in its files.

    One whose files are GGUF, or name tensors otherwise than its class, is read whole: then there are none there.
    """
    if config.gguf is not None:
        return *load_language(config, special), {}
    stored = {f"language.{key}": each for key, each in open_weights(locate(config.path)).items()}
    with no_init_weights(), without_numbers():
        settings = AutoConfig.from_pretrained(config.path)
        language = AutoModelForCausalLM.from_config(settings, dtype=torch.float32)
    language.tie_weights()
    names = {f"language.{name}" for name, _ in language.named_parameters()}
    if EMBEDDING not in stored or names - stored.keys():
        return *load_language(config, special), {}
    tokenizer = Tokenizer.load(config.path)
    with _real_tables(language):
        _prepare(language, tokenizer, special)
    # As they are held: the mean of old rows, which new ones are, is no bfloat16 number.
    tables = {key: stored[key].then(Tensor.float) for key in (EMBEDDING, HEAD) if key in stored}
    return language, tokenizer, grow(stored | tables, len(_tables(language)[0].weight))


@contextmanager
def _real_tables(language: PreTrainedModel) -> Iterator[None]:
    """Inside, token tables have memory: growing them draws as many random numbers as it does in a whole model."""
    _empty_tables(language, "cpu")
    yield
    _empty_tables(language, "meta")


def _empty_tables(language: PreTrainedModel, device: str) -> None:
    for table in _tables(language):
        table.weight = nn.Parameter(torch.zeros_like(table.weight, device=device))
    language.tie_weights()


def _prepare(language: PreTrainedModel, tokenizer: Tokenizer, special: Sequence[str]) -> None:
    """What a decoder is given before it becomes a part: the context it has, tokens and rows for them."""
    settings: Any = language.config
    known = with_context(settings.to_dict())
    if "max_position_embeddings" in known:
        settings.max_position_embeddings = known["max_position_embeddings"]
    add_tokens(language, tokenizer, [IMAGE_TOKEN, *special])


def add_tokens(language: PreTrainedModel, tokenizer: Tokenizer, names: Sequence[str]) -> None:
    """Put `names` into the vocabulary and, if the tables are too short, rows for them: the mean of the old ones."""
    old = len(_tables(language)[0].weight)
    tokenizer.add_special(names)
    if len(tokenizer) > old:
        language.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=64, mean_resizing=False)
        with torch.no_grad():
            for table in _tables(language):
                table.weight[old:] = table.weight[:old].mean(dim=0)


def _with_separators(model: Llava, names: tuple[str, ...]) -> Newline:
    """The learned rows `names`: the model's own where it has them, fresh ones where a stage brings them in."""
    newline = Newline(names, model.language.config.hidden_size)
    trained = {name: row for name, row in model.newline.state_dict().items() if name in names}
    newline.load_state_dict(trained, strict=False)
    return newline.to(model.device, model.language.dtype)


def _tables(language: PreTrainedModel) -> list[Any]:
    """Input and output embeddings: one and the same module's weight where they are tied."""
    return [language.get_input_embeddings(), language.get_output_embeddings()]
