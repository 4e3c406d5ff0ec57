"""Directories we write load in transformers with the same logits, and theirs load here."""

import json
import shutil

import PIL.Image
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor, LlavaForConditionalGeneration

from llavakit.core.errors import CheckpointError
from llavakit.core.types import IMAGE_ID
from llavakit.data.encode import Encoder
from llavakit.data.pack import collate
from llavakit.model import checkpoint as checkpoints
from llavakit.model.directory import resolve
from llavakit.text.conversation import Conversation, user
from llavakit.text.templates import template
from tests import tiny


def prompts(tmp_path, count):
    """An open question about `count` images, and the tiles of those images."""
    images = [tiny.picture(tmp_path / f"p{i}.png", i, (40 + 9 * i, 30)) for i in range(count)]
    sample = tiny.encoder().encode(Conversation((user("What color is it?", images),)), open_turn=True)
    return sample, [media.tiles() for media in sample.media]


def our_logits(checkpoint, sample, tiles):
    with torch.no_grad():
        hidden = checkpoint.model.hidden(collate([sample], tiles, learn=False))
        return checkpoint.model.logits(hidden)


def their_logits(hf, checkpoint, sample, tiles):
    """The Hugging Face class on the same ids; pixels normalised the plain way."""
    image_id = checkpoint.tokenizer.image_token_id
    ids = torch.tensor([[image_id if token == IMAGE_ID else token for token in sample.ids]])
    pixels = None
    if tiles:
        mean, std = torch.tensor(tiny.IMAGE.mean), torch.tensor(tiny.IMAGE.std)
        pixels = ((torch.cat(tiles) / 255 - mean) / std).permute(0, 3, 1, 2)
    with torch.no_grad():
        return hf(input_ids=ids, pixel_values=pixels).logits[0]


@pytest.mark.parametrize("connector", ["mlp", "linear"])
@pytest.mark.parametrize("images", [0, 1, 3])
def test_saved_by_us_gives_the_same_logits_in_transformers(tmp_path, connector, images):
    mine = tiny.checkpoint(connector=connector)
    checkpoints.save(mine, tmp_path / "model")
    hf, report = LlavaForConditionalGeneration.from_pretrained(
        tmp_path / "model", output_loading_info=True, dtype=torch.float32
    )
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    sample, pixels = prompts(tmp_path, images)
    ours, theirs = our_logits(mine, sample, pixels), their_logits(hf.eval(), mine, sample, pixels)
    assert (ours - theirs).abs().max() <= 1e-4


def test_saved_by_transformers_gives_the_same_logits_here(tmp_path):
    mine = tiny.checkpoint()
    checkpoints.save(mine, tmp_path / "model")
    hf = LlavaForConditionalGeneration.from_pretrained(tmp_path / "model", dtype=torch.float32).eval()
    hf.save_pretrained(tmp_path / "theirs")
    mine.tokenizer.hf.save_pretrained(tmp_path / "theirs")
    assert "llavakit" in json.loads((tmp_path / "model/config.json").read_text())
    back = checkpoints.load(tmp_path / "theirs", template_name="chatml")
    sample, pixels = prompts(tmp_path, 2)
    ours = our_logits(back, sample, pixels)
    assert (ours - their_logits(hf, mine, sample, pixels)).abs().max() <= 1e-4
    assert torch.equal(ours, our_logits(mine, sample, pixels))


@pytest.mark.parametrize("connector", ["mlp", "linear"])
def test_a_round_trip_keeps_every_bit(tmp_path, connector):
    mine = tiny.checkpoint(connector=connector)
    checkpoints.save(mine, tmp_path / "model")
    back = checkpoints.load(tmp_path / "model")
    assert back.card == mine.card
    stored, original = back.model.state_dict(), mine.model.state_dict()
    assert stored.keys() == original.keys()
    assert all(torch.equal(stored[key], original[key]) for key in original)
    assert back.tokenizer.hf.get_vocab() == mine.tokenizer.hf.get_vocab()


