"""The released rows: every system is there, the published model cards come out, and every row makes a model."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from llavakit.core.errors import ConfigError
from llavakit.model.connector import build_connector
from llavakit.model.counts import count_parameters
from llavakit.model.families import FAMILIES, family
from llavakit.model.families.row import family_config
from llavakit.model.formats.towers import SIGLIP
from llavakit.model.llava import Llava, Newline
from llavakit.model.tower import empty_tower
from llavakit.recipes import RECIPES
from llavakit.text.templates import TEMPLATES
from llavakit.vision.frames import rope_factor

ROWS = list(FAMILIES.values())
SYSTEMS = [
    "LLaVA", "LLaVA-Med", "LLaVA-RLHF", "LLaVA-1.5", "LLaVA-1.5-HD", "LLaVA-Interactive", "LLaVA-Plus",
    "LLaVA-NeXT", "LLaVA-NeXT-Video", "LLaVA-NeXT Stronger LLMs", "LLaVA-NeXT Ablations", "LLaVA-NeXT-Interleave",
    "LLaVA-OneVision", "LLaVA-Video", "LLaVA-Critic",
]  # fmt: skip


def test_all_fifteen_systems_have_rows_and_names_are_used_once():
    assert {row.system for row in ROWS} == set(SYSTEMS)
    assert len(SYSTEMS) == 15
    assert all(name == row.name for name, row in FAMILIES.items())
    assert len({(row.released, row.name) for row in ROWS}) == len(ROWS)


def test_a_checkpoint_belongs_to_one_row_except_where_a_system_has_none_of_its_own():
    ids = [row.released for row in ROWS if row.released and row.system != "LLaVA-Interactive"]
    assert len(ids) == len(set(ids))


def test_an_unknown_name_lists_the_near_ones():
    with pytest.raises(ConfigError, match="llava15-7b"):
        family("llava15-7")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_parts_of_a_row_fit_each_other(row):
    image = row.card.image
    assert row.card.template in TEMPLATES
    assert (image.size, image.grid) == (row.vision.image_size, row.vision.image_size // row.vision.patch_size)
    assert row.decoder.hidden_size % row.decoder.num_attention_heads == 0
    assert row.decoder.num_attention_heads % row.decoder.num_key_value_heads == 0
    assert row.context <= row.decoder.max_position_embeddings
    assert row.card.tower.path == row.vision.path
    assert family_config(row).language.path == row.decoder.path
    config = AutoConfig.for_model(**row.decoder.config())
    assert config.rope_parameters["rope_theta"] == row.decoder.rope_theta
    assert config.hidden_size // config.num_attention_heads == 128 or row.decoder.hidden_size < 2048


# name -> (total, vision, connector, language) as the blogs print them; None where they print nothing
CARDS = {
    "llava16-7b": ("7.06B", "303.5M", "21M", "6.74B"),
    "llava16-13b": ("13.35B", "303.5M", "31.5M", "13B"),
    "llava16-34b": ("34.75B", "303.5M", "58.7M", "34.39B"),
    "llava-next-llama3-8b": ("8.35B", "303.5M", None, "8.03B"),
    "llava-next-qwen-72b": ("72.7B", "303.5M", None, "72.3B"),
    "llava-next-ablation-base": ("0.9B", None, None, None),
    "llava-onevision-7b-ov": ("8.0B", None, None, None),
    "llava-onevision-72b-ov": ("73.2B", None, None, None),
    "llava-onevision-0.5b-ov": (None, None, "1.8M", None),
}


def printed(number: int, like: str) -> str:
    """`number` with as many digits as `like` has."""
    unit = like[-1]
    digits = len(like[:-1].partition(".")[2])
    return f"{number / {'B': 1e9, 'M': 1e6}[unit]:.{digits}f}{unit}"


@pytest.mark.parametrize("name", CARDS)
def test_the_published_card_comes_out(name):
    counts = count_parameters(family(name))
    numbers = counts.total, counts.vision, counts.connector, counts.language
    for number, published in zip(numbers, CARDS[name], strict=True):
        assert published is None or printed(number, published) == published


@pytest.mark.parametrize(
    ("name", "published"), [("llava-next-qwen-110b", 111.5), ("llava-onevision-0.5b-ov", 0.8)]
)
def test_two_published_totals_are_rounded_down(name, published):
    """111.59 and 0.89 billion parameters; the first card also says 111.0 for a language model of 111.2."""
    assert published <= count_parameters(family(name)).total / 1e9 < published + 0.1


def test_the_blog_counts_large_connectors_in_units_of_2_to_the_20():
    """20.0M and 72.0M of Stronger LLMs. OneVision's paper prints these two again, for connectors from SigLIP."""
    assert round(count_parameters(family("llava-next-llama3-8b")).connector / 2**20, 1) == 20.0
    assert round(count_parameters(family("llava-next-qwen-72b")).connector / 2**20, 1) == 72.0
    assert count_parameters(family("llava-onevision-7b-ov")).connector == 16_980_992
    assert count_parameters(family("llava-onevision-72b-ov")).connector == 76_562_432


