"""Linear RoPE scaling is transformers' own, survives saving, and is refused where it means nothing."""

import json

import pytest
import torch
from transformers import (
    GPT2Config,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaForConditionalGeneration,
    ModernBertDecoderConfig,
    Phi3Config,
)

from llavakit import chat
from llavakit.core.errors import ConfigError
from llavakit.core.types import Segment
from llavakit.data.encode import Sample
from llavakit.data.pack import collate
from llavakit.engine.decoder import fuse
from llavakit.engine.engine import Engine
from llavakit.engine.sampler import Sampling
from llavakit.model import checkpoint as checkpoints
from llavakit.model.build import build, load_language
from llavakit.model.convert.convert import Options, convert
from llavakit.model.families import family
from llavakit.model.hf_card import part_settings
from llavakit.model.llava import Llava
from llavakit.model.rope import stretch_config
from llavakit.model.settings import LanguageConfig, ModelConfig
from tests import tiny
from tests.model.test_decoders import SHAPE, random_model
from tests.originals import Original


def frequencies(language):
    return language.model.rotary_emb.inv_freq


def wanted(config: LlamaConfig, factor: float):
    """The frequencies of transformers' own decoder with this scaling."""
    rope = {**config.rope_parameters, "rope_type": "linear", "factor": factor}
    settings = config.to_dict() | {"rope_parameters": rope}
    return frequencies(LlamaForCausalLM(LlamaConfig(**settings)))


def logits(language, positions):
    ids = torch.arange(3, 3 + len(positions))[None]
    with torch.no_grad():
        return language(input_ids=ids, position_ids=torch.tensor([positions])).logits


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rope") / "model"
    checkpoints.save(tiny.checkpoint(), folder)
    return folder


def test_loading_with_a_factor_gives_transformers_frequencies(folder):
    plain = checkpoints.load(folder).model.language
    language = checkpoints.load(folder, rope_factor=2).model.language
    assert torch.equal(frequencies(language), wanted(plain.config, 2.0))
    assert torch.equal(frequencies(language), frequencies(plain) / 2)
    assert (plain.config.max_position_embeddings, language.config.max_position_embeddings) == (512, 1024)
    assert chat.load(folder, rope_factor=2).engine.context == 1024


def test_a_scaled_decoder_at_twice_the_position_is_the_plain_one(folder):
    plain, scaled = (checkpoints.load(folder, rope_factor=f).model.language for f in (None, 2))
    for language in (plain, scaled):
        language.set_attn_implementation("eager")
    torch.testing.assert_close(logits(plain, [0, 1, 2, 3]), logits(scaled, [0, 2, 4, 6]), atol=1e-5, rtol=0)
    assert (logits(plain, [0, 1, 2, 3]) - logits(scaled, [0, 1, 2, 3])).abs().max() > 1e-3


def test_saving_and_exporting_keeps_the_scaling(folder, tmp_path):
    scaled = checkpoints.load(folder, rope_factor=2)
    checkpoints.save(scaled, tmp_path / "scaled")
    rope = json.loads((tmp_path / "scaled/config.json").read_text())["text_config"]["rope_parameters"]
    assert rope == {"rope_theta": 10000.0, "rope_type": "linear", "factor": 2.0}
    theirs = LlavaForConditionalGeneration.from_pretrained(tmp_path / "scaled").model.language_model
    back = checkpoints.load(tmp_path / "scaled").model.language.model
    for language in (back, theirs):
        assert torch.equal(language.rotary_emb.inv_freq, frequencies(scaled.model.language))
    # Files have the positions before scaling: that is what releases wrote and what vLLM multiplies.
    assert (back.config.max_position_embeddings, theirs.config.max_position_embeddings) == (1024, 512)


def test_the_factor_counts_from_the_unscaled_decoder(folder, tmp_path):
    checkpoints.save(checkpoints.load(folder, rope_factor=2), tmp_path / "scaled")
    again, more = (checkpoints.load(tmp_path / "scaled", rope_factor=f).model.language for f in (2, 4))
    assert (again.config.max_position_embeddings, more.config.max_position_embeddings) == (1024, 2048)
    assert torch.equal(frequencies(more), wanted(again.config, 4.0))


