"""Fresh parts whose decoder stays in its files until ranks take their shares: the same model in every bit."""

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from llavakit.model.build import build, open_language
from llavakit.model.settings import ConnectorConfig, LanguageConfig, ModelConfig, TowerConfig
from llavakit.train.loop import train
from llavakit.train.ranks import ALONE
from llavakit.train.settings import ParallelConfig
from llavakit.train.sharding import shard_model
from tests import tiny
from tests.train.test_loop import losses, tiny_run
from tests.train.test_parallel import Pair, train_rank


def parts(folder, *, tied, dtype):
    """A decoder and a tower in directories of their own, as published ones are, and a model to be made of them."""
    torch.manual_seed(0)
    tokenizer = tiny.byte_level_tokenizer()
    text = tiny.text_config(len(tokenizer))
    text.tie_word_embeddings = tied
    LlamaForCausalLM(text).to(dtype).save_pretrained(folder / "decoder")
    tokenizer.hf.save_pretrained(folder / "decoder")
    tiny.checkpoint().model.tower.vision.save_pretrained(folder / "tower")
    return ModelConfig(
        language=LanguageConfig(path=str(folder / "decoder")),
        tower=TowerConfig(path=str(folder / "tower")),
        connector=ConnectorConfig(match_embeddings=True),
        image=tiny.IMAGE,
        template="chatml",
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tied", [True, False])
def test_a_decoder_that_stays_in_its_files_becomes_the_same(tmp_path, tied, dtype):
    """With rows for new tokens, and a connector whose random numbers are drawn behind them."""
    config, found = parts(tmp_path, tied=tied, dtype=dtype), []
    for unread in (False, True):
        torch.manual_seed(3)
        made = build(config, unread=unread)
        assert bool(made.unread) == unread
        assert all(p.is_meta == unread for p in made.model.language.parameters())
        shard_model(made.model, ParallelConfig(), ALONE, None, precision="float32", unread=made.unread)
        found.append((made.model.state_dict(), torch.rand(4)))
    (whole, after), (shares, after_too) = found
    assert len(whole["language.model.embed_tokens.weight"]) > len(tiny.byte_level_tokenizer())
    assert whole.keys() == shares.keys()
    for name, tensor in whole.items():
        assert torch.equal(shares[name], tensor), name
    assert torch.equal(after, after_too)


def test_files_with_other_names_are_read_whole(tmp_path):
    """As those of releases that only a rule of `transformers` reads."""
    config = parts(tmp_path, tied=False, dtype=torch.float32)
    language = AutoModelForCausalLM.from_pretrained(config.language.path)
    base = language.get_decoder()
    base.save_pretrained(tmp_path / "decoder")
    language, _, stored = open_language(config.language)
    assert not stored and not any(p.is_meta for p in language.parameters())


@pytest.mark.slow
def test_two_ranks_begin_and_learn_as_one_does(tmp_path):
    run = tiny_run(tmp_path, "one", **{"optim.steps": 2, "parallel.mode": "fsdp"})
    one = run.model_copy(update={"model": parts(tmp_path, tied=False, dtype=torch.bfloat16)})
    two = one.model_copy(update={"out": tmp_path / "two"})
    train(one)
    pair = Pair()
    try:
        pair(train_rank, two)
    finally:
        pair.stop()
    assert losses(two) == pytest.approx(losses(one), rel=1e-4)
