"""Original LLaVA directories, Hugging Face ones and ours: each becomes the others without losing a bit."""

import json

import pytest
import torch
from transformers import AutoTokenizer, LlavaForConditionalGeneration

import llavakit
from llavakit.core.errors import UserError
from llavakit.core.types import IMAGE_ID
from llavakit.data.encode import Encoder
from llavakit.data.pack import collate
from llavakit.engine.sampler import Sampling
from llavakit.model import checkpoint as checkpoints
from llavakit.model.assemble import Sources
from llavakit.model.build import build
from llavakit.model.convert.convert import Options, convert
from llavakit.model.settings import ModelConfig
from llavakit.text.conversation import Conversation, user
from tests import tiny
from tests.originals import Original, read_weights

VICUNA = Options(template="vicuna_v1")
TABLES = ("model.embed_tokens.weight", "lm_head.weight")


def same(found, expected):
    assert found.keys() == expected.keys()
    assert all(
        torch.equal(found[key], expected[key]) and found[key].dtype == expected[key].dtype for key in expected
    )


def question(loaded, tmp_path, count=2):
    """An open question about pictures of different shapes, and their tiles."""
    images = [tiny.picture(tmp_path / f"p{i}.png", i, (40 + 9 * i, 30)) for i in range(count)]
    encoder = Encoder(loaded.tokenizer, loaded.card.prompt(), loaded.card.image)
    sample = encoder.encode(Conversation((user("What color is it?", images),)), open_turn=True)
    return sample, [media.tiles() for media in sample.media]


def our_logits(loaded, sample, tiles):
    with torch.no_grad():
        return loaded.model.logits(loaded.model.hidden(collate([sample], tiles, learn=False)))


def released_logits(original, sample, tiles):
    """What released code computes, spelled out: tower, projector, rows spliced in, one causal forward."""
    mean, std = ((0.5,) * 3,) * 2 if original.kind == "siglip" else (tiny.IMAGE.mean, tiny.IMAGE.std)
    rows = []
    for tile in tiles:
        pixels = ((tile / 255 - torch.tensor(mean)) / torch.tensor(std)).permute(0, 3, 1, 2)
        hidden = original.tower(pixels, output_hidden_states=True).hidden_states[-2]
        rows.append(original.projector(hidden if original.kind == "siglip" else hidden[:, 1:])[0])
    embed, parts, ids = original.language.get_input_embeddings(), [], list(sample.ids)
    while ids:
        if ids[0] == IMAGE_ID:
            parts.append(rows.pop(0))
            del ids[: len(parts[-1])]
        else:
            parts.append(embed(torch.tensor([ids.pop(0)])))
    with torch.no_grad():
        return original.language(inputs_embeds=torch.cat(parts)[None]).logits[0]


@pytest.mark.parametrize("decoder", ["llama", "mistral", "qwen2"])
@pytest.mark.parametrize("tower", ["clip", "siglip"])
@pytest.mark.parametrize("projector", ["mlp2x_gelu", "linear"])
def test_an_original_directory_loads_with_the_released_logits(tmp_path, decoder, tower, projector):
    original = Original(decoder, tower, projector)
    original.save(tmp_path / "original", "sharded bin", inside=tower == "siglip")
    loaded = checkpoints.load(
        tmp_path / "original", template_name="chatml" if decoder == "qwen2" else "vicuna_v1"
    )
    sample, tiles = question(loaded, tmp_path)
    expected = released_logits(original, sample, tiles)
    ours = our_logits(loaded, sample, tiles)
    assert (ours[:, : expected.shape[1]] - expected).abs().max() <= 1e-4
    assert ours.shape[1] >= len(loaded.tokenizer), "room for <image>"


