"""One conversation, every door, the same prompt ids; and what the doors give back."""

import pytest
import torch

from llavakit.chat import Chat, load
from llavakit.core.errors import ConfigError, DataError
from llavakit.engine.engine import Engine
from llavakit.engine.sampler import Sampling
from llavakit.model import checkpoint as checkpoints
from llavakit.model.placement import four_bits
from llavakit.text.conversation import Conversation, assistant, user
from tests import tiny


class Recorder(Engine):
    """An engine that remembers what it was asked."""

    def events(self, samples, sampling, *ends):
        self.seen = [sample.ids for sample in samples]
        return super().events(samples, sampling, *ends)


@pytest.mark.parametrize("name", list(tiny.TOKENIZERS))
@pytest.mark.parametrize("with_image", [True, False])
def test_every_door_makes_the_same_prompt(tmp_path, name, with_image):
    ck = tiny.checkpoint(name)
    checkpoints.save(ck, tmp_path / "model")
    images = [tiny.picture(tmp_path / "a.png")] if with_image else []
    trained = tiny.encoder(name).encode(Conversation((user("What color is it?", images), assistant("red"))))
    prompt = trained.ids[: next(i for i, weight in enumerate(trained.weights) if weight > 0)]

    for chat in (
        Chat(Recorder(ck.model, frozenset()), tiny.encoder(name)),
        Chat(
            Recorder(checkpoints.load(tmp_path / "model").model, frozenset()),
            load(tmp_path / "model").encoder,
        ),
    ):
        seen = []
        chat.ask("What color is it?", images=[str(path) for path in images], sampling=Sampling(max_tokens=1))
        seen.append(chat.engine.seen[0])
        talk = Conversation((user("What color is it?", images),))
        list(chat.stream(talk, sampling=Sampling(max_tokens=1)))
        seen.append(chat.engine.seen[0])
        chat.batch([talk], sampling=Sampling(max_tokens=1))
        seen.append(chat.engine.seen[0])
        assert seen == [prompt] * 3


@pytest.mark.parametrize("name", list(tiny.TOKENIZERS))
def test_streamed_text_is_the_answer(tmp_path, name):
    ck = tiny.checkpoint(name)
    chat = Chat(Engine(ck.model, frozenset()), tiny.encoder(name))
    talk = Conversation((user("Tell me.", [tiny.picture(tmp_path / "a.png")]),))
    how = Sampling(max_tokens=40, temperature=1.0, seed=3)
    pieces = list(chat.stream(talk, sampling=how))
    assert len(pieces) > 1
    assert "".join(pieces).strip() == chat.batch([talk], sampling=how)[0]


def test_bytes_and_opened_images_answer_like_the_file(tmp_path):
    import PIL.Image

    checkpoints.save(tiny.checkpoint(), tmp_path / "model")
    bot = load(tmp_path / "model")
    path = tiny.picture(tmp_path / "a.png")
    how = Sampling(max_tokens=6)
    answers = {bot.ask("?", images=[image], sampling=how) for image in (str(path), path, path.read_bytes())}
    answers.add(bot.ask("?", images=[PIL.Image.open(path)], sampling=how))
    assert len(answers) == 1


def test_a_forgotten_list_is_one_clear_line(tmp_path):
    checkpoints.save(tiny.checkpoint(), tmp_path / "model")
    with pytest.raises(DataError, match=r"images must be a list: images=\['x.png'\]"):
        load(tmp_path / "model").ask("?", images="x.png")


def test_weights_can_be_read_in_another_type(tmp_path):
    checkpoints.save(tiny.checkpoint(), tmp_path / "model")
    bot = load(tmp_path / "model", dtype=torch.bfloat16)
    assert bot.engine.model.language.dtype == torch.bfloat16
    assert isinstance(
        bot.ask("?", images=[tiny.picture(tmp_path / "a.png")], sampling=Sampling(max_tokens=3)), str
    )


@pytest.mark.parametrize("weights", ["as_is", "bf16", "int8"])
def test_a_loaded_model_holds_its_decoders_weights_once(tmp_path, weights):
    checkpoints.save(tiny.checkpoint(), tmp_path / "model")
    bot = load(tmp_path / "model", weights=weights)
    assert isinstance(bot.ask("?", sampling=Sampling(max_tokens=3)), str)
    layers = bot.engine.model.language.get_decoder().layers
    assert all(product.weight.is_meta for product in layers.modules() if isinstance(product, torch.nn.Linear))


def test_two_quantizations_exclude_each_other(tmp_path):
    with pytest.raises(ConfigError, match="weights=int8 and a quantization of transformers exclude"):
        load(tmp_path, weights="int8", quantization=four_bits())
