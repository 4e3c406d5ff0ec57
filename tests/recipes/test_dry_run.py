"""`llavakit train NAME --dry-run` for every recipe as it stands: published names, data and starts made here."""

from pathlib import Path

import httpx2
import pytest
import yaml
from huggingface_hub import constants, get_session
from transformers import CLIPVisionModel, LlamaForCausalLM, SiglipVisionConfig, SiglipVisionModel

from llavakit.core.errors import ConfigError
from llavakit.model import checkpoint
from llavakit.model.connector import build_connector
from llavakit.model.counts import count_parameters
from llavakit.model.families import FAMILIES
from llavakit.model.families.row import family_config
from llavakit.model.llava import Llava, Newline
from llavakit.model.outline import outline
from llavakit.model.settings import LanguageConfig, ModelConfig, TowerConfig
from llavakit.model.tower import ViTTower
from llavakit.recipes import RECIPES
from llavakit.recipes.stage import DATA, RUNS, Stage
from tests import tiny
from tests.recipes.shrink import TOKENIZERS

STAGES = {name: recipe for name, recipe in RECIPES.items() if isinstance(recipe, Stage)}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A working directory with every data file and every start that any recipe names."""
    folder = tmp_path_factory.mktemp("place")
    for file in {file for stage in STAGES.values() for file in stage.data}:
        write_stand_in(folder / DATA / file)
    starts = {stage.start: stage for stage in STAGES.values() if stage.start is not None}
    for start, stage in starts.items():
        checkpoint.save(stand_in(STAGES[start.name] if start.parent == RUNS else stage), folder / start)
    checkpoint.save(stand_in(STAGES["next-stage2-7b"]), folder / RUNS / "demo")
    return folder


def write_stand_in(path: Path) -> None:
    """A file (or each of `{first..last}`) of that name and kind; what is in it a dry run does not read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".yaml":
        path.write_text(f"datasets:\n  - json_path: {tiny.data_file(path.parent, count=1)}\n")
    elif not path.suffix:
        path.mkdir()
    elif "{" in path.name:
        first, last = path.name.partition("{")[2].partition("}")[0].split("..")
        for number in range(int(first), int(last) + 1):
            name = path.name.replace(f"{{{first}..{last}}}", f"{number:0{len(first)}d}")
            path.with_name(name).write_bytes(b"")
    else:
        path.write_text("[]")


def stand_in(stage: Stage) -> checkpoint.Checkpoint:
    """What the stage leaves behind, with few and narrow layers: its card, its tile size, its separators."""
    vision, tokenizer = stage.family.vision, TOKENIZERS[stage.family.card.template]()
    card = stage.family.card.model_copy(update=dict(stage.card))
    tokenizer.add_special(["<image>", *card.special_tokens])
    sizes = {"image_size": vision.image_size, "patch_size": vision.patch_size}
    if vision.model_type == "clip_vision_model":
        config = tiny.vision_config()
        config.update(sizes)
        tower = CLIPVisionModel(config)
    else:
        small = tiny.vision_config().to_dict()
        names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
        narrow = {name: small[name] for name in names}
        tower = SiglipVisionModel(SiglipVisionConfig(**narrow, **sizes, vision_use_head=False))
    language = LlamaForCausalLM(tiny.text_config(len(tokenizer) + 8))
    model = Llava(
        ViTTower(tower, card.tower, card.image),
        build_connector(card.connector, tower.config.hidden_size, language.config.hidden_size),
        language,
        Newline(card.separators, language.config.hidden_size),
    )
    return checkpoint.Checkpoint(model, tokenizer, card)


def dry_run(run, name: str, *settings: str) -> tuple[int, str, str]:
    """Exit code, stdout in one line, stderr of the command."""
    code, out, err = run("train", name, *settings, "--dry-run")
    return code, " ".join(out.split()), err


@pytest.mark.parametrize("name", RECIPES)
def test_a_dry_run_passes(name, place, monkeypatch, run):
    monkeypatch.chdir(place)
    settings = ["data.files=data/single.json", "optim.steps=1"] * (RECIPES[name]().data.files == ())
    write_stand_in(place / DATA / "single.json")
    code, out, err = dry_run(run, name, *settings)
    assert (code, err) == (0, "")
    recipe = RECIPES[name]()
    assert out.count("dimensions from llavakit's table") == (2 if recipe.model.start is None else 0)
    for part in recipe.train:
        assert f" {part} " in out
    assert "tokens per step" in out and "memory per GPU" in out
    assert not recipe.out.is_dir() or recipe.out in {stage.start for stage in STAGES.values()}