@pytest.mark.parametrize("layout", ["safetensors", "bin", "sharded safetensors", "sharded bin"])
@pytest.mark.parametrize("projector", ["mlp2x_gelu", "linear"])
@pytest.mark.parametrize("middle", ["hf", "llavakit"])
def test_there_and_back_keeps_every_bit(tmp_path, layout, projector, middle):
    expected = Original(projector=projector).save(tmp_path / "original", layout, dtype=torch.float16)
    convert(tmp_path / "original", tmp_path / "middle", middle, VICUNA)
    convert(tmp_path / "middle", tmp_path / "back", "original")
    same(read_weights(tmp_path / "back"), expected)
    before, after = (
        json.loads((tmp_path / name / "config.json").read_text()) for name in ("original", "back")
    )
    changed = {key for key in before.keys() & after.keys() if before[key] != after[key]}
    assert changed <= {
        "dtype",
        "pad_token_id",
        "rope_scaling",
        "transformers_version",
        "unfreeze_mm_vision_tower",
    }
    assert after["vocab_size"] == before["vocab_size"]
    assert after["tokenizer_model_max_length"] == 300
    words = [AutoTokenizer.from_pretrained(tmp_path / name).get_vocab() for name in ("original", "back")]
    assert words[0] == words[1]


@pytest.mark.parametrize("tower", ["clip", "siglip"])
def test_the_hugging_face_form_has_the_same_logits_in_transformers(tmp_path, tower):
    original = Original(tower=tower)
    original.save(tmp_path / "original", inside=False)
    convert(tmp_path / "original", tmp_path / "hf", "hf", VICUNA)
    hf, report = LlavaForConditionalGeneration.from_pretrained(
        tmp_path / "hf", output_loading_info=True, dtype=torch.float32
    )
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    loaded = checkpoints.load(tmp_path / "hf")
    sample, tiles = question(loaded, tmp_path)
    ids = [loaded.tokenizer.image_token_id if token == IMAGE_ID else token for token in sample.ids]
    pixels = torch.cat([loaded.model.tower.normalise(tile) for tile in tiles])
    with torch.no_grad():
        theirs = hf.eval()(input_ids=torch.tensor([ids]), pixel_values=pixels).logits[0]
    expected = released_logits(original, sample, tiles)
    assert (theirs[:, : expected.shape[1]] - expected).abs().max() <= 1e-4
    assert theirs.shape[1] % 64 == 0


def test_ours_to_hugging_face_and_back_to_ours(tmp_path):
    mine = tiny.checkpoint()
    checkpoints.save(mine, tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "hf", "hf")
    plain = json.loads((tmp_path / "hf/config.json").read_text())
    del plain["llavakit"]
    (tmp_path / "hf/config.json").write_text(json.dumps(plain))
    convert(tmp_path / "hf", tmp_path / "back", "llavakit", Options(template="chatml"))
    same(read_weights(tmp_path / "back"), read_weights(tmp_path / "ours"))
    back = checkpoints.load(tmp_path / "back")
    assert back.card.image == mine.card.image and back.card.template == mine.card.template


@pytest.mark.parametrize("kind", ["cut", "whole"])
def test_siglip_has_one_layer_less_than_its_own_checkpoint(tmp_path, kind):
    """Whether the tower comes from inside (cut when it was trained) or from its own directory (whole)."""
    original = Original("qwen2", "siglip", tie=True)
    original.save(tmp_path / "original", inside=kind == "cut")
    convert(tmp_path / "original", tmp_path / "ours", "llavakit", Options(template="chatml"))
    vision = json.loads((tmp_path / "ours/config.json").read_text())["vision_config"]
    assert (vision["num_hidden_layers"], vision["vision_use_head"]) == (3, False)
    convert(tmp_path / "ours", tmp_path / "back", "original")
    same(
        read_weights(tmp_path / "back"),
        {k: v for k, v in original.tensors().items() if not k.endswith("inv_freq")},
    )


def test_spare_rows_of_the_vocabulary_stay(tmp_path):
    """Qwen's tables are longer than its tokenizer: `<image>` fits, so nothing is added or cut."""
    expected = Original("qwen2").save(tmp_path / "original")
    convert(tmp_path / "original", tmp_path / "hf", "hf", Options(template="chatml"))
    assert len(read_weights(tmp_path / "hf")["language_model.lm_head.weight"]) == len(
        expected["lm_head.weight"]
    )
    convert(tmp_path / "hf", tmp_path / "back", "original")
    same(read_weights(tmp_path / "back"), expected)


