"""Adapters: where they go, that peft reads them, that they merge, and that a run with them resumes exactly."""

import json
import shutil

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file

from llavakit.core.errors import CheckpointError, ConfigError
from llavakit.data.pack import collate
from llavakit.model import checkpoint as checkpoints
from llavakit.model.adapters import Adapter, adapter_parameters, add_adapters
from llavakit.model.build import build
from llavakit.model.convert.convert import merge
from llavakit.model.settings import LoraSettings, ModelConfig
from llavakit.text.conversation import Conversation, user
from llavakit.train.freezing import train_only
from llavakit.train.optim import build_optimizer
from llavakit.train.settings import OptimConfig
from tests import tiny

LORA = LoraSettings(r=4, alpha=8, dropout=0.0)


def adapted(tmp_path, lora=LORA, seed=1) -> checkpoints.Checkpoint:
    """A tiny checkpoint on the disk, loaded, with adapters that do something."""
    checkpoints.save(tiny.checkpoint(), tmp_path / "base")
    mine = build(ModelConfig(start=tmp_path / "base", lora=lora))
    dice = torch.Generator().manual_seed(seed)
    for part in lora.parts:
        for parameter in adapter_parameters(mine.model.part(part)).values():
            parameter.data = torch.randn(parameter.shape, generator=dice) / 4
    with torch.no_grad():
        mine.model.connector[0].weight.add_(0.1)  # as if it had been trained beside them
    mine.model.eval()
    return mine


def logits(checkpoint, tmp_path):
    picture = tiny.picture(tmp_path / "p.png")
    sample = tiny.encoder().encode(Conversation((user("What color is it?", [picture]),)), open_turn=True)
    with torch.no_grad():
        tiles = [media.tiles() for media in sample.media]
        return checkpoint.model.logits(checkpoint.model.hidden(collate([sample], tiles, learn=False)))


def test_fresh_adapters_change_nothing(tmp_path):
    plain = tiny.checkpoint()
    before = logits(plain, tmp_path)
    add_adapters(plain.model, LORA)
    assert torch.equal(logits(plain, tmp_path), before)


@pytest.mark.parametrize("tower", [False, True])
def test_adapters_are_in_every_linear_layer_of_the_decoder_and_nowhere_else(tower):
    """The tower's layers are called q_proj too; the head is a linear layer too."""
    model = tiny.checkpoint().model
    add_adapters(model, LORA.model_copy(update={"tower": tower}))
    assert not adapter_parameters(model.connector)
    layers = {name.rsplit(".", 3)[0] for name in adapter_parameters(model.language)}
    leaves = ["mlp.down_proj", "mlp.gate_proj", "mlp.up_proj"] + [f"self_attn.{x}_proj" for x in "kqvo"]
    assert layers == {f"model.layers.{layer}.{leaf}" for layer in range(2) for leaf in leaves}
    seen = {name.rsplit(".", 3)[0].split("layers.")[1] for name in adapter_parameters(model.tower)}
    leaves = [f"self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "out_proj")] + [
        "mlp.fc1", "mlp.fc2",
    ]  # fmt: skip
    assert seen == ({f"{layer}.{leaf}" for layer in range(2) for leaf in leaves} if tower else set())


def test_only_adapters_and_the_connector_learn_each_at_its_own_rate():
    ck = tiny.checkpoint()
    add_adapters(ck.model, LORA)
    train_only(ck.model, ("connector", "language"), adapter=Adapter(LORA, None))
    learned = {name for name, p in ck.model.named_parameters() if p.requires_grad}
    wanted = {f"language.{name}" for name in adapter_parameters(ck.model.language)}
    assert learned == wanted | {f"connector.{name}" for name, _ in ck.model.connector.named_parameters()}
    rates = {group["part"]: group["peak"] for group in build_optimizer(ck.model, OptimConfig()).param_groups}
    assert rates == {"connector": 2e-5, "language": 2e-5}


@pytest.mark.parametrize("parts", [("connector",), ("connector", "language", "tower")])
def test_what_an_adapter_directory_would_lose_is_refused(parts):
    ck = tiny.checkpoint()
    add_adapters(ck.model, LORA)
    with pytest.raises(ConfigError, match="puts adapters into language: train these"):
        train_only(ck.model, parts, adapter=Adapter(LORA, None))


@pytest.mark.parametrize("tower", [False, True])
def test_a_saved_adapter_loads_by_its_path_with_its_connector(tmp_path, tower):
    mine = adapted(tmp_path, LORA.model_copy(update={"tower": tower}))
    checkpoints.save(mine, tmp_path / "mine")
    assert logits(mine, tmp_path).ne(logits(tiny.checkpoint(), tmp_path)).any()
    back = checkpoints.load(tmp_path / "mine")
    back.model.eval()
    assert torch.equal(logits(back, tmp_path), logits(mine, tmp_path))
    assert back.adapter == mine.adapter
    assert back.card == mine.card
    stored = {key for file in (tmp_path / "mine").rglob("*.safetensors") for key in load_file(file)}
    assert not [key for key in stored if "embed" in key or "lm_head" in key]


def test_peft_loads_the_directory_on_the_bare_decoder(tmp_path):
    mine = adapted(tmp_path)
    checkpoints.save(mine, tmp_path / "mine")
    decoder = tiny.checkpoint().model.language.eval()
    decoder.set_attn_implementation("eager")
    theirs = PeftModel.from_pretrained(decoder, tmp_path / "mine").eval()
    ids = torch.randint(0, 300, (1, 9), generator=torch.Generator().manual_seed(0))
    mine.model.language.set_attn_implementation("eager")
    with torch.no_grad():
        ours = mine.model.language(input_ids=ids).logits
        torch.testing.assert_close(theirs(input_ids=ids).logits, ours, atol=1e-5, rtol=1e-5)
        with theirs.disable_adapter():
            assert not torch.allclose(theirs(input_ids=ids).logits, ours, atol=1e-2)