@pytest.mark.parametrize(
    ("name", "ranks", "step"),
    [
        ("onevision-ov-72b", 1, ""),
        ("onevision-ov-72b", 8, "32 rows x 30,720 tokens instead of 30 x 32,768"),
        ("onevision-ov-72b", 64, "64 rows x 15,360 tokens instead of 30 x 32,768"),
        ("llava15-stage2", 8, ""),
        ("llava15-stage2", 64, "49 rows x 2,624 tokens instead of 32 x 4,096"),
    ],
)
def test_ranks_share_the_published_batch(name, ranks, step, place, monkeypatch, run):
    """All work where rows for all are long enough; else it is said who does not."""
    monkeypatch.chdir(place)
    code, out, _ = dry_run(run, name, "--ranks", str(ranks))
    told = f"{name} on {ranks} ranks: a step has {step}"
    assert (code, told in out, "instead of" in out) == (0, bool(step), bool(step)), out
    assert ("15 of 64 ranks idle" in out) == (step == "49 rows x 2,624 tokens instead of 32 x 4,096")


def test_settings_for_ranks_are_yaml(run):
    code, out, _ = run("train", "onevision-ov-72b", "--ranks", "64", "--show")
    shown = yaml.safe_load(out)
    assert (code, shown["optim"]["rows"], shown["data"]["tokens"]) == (0, 64, 15_360)


def test_ranks_are_started_by_torchrun(run):
    code, _, err = run("train", "llava15-stage2", "--ranks", "8")
    assert code == 2 and "torchrun starts ranks" in err


@pytest.mark.parametrize("name", ["llava15-stage1", "onevision-ov-7b", "llava-critic-7b"])
def test_missing_data_and_starts_stop_it(name, tmp_path, monkeypatch, run):
    """Where nothing is: every file by its name; parts and memory of the published model are told all the same."""
    monkeypatch.chdir(tmp_path)
    code, out, err = dry_run(run, name)
    assert code == 2
    assert all(f"data/{file.partition('{')[0]}" in err for file in STAGES[name].data)
    start = STAGES[name].start
    assert start is None or f"{start} does not exist" in err
    assert "dimensions from llavakit's table" in out and "memory per GPU" in out


@pytest.mark.parametrize("name", ["llava15-7b", "llava16-34b", "llava-onevision-7b-ov"])
def test_the_table_counts_what_the_family_counts(name):
    row, notes = FAMILIES[name], []
    model = outline(family_config(row), notes)
    counts = count_parameters(row)
    sizes = {
        part: sum(p.numel() for p in model.part(part).parameters())
        for part in ("language", "connector", "newline")
    }
    assert sizes["language"] + sizes["newline"] == counts.language
    assert sizes["connector"] == counts.connector
    assert [note.partition(":")[0] for note in notes] == [
        f"model.language.path={row.decoder.path}", f"model.tower.path={row.vision.path}",
    ]  # fmt: skip


def test_a_fresh_siglip_has_the_layer_and_the_head_that_releases_cut():
    model = outline(family_config(FAMILIES["llava-onevision-7b-ov"]))
    assert sum(p.numel() for p in model.tower.parameters()) == 428_225_600  # as published
    assert model.tower.num_layers == 26  # what is computed is the whole of a released tower


def test_only_published_parts_have_dimensions_in_the_table(tmp_path):
    """Another id, a directory that is not there, and one that is broken are errors as ever."""
    (tmp_path / "broken").mkdir()
    for path in ("someone/else", str(tmp_path / "gone"), str(tmp_path / "broken")):
        for setting in ("language", "tower"):
            part = LanguageConfig(path=path) if setting == "language" else TowerConfig(path=path)
            with pytest.raises(ConfigError, match=f"model.{setting}.path="):
                outline(ModelConfig(**{setting: part}))


def test_a_hub_that_cannot_be_reached_is_asked_once(place, monkeypatch, run):
    """A refused connection is final: the libraries would go on knocking for most of a minute."""
    asked = []
    monkeypatch.chdir(place)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    session = get_session()
    monkeypatch.setattr(type(session), "send", lambda self, *_, **__: asked.append(1) or refuse())
    code, out, err = dry_run(run, "llava15-stage1")
    assert (code, err) == (0, "")
    assert out.count("as the hub cannot be reached") == 2
    assert len(asked) == 1


def refuse():
    raise httpx2.ConnectError("refused")


def test_a_policy_run_tells_its_memory_by_role(place, run, monkeypatch):
    monkeypatch.chdir(place)
    data = next(path for path in sorted(DATA.iterdir()) if path.suffix == ".json")
    code, out, _ = run("train", "ppo", f"data.files={data}", "--dry-run")
    assert code == 0
    told = " ".join(out.split()).partition("by role, between steps: ")[2]
    assert all(f"{role} 0" in told for role in ("policy", "value", "reference", "sampler"))
    code, out, _ = run("train", "grpo", f"data.files={data}", "policy.engine=shared", "--dry-run")
    assert code == 0 and "value 0" not in out and "sampler 0" not in out
