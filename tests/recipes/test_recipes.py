"""Every recipe is a complete run with the published numbers and starts on tiny parts; five of them learn."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from llavakit.align.opening import open_policy
from llavakit.core.config import dump, make
from llavakit.model.card import Card
from llavakit.model.directory import load_card
from llavakit.model.families.parts import QWEN2_05B
from llavakit.recipes import RECIPES, describe
from llavakit.recipes.stage import RUNS, Mean, Stage, rows_for, short
from llavakit.recipes.table import recipes_page
from llavakit.train.loop import train
from llavakit.train.run import Run
from llavakit.vision.frames import plan_video
from llavakit.vision.plan import plan_image
from tests.recipes.shrink import save_parts, shrink

STAGES = {name: recipe for name, recipe in RECIPES.items() if isinstance(recipe, Stage)}
CLIP_224, CLIP_336 = "openai/clip-vit-large-patch14", "openai/clip-vit-large-patch14-336"
SIGLIP = "google/siglip-so400m-patch14-384"
PARTS = {"c": "connector", "l": "language", "v": "tower", "n": "newline"}
# From papers, blogs and scripts, by hand: parts that learn, rates of connector, language model and tower, samples
# of a step, epochs, tower, image rule, template.
FACTS = {
    "llava-stage1": ("c", 2e-3, None, None, 128, 1, CLIP_224, "square", "plain"),
    "llava-stage2": ("cl", 2e-5, 2e-5, None, 32, 3, CLIP_224, "square", "vicuna_v1"),
    "llava-med-alignment": ("c", 2e-3, None, None, 128, 1, CLIP_224, "square", "v0"),
    "llava-med-instruct": ("cl", 2e-5, 2e-5, None, 128, 3, CLIP_224, "square", "v0"),
    "llava-med-vqa-rad": ("cl", 2e-5, 2e-5, None, 128, 3, CLIP_224, "square", "v0"),
    "llava15-stage1": ("c", 1e-3, None, None, 256, 1, CLIP_336, "square", "plain"),
    "llava15-stage2": ("cl", 2e-5, 2e-5, None, 128, 1, CLIP_336, "pad", "vicuna_v1"),
    "llava15-stage2-13b": ("cl", 2e-5, 2e-5, None, 128, 1, CLIP_336, "pad", "vicuna_v1"),
    "llava15-hd-stage2": ("cln", 2e-5, 2e-5, None, 128, 1, CLIP_224, "anyres", "vicuna_v1"),
    "next-stage1-7b": ("c", 1e-3, None, None, 256, 1, CLIP_336, "square", "plain"),
    "next-stage2-7b": ("clvn", 2e-5, 2e-5, 2e-6, 128, 1, CLIP_336, "anyres", "vicuna_v1"),
    "next-stage2-mistral": ("clvn", 2e-5, 2e-5, 2e-6, 128, 1, CLIP_336, "anyres", "mistral_instruct"),
    "next-stage2-34b": ("clvn", 2e-5, 2e-5, 2e-6, 128, 1, CLIP_336, "anyres", "chatml_direct"),
    "next-stage2-llama3-8b": ("clvn", 2e-5, 2e-5, 2e-6, 128, 1, CLIP_336, "anyres", "llava_llama_3"),
    "ablation-base": ("clvn", 2e-5, 2e-5, 2e-6, 64, 1, SIGLIP, "anyres", "qwen_1_5"),
    "ablation-lr-5e-6-5e-7": ("clvn", 5e-6, 5e-6, 5e-7, 64, 1, SIGLIP, "anyres", "qwen_1_5"),
    "ablation-stage15": ("clvn", 2e-5, 2e-5, 2e-6, 64, 1, CLIP_336, "anyres", "qwen_1_5"),
    "onevision-stage1-7b": ("c", 1e-3, None, None, 512, 1, SIGLIP, "squash", "plain"),
    "onevision-stage15-0.5b": ("clvn", 1e-5, 1e-5, 2e-6, 512, 1, SIGLIP, "anyres", "qwen_1_5"),
    "onevision-stage15-72b": ("clvn", 1e-5, 1e-5, 2e-6, 256, 1, SIGLIP, "anyres", "qwen_1_5"),
    "onevision-si-7b": ("clvn", 1e-5, 1e-5, 2e-6, 256, 1, SIGLIP, "anyres", "qwen_1_5"),
    "onevision-ov-0.5b": ("clvn", 1e-5, 1e-5, 2e-6, 512, 1, SIGLIP, "anyres", "qwen_1_5"),
    "llava-video-7b": ("clvn", 1e-5, 1e-5, 2e-6, 256, 1, SIGLIP, "anyres", "qwen_1_5"),
    "llava-critic-7b": ("clvn", 2e-6, 2e-6, 2e-6, 32, 1, SIGLIP, "anyres", "qwen_1_5"),
    "llava-rlhf-stage1-13b": ("c", 2e-3, None, None, 128, 1, CLIP_336, "square", "plain"),
    "llava-rlhf-sft-7b": ("cl", 2e-5, 2e-5, None, 128, 3, CLIP_224, "pad", "vicuna_v1"),
    "llava-plus-sft": ("cl", 2e-5, 2e-5, None, 256, 3, CLIP_224, "square", "vicuna_v1"),
}
# Recipe: what it goes on from, by the papers.
STARTS = {
    "llava-med-instruct": "llava-med-alignment",
    "llava-med-vqa-slake": "llava-med-instruct",
    "llava-plus-sft": "llava-stage1",
    "next-video-7b": "next-stage1-7b",
    "next-video-32b": "next-stage2-qwen-32b",
    "interleave-7b": "interleave-si-7b",
    "ablation-stage15": "ablation-clip336-stage1",
    "ablation-stage15-stage2": "ablation-stage15",
    "onevision-stage15-7b": "onevision-stage1-7b",
    "onevision-si-7b": "onevision-stage15-7b",
    "onevision-ov-7b": "onevision-si-7b",
    "llava-video-7b": "onevision-si-7b",
    "llava-critic-72b": "onevision-ov-72b",
}


def card_of(stage: Stage) -> Card:
    return stage.family.card.model_copy(update=dict(stage.card))


@pytest.mark.parametrize("name", FACTS)
def test_the_published_numbers(name):
    parts, connector, language, tower, batch, epochs, vision, rule, template = FACTS[name]
    run = RECIPES[name]()
    assert set(run.train) == {PARTS[part] for part in parts}
    rates = run.optim.lr
    assert rates.connector == connector
    assert language is None or (rates.language, rates.newline) == (
        language,
        language if "n" in parts else 2e-5,
    )
    assert tower is None or rates.tower == tower
    assert (STAGES[name].batch, run.optim.epochs) == (batch, epochs)
    assert (run.model.tower.path, run.model.image.kind, run.model.template) == (vision, rule, template)
    assert (run.optim.warmup, run.optim.weight_decay, run.optim.betas) == (0.03, 0.0, (0.9, 0.999))


@pytest.mark.parametrize("name", STARTS)
def test_stages_follow_each_other_as_published(name):
    assert RECIPES[name]().model.start == RUNS / STARTS[name]


def test_the_six_pairs_of_learning_rates():
    pairs = {
        (run.optim.lr.language, run.optim.lr.tower)
        for name in RECIPES
        if name.startswith("ablation-lr-")
        for run in (RECIPES[name](),)
    }
    assert pairs == {(2e-5, 2e-6), (2e-5, 1e-6), (1e-5, 2e-6), (1e-5, 1e-6), (5e-6, 1e-6), (5e-6, 5e-7)}


def test_thresholds_of_higher_anyres():
    for tiles in (4, 9, 16):
        assert RECIPES[f"ablation-max{tiles}"]().model.image.anyres.max_tiles == tiles
        assert RECIPES[f"ablation-max{tiles}-paper"]().model.image.anyres.max_tokens == (tiles + 1) * 729


def test_videos_as_published():
    seen = {
        name: RECIPES[name]().model.video for name in ("next-video-7b", "onevision-ov-7b", "llava-video-7b")
    }
    assert [(video.max_frames, video.pool, video.newline) for video in seen.values()] == [
        (32, "average", "no_token"), (32, "bilinear", "one_token"), (64, "bilinear", "grid"),
    ]  # fmt: skip
    assert seen["llava-video-7b"].time_instruction
    assert RECIPES["next-video-7b"]().model.rope_factor == 2
    assert RECIPES["interleave-7b"]().data.media_front == 0.5


@pytest.mark.parametrize(("size", "template"), [("7b", "vicuna_v1"), ("34b", "chatml_direct")])
def test_dpo_on_videos_as_published(size, template):
    """LLaVA-Hound's and LLaVA-NeXT's script: 17K pairs, 128 in a step, 5e-7 down a line, the connector frozen."""
    run, stage = RECIPES[f"next-video-dpo-{size}"](), STAGES[f"next-video-dpo-{size}"]
    assert (run.preference.loss, run.preference.beta) == ({"sigmoid": 1.0}, 0.1)
    assert (run.optim.lr.language, run.optim.epochs, stage.batch) == (5e-7, 3, 128)
    assert (run.optim.decay, run.optim.warmup, run.optim.weight_decay) == ("linear", 0.1, 0.0)
    assert set(run.train) == {"language", "newline"}
    assert (run.model.start, run.model.template) == (RUNS / f"next-video-{size}", template)
    assert run.model.video.max_frames == 32


def test_dpo_in_rounds_as_published():
    """OV-Chat: five answers to each of 9.4K questions at 0.7 and 0.9, three rounds, 5e-7 with a warm-up of 0.1."""
    run = RECIPES["onevision-chat-7b"]()
    policy, optim = run.policy, run.optim
    assert (policy.learn, policy.anchor, policy.answers) == ("pairs", "round", 5)
    assert (policy.temperature, policy.top_p, policy.epochs) == (0.7, 0.9, 1)
    assert (optim.lr.language, optim.epochs, optim.cycles, optim.warmup) == (5e-7, 3, 3, 0.1)
    assert (run.preference.loss, run.preference.beta) == ({"sigmoid": 1.0}, 0.1)
    assert set(run.train) == {"tower", "connector", "language", "newline"}
    assert run.model.start == RUNS / "onevision-ov-7b" and run.data.tokens == 32768


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_a_complete_run_that_its_yaml_repeats(name):
    run = RECIPES[name]()
    assert run.name == name
    assert run.out == RUNS / name
    assert make(Run, yaml.safe_load(dump(run)), where="run.yaml") == run
    line = describe(name)
    assert line and "\n" not in line


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_goes_on_from_one_with_the_same_parts(name):
    run = RECIPES[name]()
    if run.model.start is not None and run.model.start.parent == RUNS:
        before = RECIPES[run.model.start.name]().model
        mine = (run.model.tower, run.model.connector, run.model.language, run.model.im_start_end)
        assert mine == (before.tower, before.connector, before.language, before.im_start_end)


@pytest.mark.parametrize("name", STAGES)
def test_the_largest_picture_and_film_fit_a_row(name):
    stage = STAGES[name]
    card, run = card_of(stage), stage()
    sizes = [(side, other) for side in (300, 900, 3000) for other in (300, 900, 3000)]
    largest = max(plan_image(card.image, size).num_tokens for size in sizes)
    if stage.mean.videos:
        film = plan_video(card.video, card.image, (640, 480), card.video.max_frames).num_tokens
        largest = max(largest, film)
    assert largest + 256 <= run.data.tokens


@pytest.mark.parametrize("name", STAGES)
def test_a_step_holds_about_the_published_number_of_samples(name):
    stage = STAGES[name]
    run = stage()
    mean = stage.mean.tokens(card_of(stage))
    assert abs(run.optim.rows * run.data.tokens - stage.batch * mean) <= max(run.data.tokens / 2, 1)


def test_rows_by_hand():
    assert rows_for(256, 576 + 32, 4096) == 38  # 155,648 tokens
    assert rows_for(128, 1024, 4096) == 32
    assert rows_for(1, 10, 4096) == 1  # never none
    ov = Mean(text=100, single=0.5, several=2, videos=0.1)
    tokens = ov.tokens(STAGES["onevision-ov-7b"].family.card)
    assert tokens == pytest.approx(100 + 0.5 * 2929 + 2 * 730 + 0.1 * 6273)


def test_a_part_that_does_not_fit_the_stage_before_would_be_noticed():
    """The check above looks at something: another decoder is another model."""
    stage = STAGES["onevision-si-7b"]
    other = replace(stage, family=replace(stage.family, decoder=QWEN2_05B))
    assert other().model.language != RECIPES["onevision-stage15-7b"]().model.language


@pytest.mark.parametrize(
    ("rate", "text"), [(2e-5, "2e-5"), (1e-3, "1e-3"), (5e-7, "5e-7"), (1.5e-4, "1.5e-4")]
)
def test_rates_are_written_as_people_do(rate, text):
    assert short(rate) == text


def test_the_page_is_current():
    page = Path(__file__).parents[2] / "docs" / "recipes.md"
    again = "python -m llavakit.recipes.table > docs/recipes.md"
    assert page.read_text() == recipes_page(), again
    assert all(f"`{name}`" in page.read_text() for name in STAGES)


class TinyRuns:
    """Recipes on tiny parts after one step. Those that differ in names and sizes alone are one run, taken once."""

    def __init__(self, parts: Path, folder: Path) -> None:
        self.parts, self.folder = parts, folder
        self.taken: dict[str, Path] = {}

    def run(self, name: str, **optim) -> Run:
        """The recipe's run, from the tiny run of the recipe that it goes on from."""
        run = shrink(STAGES[name], self.parts, self.folder, **optim)
        start = RECIPES[name]().model.start
        if start is None or start.parent != RUNS:
            return run
        return run.model_copy(
            update={"model": run.model.model_copy(update={"start": self.trained(start.name)})}
        )

    def trained(self, name: str) -> Path:
        run = self.run(name)
        same = dump(run.model_copy(update={"name": "", "out": Path()}))
        if same not in self.taken:
            train(run, policy=open_policy)
            self.taken[same] = run.out
        return self.taken[same]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> TinyRuns:
    return TinyRuns(save_parts(tmp_path_factory.mktemp("parts")), tmp_path_factory.mktemp("runs"))