@pytest.mark.parametrize(
    ("name", "connector"),
    [
        ("llava-7b", 4_198_400),
        ("llava-13b", 5_248_000),
        ("llava15-7b", 20_979_712),
        ("llava15-13b", 31_467_520),
        ("llava16-34b", 58_734_592),
        ("llava-next-qwen-110b", 75_513_856),
    ],
)
def test_connectors_have_exactly_these_parameters(name, connector):
    assert count_parameters(family(name)).connector == connector


def test_vision_is_the_whole_tower_of_a_released_checkpoint():
    assert count_parameters(family("llava15-7b")).vision == 303_507_456
    assert SIGLIP.num_hidden_layers == 26 and SIGLIP.head is False
    assert count_parameters(family("llava-onevision-7b-ov")).vision == 397_747_744


def test_tied_embeddings_count_once():
    assert family("llava-onevision-0.5b-ov").decoder.tie_word_embeddings
    assert (
        count_parameters(family("llava-onevision-0.5b-ov")).language == 494_032_768 + 896
    )  # and the newline


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "llava-7b",
        "llava-med15-7b",
        "llava15-hd-13b",
        "llava16-34b",
        "llava-next-llama3-8b",
        "llava-video-72b-slowfast",
    ],
)
def test_the_counts_are_those_of_the_whole_model(name):
    """Tower, connector, decoder and newline put together as a checkpoint would be, without memory."""
    row = family(name)
    with torch.device("meta"):
        layer = -1 if row.vision == SIGLIP else row.card.tower.layer
        tower = empty_tower(
            row.card.tower.model_copy(update={"layer": layer}), row.card.image, row.vision.config()
        )
        language = AutoModelForCausalLM.from_config(AutoConfig.for_model(**row.decoder.config()))
        width = language.config.hidden_size
        model = Llava(
            tower,
            build_connector(row.card.connector, tower.width, width),
            language,
            Newline(row.card.separators, width),
        )
    assert sum(parameter.numel() for parameter in model.parameters()) == count_parameters(row).total


def test_recipes_start_from_rows():
    model = RECIPES["llava15-stage2"]().model
    assert model.language.path == "lmsys/vicuna-7b-v1.5"
    assert model.image == family("llava15-7b").card.image


# Videos through the rows


@pytest.mark.parametrize(
    ("name", "frames", "tokens"),
    [
        ("llava-next-video-7b", 16, 2304),
        ("llava-next-video-7b", 56, 8064),
        ("llava-next-video-32b-qwen", 32, 32 * 12 * 13),
        ("llava-next-interleave-7b", 16, 16 * 729),
        ("llava-onevision-7b-ov", 32, 6273),
        ("llava-critic-7b", 32, 6273),
        ("llava-video-7b", 64, 13440),
        ("llava-video-7b", 110, 23100),
        ("llava-video-72b-slowfast", 64, 7036),
    ],
)
def test_the_published_token_counts_of_videos(name, frames, tokens):
    assert family(name).plan((640, 480), frames=frames).num_tokens == tokens


def test_doubling_the_context_makes_room_for_56_frames():
    row = family("llava-next-video-7b")
    assert row.rope_scaling
    tokens = row.plan((640, 480), frames=56).num_tokens
    assert rope_factor(tokens, row.context) == 2
    assert 2 * row.context - tokens == 128


def test_seven_unpooled_frames_fill_a_context_of_4096():
    """The blog's starting point: 576 tokens a frame."""
    assert 4096 // 576 == 7
    row = family("llava-next-video-7b")
    assert row.plan((640, 480), frames=1).num_tokens == 576 // 4


def test_frames_are_refused_where_there_is_no_video():
    with pytest.raises(ConfigError, match="llava15-7b takes no videos"):
        family("llava15-7b").plan((640, 480), frames=8)


def test_a_rule_is_refused_where_there_is_nothing_to_read():
    with pytest.raises(ConfigError, match="no list of grids"):
        family("llava15-7b").plan((640, 480), rule="transformers")
    with pytest.raises(ConfigError, match="no list of grids"):
        family("llava-video-7b").plan((640, 480), frames=8, rule="transformers")