@pytest.mark.parametrize("tower", [False, True])
def test_merged_is_an_ordinary_checkpoint_with_the_same_answers(tmp_path, tower):
    mine = adapted(tmp_path, LORA.model_copy(update={"tower": tower}))
    unmerged = logits(mine, tmp_path)
    checkpoints.save(mine, tmp_path / "mine")
    merge(tmp_path / "mine", tmp_path / "merged")
    back = checkpoints.load(tmp_path / "merged")
    assert back.adapter is None
    assert back.model.state_dict().keys() == tiny.checkpoint().model.state_dict().keys()
    back.model.eval()
    torch.testing.assert_close(logits(back, tmp_path), unmerged, atol=1e-3, rtol=1e-4)
    for part in (mine.model.language, mine.model.tower):  # peft's own sums
        for layer in [layer for layer in part.modules() if isinstance(layer, LoraLayer)]:
            layer.merge(safe_merge=True)
    for key, tensor in back.model.state_dict().items():
        part, _, name = key.partition(".")
        theirs = mine.model.part(part).state_dict()
        wanted = theirs.get(name, theirs.get(".base_layer.".join(name.rsplit(".", 1))))
        torch.testing.assert_close(tensor, wanted, atol=1e-6, rtol=1e-6)


def test_a_base_that_moved_with_its_run_is_found_and_another_one_is_refused(tmp_path):
    runs = tmp_path / "runs"
    runs.mkdir()
    mine = adapted(runs)
    checkpoints.save(mine, runs / "mine")
    shutil.move(runs, tmp_path / "elsewhere")
    moved = tmp_path / "elsewhere" / "mine"
    checkpoints.load(moved)
    checkpoints.save(tiny.checkpoint(seed=7), tmp_path / "elsewhere" / "base")
    with pytest.raises(CheckpointError, match="not those it was trained on"):
        checkpoints.load(moved)
    shutil.rmtree(tmp_path / "elsewhere" / "base")
    with pytest.raises(CheckpointError, match=r"holds adapters for .*base, which is not there"):
        checkpoints.load(moved)


def test_a_lost_connector_is_said(tmp_path):
    checkpoints.save(adapted(tmp_path), tmp_path / "mine")
    (tmp_path / "mine" / "connector.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"connector.safetensors: not there; .* incomplete"):
        checkpoints.load(tmp_path / "mine")


def test_saving_twice_writes_the_same_bytes(tmp_path):
    mine = adapted(tmp_path)
    for name in ("a", "b"):
        checkpoints.save(mine, tmp_path / name)
    for file in ("adapter_config.json", "adapter_model.safetensors", "connector.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 4, 8)
    assert config["base_model_name_or_path"] == str(tmp_path / "base")


def test_settings_that_do_not_fit_the_start_are_named(tmp_path):
    checkpoints.save(adapted(tmp_path), tmp_path / "mine")
    with pytest.raises(ConfigError, match=r"model.lora needs model.start"):
        build(ModelConfig(lora=LORA))
    with pytest.raises(ConfigError, match=r"holds adapters: give model.lora"):
        build(ModelConfig(start=tmp_path / "mine"))
    with pytest.raises(ConfigError, match=r"holds adapters with model.lora: r=4, alpha=8; give the same"):
        build(ModelConfig(start=tmp_path / "mine", lora=LORA.model_copy(update={"r": 8, "alpha": 16})))
    with pytest.raises(ConfigError, match=r"no linear layer 'qproj'; did you mean 'q_proj'"):
        build(ModelConfig(start=tmp_path / "base", lora=LORA.model_copy(update={"targets": ("qproj",)})))


def test_chosen_targets_only():
    model = tiny.checkpoint().model
    add_adapters(model, LORA.model_copy(update={"targets": ("q_proj", "v_proj")}))
    leaves = {name.rsplit(".", 3)[0].rsplit(".", 1)[1] for name in adapter_parameters(model.language)}
    assert leaves == {"q_proj", "v_proj"}


def test_four_bits_are_for_the_decoder_alone_and_for_training_alone(tmp_path):
    mine = adapted(tmp_path, LORA.model_copy(update={"four_bit": True}))
    mine.model.train()  # bitsandbytes packs weights anew for its fast path on CPUs, which wants larger layers
    kinds = {type(m).__name__ for m in mine.model.language.get_decoder().modules()}
    assert "Linear4bit" in kinds
    stored = {str(p.dtype) for name, p in mine.model.language.named_parameters() if "base_layer" in name}
    assert stored == {"torch.uint8"}
    outside = [*mine.model.tower.parameters(), *mine.model.connector.parameters()]
    assert all(p.dtype == torch.float32 for p in outside)
    assert mine.model.language.get_output_embeddings().weight.dtype == torch.float32
    train_only(mine.model, ("connector", "language"), adapter=mine.adapter)
    rough = logits(mine, tmp_path)
    checkpoints.save(mine, tmp_path / "mine")
    full = checkpoints.load(tmp_path / "mine")
    exact = logits(full, tmp_path)
    off = (rough - exact).norm() / exact.norm()
    assert 0 < off < 0.5  # the same function, up to the rounding of a very small and wild decoder
    again = build(ModelConfig(start=tmp_path / "mine", lora=mine.adapter.lora))
    again.model.train()
    assert torch.equal(logits(again, tmp_path), rough)
