"""What serving engines can express, and the directory that is written for one (test_vllm.py runs it)."""

import json

import pytest
from safetensors import safe_open
from transformers import AutoTokenizer

import llavakit
from llavakit.core.errors import UserError
from llavakit.model import checkpoint as checkpoints
from llavakit.model.card import Card
from llavakit.model.convert.convert import Options, export
from llavakit.model.families import family
from llavakit.model.serving import sglang_fit, vllm_fit
from llavakit.model.settings import ConnectorConfig, TowerConfig
from llavakit.vision.anyres import AnyresConfig, tile_grids
from llavakit.vision.frames import VideoConfig
from llavakit.vision.plan import ImageConfig
from tests import hf_tiny, tiny

FOUR = AnyresConfig(pinpoints=tile_grids((1, 1), (2, 2), 336), rule="transformers")
SIX = AnyresConfig(pinpoints=tile_grids((1, 1), (6, 6), 336), rule="transformers")
ONE_TOKEN = VideoConfig(pool="bilinear", stride=2, newline="one_token", kind="squash")


def card(anyres=None, **changes):
    image = ImageConfig() if anyres is None else ImageConfig(kind="anyres", anyres=anyres, several="same")
    return Card(image=image, **changes)


@pytest.mark.parametrize(
    ("of", "model_type"),
    [
        (card(), "llava"),
        (card(FOUR), "llava_next"),
        (card(SIX.model_copy(update={"max_tiles": 9})), "llava_onevision"),
        # With at most ten tiles nothing is ever shrunk, whatever the limit is.
        (card(FOUR.model_copy(update={"max_tiles": 4})), "llava_onevision"),
    ],
)
def test_vllm_serves_these_as_they_are(of, model_type):
    assert vllm_fit(of) == (model_type, ())


@pytest.mark.parametrize(
    ("of", "words"),
    [
        (card(connector=ConnectorConfig(kind="linear")), ("connector.kind=linear", "identity")),
        (card(SIX.model_copy(update={"max_tiles": 4})), ("max_tiles", "9 tiles")),
        (card(SIX, video=ONE_TOKEN), ("max_tiles",)),
        (card(tower=TowerConfig(kind="efficientnet_lite0", path="")), ("tower.kind",)),
        (card(FOUR, video=ONE_TOKEN.model_copy(update={"newline": "grid"})), ("video.newline=grid",)),
    ],
)
def test_vllm_cannot_express_these(of, words):
    fit = vllm_fit(of)
    assert fit.model_type is None
    assert all(word in "; ".join(fit.lost) for word in words)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("llava15-7b", ()),
        ("llava16-7b", ("image.anyres.rule=llava", "image.several=pad")),
        ("llava-next-video-7b", ("takes one video, and no images", '"num_frames": 32')),
        ("llava-onevision-7b-ov", ("image.anyres.rule=llava", "image.several=pad", '"num_frames": 32')),
    ],
)
def test_what_vllm_does_otherwise_is_named(name, words):
    fit = vllm_fit(family(name).card)
    assert fit.model_type is not None
    assert len(fit.lost) >= len(words) and bool(fit.lost) == bool(words)
    assert all(word in "; ".join(fit.lost) for word in words)


@pytest.mark.parametrize(
    ("name", "model_type", "word"),
    [
        ("llava15-7b", "llava_llama", None),
        ("llava16-mistral-7b", "llava_mistral", None),
        ("llava-onevision-7b-ov", "llava_qwen", "video"),
        ("llava-7b", None, "connector.kind=linear"),
        ("llava-next-ablation-max4-paper", None, "merge=unpad"),
    ],
)
def test_sglang_reads_the_original_layout(name, model_type, word):
    row = family(name)
    fit = sglang_fit(row.card, row.decoder.model_type)
    assert fit.model_type == model_type
    assert word is None or word in "; ".join(fit.lost)


def keys(folder):
    with safe_open(folder / "model.safetensors", "pt") as file:
        return {key: file.get_slice(key).get_dtype() for key in file.keys()}  # noqa: SIM118