@pytest.mark.parametrize("spelling", ["classic", "hf5 modules", "freshly saved"])
def test_every_spelling_of_key_names_loads(tmp_path, spelling):
    mine = tiny.checkpoint()
    checkpoints.save(mine, tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    renamed = {}
    for key, tensor in load_file(path).items():
        new = key
        if spelling != "classic":
            new = new.replace("vision_tower.vision_model.", "vision_tower.")
        if spelling == "hf5 modules":
            new = new.replace("language_model.lm_head.", "lm_head.").replace(
                "language_model.model.", "language_model."
            )
            new = new if new.startswith("lm_head.") else "model." + new
        renamed[new] = tensor
    save_file(renamed, path, metadata={"format": "pt"})
    back = checkpoints.load(tmp_path / "model")
    original = mine.model.state_dict()
    assert all(torch.equal(tensor, original[key]) for key, tensor in back.model.state_dict().items())


def test_what_does_not_fit_is_named(tmp_path):
    checkpoints.save(tiny.checkpoint(), tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    tensors = load_file(path)
    lost = tensors.pop("multi_modal_projector.linear_1.weight")
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=r"1 missing \['connector.linear_1.weight'\]"):
        checkpoints.load(tmp_path / "model")
    save_file(tensors | {"multi_modal_projector.linear_1.weight": lost[:-1].clone()}, path)
    with pytest.raises(CheckpointError, match=r"connector\.linear_1\.weight is .47, 32. in the file"):
        checkpoints.load(tmp_path / "model")


def test_directories_that_are_no_checkpoints_say_so(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        checkpoints.load(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        checkpoints.load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(CheckpointError, match="'gpt2' is not a LLaVA"):
        checkpoints.load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read"):
        checkpoints.load(tmp_path)


def test_a_hugging_face_directory_needs_a_template(tmp_path):
    mine = tiny.checkpoint()
    checkpoints.save(mine, tmp_path / "model")
    config = json.loads((tmp_path / "model/config.json").read_text())
    del config["llavakit"]
    (tmp_path / "model/config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="template"):
        checkpoints.load(tmp_path / "model")
    assert checkpoints.load(tmp_path / "model", template_name="chatml").card.template == "chatml"


def test_a_run_directory_stands_for_its_newest_checkpoint(tmp_path):
    checkpoints.save(tiny.checkpoint(), tmp_path / "runs" / "step000002")
    (tmp_path / "runs" / "latest").write_text("step000002\n")
    assert resolve(tmp_path / "runs") == tmp_path / "runs" / "step000002"
    shutil.rmtree(tmp_path / "runs" / "step000002")
    with pytest.raises(CheckpointError):
        resolve(tmp_path / "runs")


def test_a_tower_runs_only_as_deep_as_its_features(tmp_path):
    """Equal to transformers' own hidden states; the layers behind are not computed."""
    tower = tiny.checkpoint().model.tower
    pixels = torch.randint(0, 256, (2, 28, 28, 3), dtype=torch.uint8)
    ran = []
    hooks = [
        layer.register_forward_hook(lambda *_, n=n: ran.append(n))
        for n, layer in enumerate(tower.vision.encoder.layers)
    ]
    with torch.no_grad():
        rows = tower(pixels)
    assert ran == [0, 1]
    for hook in hooks:
        hook.remove()
    with torch.no_grad():
        full = tower.vision(tower.normalise(pixels), output_hidden_states=True)
    torch.testing.assert_close(rows, full.hidden_states[-2][:, 1:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["pad", "square"])
@pytest.mark.parametrize("size", [(40, 30), (28, 28), (17, 61), (200, 90)])
def test_their_processor_makes_our_pixels_and_token_counts(tmp_path, kind, size):
    mine = tiny.checkpoint()
    mine.card = mine.card.model_copy(update={"image": tiny.IMAGE.model_copy(update={"kind": kind})})
    checkpoints.save(mine, tmp_path / "model")
    processor = AutoProcessor.from_pretrained(tmp_path / "model")
    picture = PIL.Image.open(tiny.picture(tmp_path / "a.png", size=size))
    theirs = processor(images=[picture], text="<image>\nWhat color?", return_tensors="pt")
    sample = Encoder(mine.tokenizer, template("chatml"), mine.card.image).encode(
        Conversation((user("What color?", [picture]),)), open_turn=True
    )
    image_id = mine.tokenizer.image_token_id
    assert (theirs["input_ids"] == image_id).sum() == sum(token == IMAGE_ID for token in sample.ids)
    pixels = sample.media[0].tiles()
    ours = mine.model.tower.normalise(pixels)
    torch.testing.assert_close(ours, theirs["pixel_values"], atol=1e-6, rtol=0)