@pytest.mark.slow
@pytest.mark.parametrize("name", STAGES)
def test_every_recipe_starts_and_takes_a_step(name, tiny):
    out = tiny.trained(name)
    row = json.loads((out / "metrics.jsonl").read_text())
    assert row["step"] == 1
    assert {key.removeprefix("lr_") for key in row if key.startswith("lr_")} == set(STAGES[name].train)
    assert load_card(out).template == STAGES[name]().model.template


LEARNERS = ("llava15-stage2", "next-stage2-7b", "onevision-ov-0.5b", "interleave-0.5b", "next-video-7b")


@pytest.mark.slow
@pytest.mark.parametrize("name", LEARNERS)
def test_a_tiny_model_learns_from_real_pictures_and_films(name, tiny):
    """20 steps. The rates are those of tiny random weights; all else is the recipe's."""
    rates = dict.fromkeys(("tower", "connector", "language", "newline"), 1e-2)
    lr = STAGES[name]().optim.lr.model_copy(update=rates)
    run = tiny.run(name, steps=20, lr=lr)
    run = run.model_copy(update={"out": tiny.folder / f"{name}-learns"})
    train(run)
    losses = [json.loads(line)["loss"] for line in (run.out / "metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 20
    assert sum(losses[-3:]) / 3 < 0.6 * losses[0]