@pytest.mark.parametrize("kind", [kind for kind in hf_tiny.KINDS if kind != "llava_next_video"])
def test_keys_are_spelled_as_vllm_reads_them(tmp_path, kind):
    """It renames `model.` away, but does not put `vision_model.` back, which new transformers leave out."""
    hf_tiny.directory(kind, tmp_path / "saved")
    if kind == "llava_onevision":
        config = json.loads((tmp_path / "saved/config.json").read_text())
        (tmp_path / "saved/config.json").write_text(
            json.dumps(config | {"vision_aspect_ratio": "anyres_max_9"})
        )
    export(tmp_path / "saved", tmp_path / "out", "vllm", Options(template="chatml", dtype="float16"))
    found = keys(tmp_path / "out")
    parts = ("vision_tower.vision_model.", "multi_modal_projector.", "language_model.")
    assert all(any(key.startswith(part) for key in found) for part in parts)
    assert {key for key in found if not key.startswith(parts)} == (
        {"image_newline"} if kind != "llava" else set()
    )
    assert "language_model.model.embed_tokens.weight" in found
    assert set(found.values()) == {"F16"}


def test_the_directory_is_complete(tmp_path, capsys):
    checkpoints.save(tiny.checkpoint("chatml"), tmp_path / "ours")
    export(tmp_path / "ours", tmp_path / "out", "vllm")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names >= {
        "config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json",
        "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "model.safetensors",
    }  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What color?"}]}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "<|im_start|>user\n<image>\nWhat color?<|im_end|>\n<|im_start|>assistant\n"
    stops = json.loads((tmp_path / "out/generation_config.json").read_text())["eos_token_id"]
    assert stops == [tokenizer.convert_tokens_to_ids("<|im_end|>")]
    picture = tiny.picture(tmp_path / "x.png")
    answers = {llavakit.load(tmp_path / name).ask("What color?", [picture]) for name in ("ours", "out")}
    assert len(answers) == 1
    assert "note:" not in capsys.readouterr().out


def test_a_stop_that_is_a_text_is_told(tmp_path, capsys):
    checkpoints.save(tiny.checkpoint("vicuna_v1"), tmp_path / "ours")
    export(tmp_path / "ours", tmp_path / "out", "vllm", Options(template="llava_v0"))
    assert '"stop": ["###"]' in capsys.readouterr().out


@pytest.mark.parametrize("connector", ["linear"])
def test_what_cannot_be_served_is_refused_and_nothing_is_written(tmp_path, connector):
    checkpoints.save(tiny.checkpoint("chatml", connector=connector), tmp_path / "ours")
    with pytest.raises(UserError, match=r"vLLM cannot express this model \(connector.kind=linear"):
        export(tmp_path / "ours", tmp_path / "out", "vllm")
    assert not (tmp_path / "out").exists()


def test_without_videos_more_can_be_served(tmp_path):
    hf_tiny.directory("llava_next_video", tmp_path / "saved")
    with pytest.raises(UserError, match=r"size // patch\*\*2.*--images-only"):  # 56 px in patches of 14
        export(tmp_path / "saved", tmp_path / "out", "vllm", Options(template="chatml"))
    export(tmp_path / "saved", tmp_path / "out", "vllm", Options(template="chatml"), images_only=True)
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["model_type"] == "llava_next"
    before, after = (checkpoints.load(tmp_path / name, template_name="chatml") for name in ("saved", "out"))
    sample = hf_tiny.question(after, "What color?", images=1)
    ours = [hf_tiny.our_logits(loaded, [sample]) for loaded in (before, after)]
    assert hf_tiny.difference(*ours) == 0


def test_a_model_whose_videos_cannot_be_served_says_what_to_do(tmp_path):
    whole = tiny.checkpoint("chatml")
    whole.tokenizer.add_special(["<video>"])
    whole.card = whole.card.model_copy(update={"video": VideoConfig(stride=1)})
    checkpoints.save(whole, tmp_path / "ours")
    with pytest.raises(UserError, match="give up videos with --images-only"):
        export(tmp_path / "ours", tmp_path / "out", "vllm")
    export(tmp_path / "ours", tmp_path / "out", "vllm", images_only=True)


def test_an_unknown_engine_is_refused(tmp_path):
    with pytest.raises(UserError, match="vllm"):
        export(tmp_path, tmp_path / "out", "vlm")