def test_the_old_nested_form_is_read_and_the_misplaced_one_is_not_scaling(folder, tmp_path):
    """A public conversion script wrote type and factor beside the other settings; transformers reads no scaling."""
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    plain = frequencies(checkpoints.load(folder).model.language)
    for extra, factor in (
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, 2.0),
        ({"type": "linear", "factor": 2.0}, 1.0),
    ):
        text = {name: value for name, value in config["text_config"].items() if name != "rope_parameters"}
        (tmp_path / "config.json").write_text(json.dumps(config | {"text_config": text | extra}))
        language = checkpoints.load(tmp_path).model.language
        assert torch.equal(frequencies(language), plain / factor)


def test_a_run_starts_from_scaled_parts_or_a_scaled_checkpoint(folder, tmp_path):
    plain = checkpoints.load(folder).model.language
    started = build(ModelConfig(start=folder, rope_factor=2)).model.language
    assert torch.equal(frequencies(started), wanted(plain.config, 2.0))
    models = [checkpoints.load(folder, rope_factor=factor).model for factor in (None, 2)]
    assert [(model.context, model.stretched) for model in models] == [(512, 1.0), (1024, 2.0)]
    plain.save_pretrained(tmp_path / "decoder")
    tiny.byte_level_tokenizer().hf.save_pretrained(tmp_path / "decoder")
    tower = tmp_path / "tower"
    tiny.checkpoint().model.tower.vision.save_pretrained(tower)
    fresh = ModelConfig(
        language=LanguageConfig(path=str(tmp_path / "decoder")),
        tower={"path": str(tower)}, image=tiny.IMAGE, template="chatml", rope_factor=2,
    )  # fmt: skip
    language = build(fresh).model.language
    assert torch.equal(frequencies(language), frequencies(started))
    assert language.config.max_position_embeddings == 1024
    assert torch.equal(frequencies(load_language(fresh.language)[0]), frequencies(plain))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (GPT2Config(), "no rotary position embedding"),
        (ModernBertDecoderConfig(), "per kind of layer"),
        (
            LlamaConfig(rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}),
            "'dynamic'",
        ),
        (LlamaConfig(rope_parameters={"rope_type": "yarn", "factor": 2.0, "rope_theta": 10000.0}), "'yarn'"),
    ],
)
def test_what_cannot_be_scaled_is_refused(config, words):
    with pytest.raises(ConfigError, match=words) as error:
        stretch_config(config, 2)
    assert "\n" not in str(error.value)


def test_a_factor_below_one_is_refused():
    with pytest.raises(ConfigError, match="at least 1"):
        stretch_config(LlamaConfig(), 0.5)


CLAIMS = [
    ({}, {}, 512),
    ({"rope_scaling": {"type": "linear", "factor": 2.0}}, {}, 1024),
    ({"rope_scaling": {"type": "linear", "factor": 2.0}, "max_sequence_length": 1024}, {}, 1024),
    ({"max_sequence_length": 800}, {}, 800),
    ({}, {"tokenizer_model_max_length": 900}, 900),
    ({}, {"tokenizer_model_max_length": 10**30}, 512),
]


@pytest.mark.parametrize(("settings", "original_only", "context"), CLAIMS)
def test_the_context_is_what_the_release_can_read(folder, tmp_path, settings, original_only, context):
    """In both layouts, and again in what is written; files keep the positions before scaling."""
    changes = {"tokenizer_model_max_length": None} | settings | original_only
    Original().save(tmp_path / "original" / "model", **changes)
    convert(tmp_path / "original" / "model", tmp_path / "hf", "hf", Options(template="vicuna_v1"))
    convert(tmp_path / "hf", tmp_path / "back", "original")
    found = [tmp_path / "original" / "model", tmp_path / "hf", tmp_path / "back"]
    if not original_only:
        for file in folder.iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes())
        config = json.loads((folder / "config.json").read_text())
        text = {key: value for key, value in config["text_config"].items() if not key.startswith("rope")}
        (tmp_path / "config.json").write_text(json.dumps(config | {"text_config": text | settings}))
        found.append(tmp_path)
    for place in found:
        assert checkpoints.load(place, template_name="vicuna_v1").model.context == context, place