def test_new_rows_are_the_mean_of_the_old_ones(tmp_path):
    expected = Original().save(tmp_path / "original")
    convert(tmp_path / "original", tmp_path / "hf", "hf", VICUNA)
    found = read_weights(tmp_path / "hf")
    for key in TABLES:
        table, old = found["language_model." + key], expected[key]
        assert torch.equal(table[: len(old)], old) and len(table) > len(old)
        torch.testing.assert_close(table[len(old) :], old.mean(0).expand(len(table) - len(old), -1))


def test_a_vocabulary_can_be_cut_by_hand(tmp_path):
    original = Original("qwen2")
    original.save(tmp_path / "original")
    size = len(original.tokenizer)
    convert(tmp_path / "original", tmp_path / "cut", "original", Options(vocabulary=size))
    assert len(read_weights(tmp_path / "cut")["lm_head.weight"]) == size
    assert json.loads((tmp_path / "cut/config.json").read_text())["vocab_size"] == size


def test_a_type_can_be_chosen(tmp_path):
    Original().save(tmp_path / "original", dtype=torch.float32)
    convert(tmp_path / "original", tmp_path / "half", "hf", Options(template="vicuna_v1", dtype="bfloat16"))
    assert {tensor.dtype for tensor in read_weights(tmp_path / "half").values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "half/config.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.parametrize("rank_stabilised", [False, True])
@pytest.mark.parametrize("spelling", ["safetensors", "bin with the adapter's name"])
def test_a_merged_adapter_equals_the_unmerged_computation(tmp_path, rank_stabilised, spelling):
    original = Original()
    original.save(tmp_path / "base", "bin", inside=False)
    adapter = write_adapter(original, tmp_path / "lora", rank_stabilised, spelling)
    options = Options(template="vicuna_v1", sources=Sources(base=tmp_path / "base"))
    convert(tmp_path / "lora", tmp_path / "merged", "llavakit", options)
    loaded = checkpoints.load(tmp_path / "merged")
    sample, tiles = question(loaded, tmp_path)

    scale = 12 / (4**0.5 if rank_stabilised else 4)
    for name, (down, up) in adapter["pairs"].items():  # beside the frozen weight, as in training
        original.language.get_submodule(name).register_forward_hook(
            lambda _, given, out, down=down, up=up: out + scale * (given[0] @ down.T @ up.T)
        )
    original.projector.load_state_dict(adapter["projector"])
    original.language.lm_head.weight.data = adapter["head"]
    expected = released_logits(original, sample, tiles)
    assert (our_logits(loaded, sample, tiles)[:, : expected.shape[1]] - expected).abs().max() <= 1e-4


def write_adapter(original, folder, rank_stabilised, spelling):
    """A LoRA directory as peft and released code write it; returns what is in it."""
    from safetensors.torch import save_file

    folder.mkdir()
    names = ["model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"]
    pairs, stored = {}, {}
    middle = "" if spelling == "safetensors" else ".default"
    for name in names:
        wide, narrow = original.language.get_submodule(name).weight.shape
        pairs[name] = torch.randn(4, narrow) / 8, torch.randn(wide, 4) / 8
        for letter, matrix in zip("AB", pairs[name], strict=True):
            stored[f"base_model.model.{name}.lora_{letter}{middle}.weight"] = matrix
    head = torch.randn_like(original.language.lm_head.weight) / 8
    stored[f"base_model.model.lm_head.modules_to_save{middle}.weight"] = head
    if spelling == "safetensors":
        save_file(stored, folder / "adapter_model.safetensors")
    else:
        torch.save(stored, folder / "adapter_model.bin")
    projector = {key: torch.randn_like(value) / 8 for key, value in original.projector.state_dict().items()}
    prefix = "base_model.model.model." if spelling == "safetensors" else "model.model."
    torch.save(
        {f"{prefix}mm_projector.{key}": value for key, value in projector.items()},
        folder / "non_lora_trainables.bin",
    )
    settings = {
        "peft_type": "LORA",
        "r": 4,
        "lora_alpha": 12,
        "use_rslora": rank_stabilised,
        "fan_in_fan_out": False,
    }
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    (folder / "config.json").write_text(json.dumps(original.config(folder)))
    return {"pairs": pairs, "projector": projector, "head": head}


def test_delta_weights_are_added_to_their_base(tmp_path):
    """v0: the delta's tables have rows for new tokens, which the base lacks."""
    original = Original(projector="linear")
    delta = original.save(tmp_path / "delta", "sharded bin", inside=False, dtype=torch.float16)
    rows = len(delta["lm_head.weight"]) - 3
    base = {
        key: (torch.randn_like(value)[:rows] if key in TABLES else torch.randn_like(value))
        for key, value in delta.items()
        if not key.startswith("model.mm_projector")
    }
    (tmp_path / "base").mkdir()
    torch.save(base, tmp_path / "base" / "pytorch_model.bin")
    options = Options(sources=Sources(delta_base=tmp_path / "base"))
    convert(tmp_path / "delta", tmp_path / "whole", "original", options)
    found = read_weights(tmp_path / "whole")
    for key, value in delta.items():
        expected = value.clone()
        if key in base:
            expected[: len(base[key])] += base[key]
        assert torch.equal(found[key], expected), key


@pytest.mark.parametrize("where", ["own directory", "beside the base"])
@pytest.mark.parametrize("rows", ["none", "two", "table"])
def test_a_stage_1_projector_joins_its_language_model(tmp_path, where, rows):
    original = Original(projector="linear")
    changes = {"mm_use_im_start_end": True, "mm_use_im_patch_token": False} if rows != "none" else {}
    folder, base = tmp_path / "stage1", tmp_path / "base"
    original.save(base, inside=False, **changes)
    tensors = {key: value for key, value in read_weights(base).items() if "mm_projector" not in key}
    (base / "model.safetensors").unlink()
    torch.save(tensors, base / "pytorch_model.bin")
    folder.mkdir()
    (folder / "config.json").write_text((base / "config.json").read_text())
    stored = {f"model.mm_projector.{key}": value for key, value in original.projector.state_dict().items()}
    table = tensors["model.embed_tokens.weight"]
    new = torch.randn(2, table.shape[1])
    if rows == "two":
        stored["model.embed_tokens.weight"] = new
    elif rows == "table":
        stored["model.embed_tokens.weight"] = torch.cat([torch.randn_like(table), new])
    source = folder if where == "own directory" else base
    torch.save(stored, source / "mm_projector.bin")
    sources = Sources(base=base if where == "own directory" else None)
    convert(source, tmp_path / "out", "llavakit", Options(template="llava_v1", sources=sources))
    loaded = checkpoints.load(tmp_path / "out")
    assert torch.equal(loaded.model.connector.linear_1.weight, original.projector.weight)
    found = loaded.model.language.get_input_embeddings().weight
    assert torch.equal(found[: len(table)], table)
    assert loaded.card.im_start_end == (rows != "none")
    if rows != "none":
        words = loaded.tokenizer.hf.get_vocab()
        assert torch.equal(found[[words["<im_start>"], words["<im_end>"]]], new)


NEXT = {
    "image_aspect_ratio": "anyres", "mm_patch_merge_type": "spatial_unpad",
    "image_grid_pinpoints": [[28, 56], [56, 28], [56, 56]],
}  # fmt: skip
ONEVISION = NEXT | {"image_aspect_ratio": "anyres_max_4", "mm_spatial_pool_mode": "bilinear"}
NEXT_VIDEO = NEXT | {
    "mm_resampler_type": "spatial_pool", "mm_spatial_pool_mode": "average", "mm_spatial_pool_stride": 2,
}  # fmt: skip
LLAVA_VIDEO = ONEVISION | {"mm_newline_position": "grid", "add_time_instruction": True, "frames_upbound": 64}


@pytest.mark.parametrize(
    ("config", "tower", "model_type"),
    [
        (NEXT, "clip", "llava_next"),
        (ONEVISION, "siglip", "llava_onevision"),
        (NEXT_VIDEO, "clip", "llava_next_video"),
    ],
)
def test_each_class_of_transformers_and_back(tmp_path, config, tower, model_type, capsys):
    original = Original("qwen2", tower, newline=True)
    expected = original.save(tmp_path / "original", **config)
    convert(tmp_path / "original", tmp_path / "hf", "hf", Options(template="chatml"))
    assert "note: transformers differs in image.anyres.rule=llava" in capsys.readouterr().out
    written = json.loads((tmp_path / "hf/config.json").read_text())
    assert written["model_type"] == model_type
    convert(tmp_path / "hf", tmp_path / "back", "original")
    same(read_weights(tmp_path / "back"), expected)
    back = json.loads((tmp_path / "back/config.json").read_text())
    assert {key: back[key] for key in config} == config
    # The same directory without our section: what transformers itself would have written.
    del written["llavakit"]
    (tmp_path / "hf/config.json").write_text(json.dumps(written))
    convert(tmp_path / "hf", tmp_path / "plain", "original", Options(sources=Sources(tower="siglip-or-clip")))
    same(read_weights(tmp_path / "plain"), expected)
    plain = json.loads((tmp_path / "plain/config.json").read_text())
    assert plain["image_grid_pinpoints"] == [[w, h] for w, h in written_as_width_height(written)]
    assert plain["mm_vision_tower"] == "siglip-or-clip"


def written_as_width_height(config):
    """transformers lists (height, width)."""
    return [(width, height) for height, width in config["image_grid_pinpoints"]]


def test_what_only_released_code_has_is_refused_for_transformers_and_kept_for_us(tmp_path):
    expected = Original("qwen2", "siglip", newline=True).save(tmp_path / "original", **LLAVA_VIDEO)
    with pytest.raises(UserError, match=r"no class of transformers .*video.newline=grid.*--to llavakit"):
        convert(tmp_path / "original", tmp_path / "hf", "hf", Options(template="chatml"))
    assert not (tmp_path / "hf").exists()
    convert(tmp_path / "original", tmp_path / "ours", "llavakit", Options(template="chatml"))
    assert checkpoints.load(tmp_path / "ours").card.video.newline == "grid"
    convert(tmp_path / "ours", tmp_path / "back", "original")
    same(read_weights(tmp_path / "back"), expected)
    back = json.loads((tmp_path / "back/config.json").read_text())
    assert {key: back[key] for key in LLAVA_VIDEO} == LLAVA_VIDEO


def test_a_run_starts_from_an_original_directory(tmp_path):
    """And what it saves loads in transformers: there is room for <image>."""
    Original().save(tmp_path / "original")
    started = build(ModelConfig(start=tmp_path / "original", template="vicuna_v1"))
    assert started.card.template == "vicuna_v1" and started.card.image.kind == "pad"
    checkpoints.save(started, tmp_path / "saved")
    again = LlavaForConditionalGeneration.from_pretrained(tmp_path / "saved")
    assert again.config.image_token_id < again.get_input_embeddings().num_embeddings
    with pytest.raises(UserError, match="name one"):
        build(ModelConfig(start=tmp_path / "original"))


def test_a_chat_with_an_original_directory(tmp_path):
    original = Original()
    original.save(tmp_path / "original")
    convert(tmp_path / "original", tmp_path / "ours", "llavakit", VICUNA)
    picture = tiny.picture(tmp_path / "x.png")
    sampling = Sampling(max_tokens=5)
    answers = [
        llavakit.load(tmp_path / name, template_name=given).ask(
            "What is it?", images=[picture], sampling=sampling
        )
        for name, given in [("original", "vicuna_v1"), ("ours", None)]
    ]
    assert answers[0] == answers[1]
