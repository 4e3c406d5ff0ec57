"""Models by hub id, through a real HTTP server: every verb, revisions, the cache, and what cannot be had."""

import json
from pathlib import Path

import pytest
from huggingface_hub import constants

import llavakit
from llavakit.core.errors import UserError
from llavakit.engine.sampler import Sampling
from llavakit.model import checkpoint as checkpoints
from llavakit.model.build import build
from llavakit.model.directory import load_card, resolve
from llavakit.model.families import FAMILIES, family_of
from llavakit.model.formats.hub import fetch, hub_id_of, is_hub_id
from llavakit.model.outline import outline
from llavakit.model.settings import LoraSettings, ModelConfig
from tests import hf_tiny, tiny
from tests.hub import COMMIT, serving
from tests.originals import Original

HF, ORIGINAL, OURS = "llava-hf/llava-1.5-7b-hf", "liuhaotian/llava-v1.5-7b", "somebody/mine"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The same kinds of directories as on the hub, tiny."""
    folder = tmp_path_factory.mktemp("hub")
    hf_tiny.directory("llava", folder / "hf")
    Original().save(folder / "original", "sharded bin")
    checkpoints.save(tiny.checkpoint(), folder / "ours")
    (folder / "ours" / "pytorch_model.bin").write_bytes(b"the same again")
    (folder / "ours" / "onnx").mkdir()
    (folder / "ours" / "onnx" / "model.safetensors").write_bytes(b"for another program")
    return {HF: folder / "hf", ORIGINAL: folder / "original", OURS: folder / "ours"}


@pytest.fixture
def hub(models, monkeypatch, tmp_path):
    with serving(monkeypatch, tmp_path / "cache") as found:
        found.models = dict(models)
        yield found


def offline(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.mark.parametrize("name", [HF, ORIGINAL, OURS, f"{HF}@main", f"{OURS}@v1", f"{ORIGINAL}@{COMMIT}"])
def test_a_model_loads_by_its_id_without_a_template(hub, name, monkeypatch):
    loaded = checkpoints.load(Path(name))
    assert loaded.card.template == {OURS: "chatml"}.get(name.partition("@")[0], "vicuna_v1")
    seen = len(hub.downloads)
    offline(monkeypatch)
    again = checkpoints.load(Path(name))
    assert again.card == loaded.card and len(hub.downloads) == seen, "the cache serves it without a network"


def test_safetensors_come_without_pickles_and_other_programs_files(hub):
    folder = fetch(OURS)
    assert "model.safetensors" in hub.downloads and "pytorch_model.bin" not in hub.downloads
    assert not (folder / "onnx").exists()
    fetch(ORIGINAL)
    assert len([name for name in hub.downloads if name.endswith(".bin")]) == 3


def test_settings_alone_need_no_weights(hub):
    assert load_card(Path(HF)).image.kind == "pad"
    assert outline(ModelConfig(start=HF)).language.config.hidden_size == 48
    assert not [name for name in hub.downloads if name.endswith((".safetensors", ".bin"))]


def test_every_verb_takes_an_id(hub, run, tmp_path):
    data = tiny.data_file(tmp_path, 4)
    answer = llavakit.load(HF).ask("What?", images=hf_tiny.pictures(1), sampling=Sampling(max_tokens=2))
    assert isinstance(answer, str)
    picture = tiny.picture(tmp_path / "x.png")
    training = (f"model.start={OURS}", f"data.files={data}", f"out={tmp_path / 'run'}", "optim.steps=1")
    for words in (
        ("chat", "--model", OURS, "--image", picture, "--max-tokens", 2, "What?"),
        ("inspect", data, "--model", HF),
        ("convert", ORIGINAL, tmp_path / "converted", "--to", "hf"),
        ("export", HF, tmp_path / "exported", "--for", "vllm"),
        ("train", "finetune", *training),
    ):
        code, out, err = run(*words)
        assert code == 0, (words, out, err)
    code, _, err = run("convert", "gone/model", tmp_path / "no", "--to", "hf")
    assert code == 2 and "gone/model does not exist here, nor does the hub show such a model" in err


def test_adapters_keep_the_id_of_their_base(hub, tmp_path, monkeypatch):
    made = build(ModelConfig(start=OURS, lora=LoraSettings(r=2)))
    checkpoints.save(made, tmp_path / "lora")
    section = json.loads((tmp_path / "lora" / "config.json").read_text())["llavakit_adapter"]
    settings = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    assert section["base"] == settings["base_model_name_or_path"] == f"{OURS}@{COMMIT}"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "another machine"))
    assert checkpoints.load(tmp_path / "lora").adapter.lora == made.adapter.lora


def test_what_cannot_be_had_is_one_line(hub, run, monkeypatch):
    def refused(name, *messages):
        code, _, err = run("chat", "--model", name, "Hello?")
        line = err.splitlines()[-1]  # behind the bar of a download that had begun
        assert code == 2 and "Traceback" not in err, err
        assert line.startswith("error: ") and all(message in line for message in messages), err

    hub.models["meta/gated"] = hub.models[HF]
    hub.gated.add("meta/gated")
    refused("meta/gated", "is gated", "hf auth login", constants.ENDPOINT)
    refused("nobody/nothing", "does not exist here, nor does the hub show such a model")
    refused(f"{HF}@v9", "has no revision 'v9'")
    refused("runs/demo/step1", "does not exist")
    refused("llava16-7", "does not exist; did you mean the released model 'llava16-7b'?")
    refused("llava-plus-13b", "no weights of this model were released")
    offline(monkeypatch)
    refused("runs/demo", "does not exist here", "the hub cannot be reached")


def test_a_delta_is_not_talked_to_as_if_it_were_a_model(hub):
    hub.models["liuhaotian/LLaVA-7b-delta-v0"] = hub.models[ORIGINAL]
    with pytest.raises(UserError, match=r"differences to LLaMA's weights; add them first: .*--delta-base"):
        checkpoints.load(Path("liuhaotian/LLaVA-7b-delta-v0"))


def test_a_familys_name_stands_for_what_it_released(hub):
    assert hub_id_of(resolve(Path("llava15-7b"), weights=False)) == f"{ORIGINAL}@{COMMIT}"


def test_every_published_id_finds_its_row_and_every_row_its_template():
    ids = [
        (row, name) for row in FAMILIES.values() for name in (row.released, row.converted) if name is not None
    ]
    assert len(ids) > 60 and all(is_hub_id(name) for _, name in ids)
    for row, name in ids:
        assert family_of(f"{name}@main").card.template == row.card.template
    assert family_of("LLAVA-HF/llava-1.5-7B-HF") is FAMILIES["llava15-7b"]
    assert family_of("somebody/llava-1.5-7b-hf") is None