def test_next_video_reads_its_32_frames_from_its_own_directory(tmp_path):
    """4608 tokens of frames, 4096 positions, a factor of 2."""
    row = family("llava-next-video-7b")
    frames = row.plan((640, 360), frames=row.card.video.max_frames).num_tokens
    text = {"model_type": "llama", "max_position_embeddings": 4096}
    text |= {"rope_scaling": {"type": "linear", "factor": 2.0}}
    settings, _ = part_settings({"model_type": "llava_next_video", "text_config": text}, tmp_path)
    assert 4096 < frames < settings["max_position_embeddings"] == 8192


LONG = {
    "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 4, "long_factor": [1.0, 2.0, 4.0, 8.0],
    "original_max_position_embeddings": 16,
}  # fmt: skip
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}


def scaled(kind: str, context: int) -> Llava:
    rope = LONG if kind == "longrope" else DYNAMIC
    shape = SHAPE | {"max_position_embeddings": context}
    if kind == "longrope":
        return random_model(Phi3Config(**shape, rope_parameters=rope, original_max_position_embeddings=16))
    return random_model(LlamaConfig(**shape, rope_parameters=rope))


def prompt(size: int, seed: int) -> Sample:
    ids = torch.randint(1, 119, (size,), generator=torch.Generator().manual_seed(seed)).tolist()
    return Sample(tuple(ids), (0.0,) * size, (Segment(0, size),))


@pytest.mark.parametrize(("kind", "context"), [("longrope", 64), ("longrope", 16), ("dynamic", 64)])
def test_a_sample_does_not_depend_on_the_longest_of_its_row(kind, context):
    model, short = scaled(kind, context), prompt(7, 0)
    with torch.no_grad():
        alone = model.hidden(collate([short], learn=False))
        beside = model.hidden(collate([prompt(context - 1, 1), short], learn=False))[-7:]
        again = model.hidden(collate([short], learn=False))
    torch.testing.assert_close(beside, alone, atol=1e-5, rtol=1e-5)
    assert torch.equal(again, alone)


def logprobs(engine: Engine, samples) -> list[list[float]]:
    """Of the answers, all made together; they go past the original context."""
    heard: dict[int, list[float]] = {}
    for sample in samples:
        number = engine.submit(
            engine.prepare(sample, Sampling(max_tokens=16, logprobs=0)),
            lambda event: heard[event.request].append(event.logprob),
        )
        heard[number] = []
    while engine.busy:
        engine.step()
    return list(heard.values())


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_an_answer_does_not_depend_on_who_is_answered_beside_it(kind):
    model, samples = scaled(kind, 64), [prompt(10, 0), prompt(40, 1)]
    alone = [logprobs(Engine(model, frozenset()), [sample])[0] for sample in samples]
    for together, expected in zip(logprobs(Engine(model, frozenset()), samples), alone, strict=True):
        assert len(expected) == 16 and together == pytest.approx(expected, abs=1e-4)


def test_the_set_of_factors_is_chosen_by_the_models_context():
    short, long = (frequencies(scaled("longrope", context).language) for context in (16, 64))
    torch.testing.assert_close(long, short / torch.tensor(LONG["long_factor"]))


def test_another_number_format_does_not_round_the_frequencies(folder):
    exact = frequencies(checkpoints.load(folder).model.language)
    loaded = checkpoints.load(folder, dtype=torch.bfloat16)
    assert loaded.model.language.dtype == loaded.model.tower.vision.dtype == torch.bfloat16
    assert torch.equal(frequencies(loaded.model.language), exact)
    model = checkpoints.load(folder).model
    fuse(model, "bf16")
    assert model.language.dtype == torch.bfloat16 and torch.equal(frequencies(model.language), exact)
