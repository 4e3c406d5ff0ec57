"""The four Hugging Face classes and ours are the same model: counts, logits and generated tokens."""

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import (
    AutoProcessor,
    CLIPVisionModel,
    LlavaNextConfig,
    LlavaOnevisionConfig,
    SiglipVisionModel,
)

from llavakit.core.errors import CheckpointError
from llavakit.engine.engine import Engine
from llavakit.engine.sampler import Sampling
from llavakit.model import checkpoint as checkpoints
from llavakit.model.directory import load_card
from llavakit.model.hf_config import hf_fit, image_grid_pinpoints
from llavakit.model.llava import Llava
from llavakit.model.tower import ViTTower
from llavakit.text.conversation import Conversation, user
from llavakit.vision.anyres import AnyresConfig
from llavakit.vision.frames import plan_video
from llavakit.vision.layout import Plan
from llavakit.vision.plan import ImageConfig, plan_image
from tests import hf_tiny

CLOSE = 1e-4


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Of every class: its model, its directory, and what we load from there."""
    out = {}
    for kind in hf_tiny.KINDS:
        folder = tmp_path_factory.mktemp(kind) / "theirs"
        hf = hf_tiny.directory(kind, folder)
        out[kind] = (hf, folder, checkpoints.load(folder, template_name="chatml"))
    return out


def questions(ck, kind):
    """Single image, several, text only, and (if the class has them) videos alone and beside an image."""
    out = {
        "single": [hf_tiny.question(ck, "What color?", images=1)],
        "several": [hf_tiny.question(ck, "Which is red?", images=3, seed=1)],
        "text": [hf_tiny.question(ck, "Say a word.")],
    }
    out["mixed"] = [*out["single"], *out["text"], *out["several"]]
    if kind in hf_tiny.VIDEOS:
        out["video"] = [hf_tiny.question(ck, "What happens?", frames=4, seed=2)]
        out["video and image"] = [hf_tiny.question(ck, "Is it there?", images=1, frames=3, seed=3)]
    return out


@pytest.mark.parametrize("kind", hf_tiny.KINDS)
def test_a_directory_saved_by_transformers_gives_the_same_logits_here(pairs, kind):
    hf, _, ck = pairs[kind]
    for name, samples in questions(ck, kind).items():
        ours, theirs = hf_tiny.our_logits(ck, samples), hf_tiny.their_logits(hf, ck, samples)
        assert hf_tiny.difference(ours, theirs) <= CLOSE, name
        assert max(float(row.abs().max()) for row in theirs) > 0.1, "logits so small prove nothing"


@pytest.mark.parametrize("rule", ["transformers", "llava"])
@pytest.mark.parametrize("kind", hf_tiny.KINDS)
def test_a_directory_saved_by_us_gives_the_same_logits_there(pairs, kind, rule, tmp_path):
    """`llava` too: the pictures here are none of the few whose kept map is rounded otherwise."""
    _, _, ck = pairs[kind]
    if ck.card.image.anyres is not None:
        anyres = ck.card.image.anyres.model_copy(update={"rule": rule})
        image = ck.card.image.model_copy(update={"anyres": anyres})
        ck = checkpoints.Checkpoint(ck.model, ck.tokenizer, ck.card.model_copy(update={"image": image}))
    checkpoints.save(ck, tmp_path / "ours")
    hf, report = hf_tiny.MODELS[kind].from_pretrained(
        tmp_path / "ours", output_loading_info=True, dtype=torch.float32
    )
    assert not any(report[what] for what in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    for name, samples in questions(ck, kind).items():
        ours, theirs = hf_tiny.our_logits(ck, samples), hf_tiny.their_logits(hf.eval(), ck, samples)
        assert hf_tiny.difference(ours, theirs) <= CLOSE, name
    back = checkpoints.load(tmp_path / "ours")
    assert back.card == ck.card
    mine = ck.model.state_dict()
    assert all(torch.equal(tensor, mine[key]) for key, tensor in back.model.state_dict().items())


@pytest.mark.parametrize("kind", hf_tiny.KINDS)
def test_a_card_survives_being_read_from_the_files_alone(pairs, kind, tmp_path):
    """Without the llavakit section our own directory says the same as the one it was made from."""
    _, _, ck = pairs[kind]
    assert hf_fit(ck.card) == (kind, ())
    checkpoints.save(ck, tmp_path / "ours")
    config = json.loads((tmp_path / "ours/config.json").read_text())
    del config["llavakit"]
    (tmp_path / "ours/config.json").write_text(json.dumps(config))
    assert load_card(tmp_path / "ours", "chatml") == ck.card


@pytest.mark.parametrize("kind", hf_tiny.KINDS)
def test_the_other_tower_in_every_class(pairs, kind, tmp_path):
    """SigLIP where CLIP was, and the other way round: no class row there, one to drop here."""
    _, _, ck = pairs[kind]
    torch.manual_seed(5)
    old = ck.model.tower.vision.config
    kinds = {"clip_vision_model": SiglipVisionModel, "siglip_vision_model": CLIPVisionModel}
    shape = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
    shape |= {"image_size": old.image_size, "patch_size": 14}
    vision = kinds[old.model_type](kinds[old.model_type].config_class(**shape))
    tower = ViTTower(vision, ck.card.tower, ck.card.image)
    model = Llava(tower, ck.model.connector, ck.model.language, ck.model.newline).eval()
    ck = checkpoints.Checkpoint(model, ck.tokenizer, ck.card)
    checkpoints.save(ck, tmp_path / "ours")
    hf = hf_tiny.MODELS[kind].from_pretrained(tmp_path / "ours", dtype=torch.float32).eval()
    for name, samples in questions(ck, kind).items():
        ours, theirs = hf_tiny.our_logits(ck, samples), hf_tiny.their_logits(hf, ck, samples)
        assert hf_tiny.difference(ours, theirs) <= CLOSE, name
    processor = hf_tiny.read_processor(tmp_path / "ours")
    for count in (1, 3):
        text = " ".join(["<image>"] * count)
        inputs = processor(images=[hf_tiny.pictures(count)], text=[text], return_tensors="pt")
        counted = int((inputs["input_ids"] == ck.tokenizer.image_token_id).sum())
        sizes = [picture.size for picture in hf_tiny.pictures(count)]
        plans = [plan_image(ck.card.image, size, alone=count == 1) for size in sizes]
        assert counted == sum(plan.num_tokens for plan in plans)


@pytest.mark.parametrize("named", ["with vision_model", "without vision_model"])
@pytest.mark.parametrize("prefixed", ["legacy", "model."])
@pytest.mark.parametrize("kind", hf_tiny.KINDS)
def test_every_spelling_of_key_names_loads(pairs, kind, prefixed, named, tmp_path):
    _, folder, ck = pairs[kind]
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    renamed = {}
    for key, tensor in load_file(folder / "model.safetensors").items():
        key = key.replace("vision_tower.vision_model.", "vision_tower.")
        if named == "with vision_model":
            key = key.replace("vision_tower.", "vision_tower.vision_model.")
        if prefixed == "model.":
            key = key.replace("language_model.model.", "language_model.")
            key = "lm_head.weight" if key == "language_model.lm_head.weight" else "model." + key
        renamed[key] = tensor
    renamed["vision_tower.vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    save_file(renamed, tmp_path / "model.safetensors")
    assert any("vision_model" in key for key in renamed) and len(renamed) > 40
    back = checkpoints.load(tmp_path, template_name="chatml").model.state_dict()
    assert all(torch.equal(tensor, back[key]) for key, tensor in ck.model.state_dict().items())


@pytest.mark.parametrize("kind", hf_tiny.KINDS)
def test_greedy_generation_is_theirs_token_for_token(pairs, kind):
    hf, _, ck = pairs[kind]
    engine = Engine(ck.model, frozenset())
    for name, samples in questions(ck, kind).items():
        with torch.no_grad():
            inputs = hf_tiny.their_inputs(hf, ck, samples)
            theirs = hf.generate(
                **inputs, max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0
            )
        assert len({*theirs[0, inputs["input_ids"].shape[1] :].tolist()}) > 1, "one token only proves little"
        ours = engine.generate(samples, Sampling(max_tokens=12))
        assert ours == theirs[:, inputs["input_ids"].shape[1] :].tolist(), name


@pytest.mark.parametrize("source", ["theirs", "ours"])
@pytest.mark.parametrize("kind", hf_tiny.KINDS)
def test_from_pictures_and_text_to_the_answer_nothing_differs(pairs, kind, source, tmp_path):
    """Their processor (built from either directory's files) and model, against the encoder and the engine."""
    hf, _, ck = pairs[kind]
    if source == "ours":
        checkpoints.save(ck, tmp_path / "ours")
        processor = hf_tiny.read_processor(tmp_path / "ours")
    else:
        processor = hf_tiny.processor(kind, ck.tokenizer.hf, hf_tiny.image_processor(kind))
    for count in (1, 3):
        sample = hf_tiny.question(ck, "What color?", images=count, seed=count)
        talk = Conversation((user("What color?", hf_tiny.pictures(count, count)),))
        pieces = ck.card.prompt().pieces(talk, open_turn=True)
        prompt = "".join(getattr(piece, "text", "<image>") for piece in pieces)
        inputs = processor(images=[hf_tiny.pictures(count, count)], text=[prompt], return_tensors="pt")
        wanted = hf_tiny.their_inputs(hf, ck, [sample])
        assert torch.equal(inputs["input_ids"], wanted["input_ids"])
        torch.testing.assert_close(inputs["pixel_values"], wanted["pixel_values"], atol=1e-5, rtol=0)
        theirs = hf.generate(**inputs, max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=0)
        ours = Engine(ck.model, frozenset()).generate([sample], Sampling(max_tokens=8))
        assert ours[0] == theirs[0, inputs["input_ids"].shape[1] :].tolist()


@pytest.mark.parametrize("kind", ["llava", "llava_next"])
def test_auto_processor_reads_our_files(pairs, kind, tmp_path):
    _, _, ck = pairs[kind]
    checkpoints.save(ck, tmp_path / "ours")
    processor = AutoProcessor.from_pretrained(tmp_path / "ours", backend="pil")
    images = hf_tiny.pictures(1)
    counted = processor(images=images, text="<image> What?", return_tensors="pt")["input_ids"]
    plan = plan_image(ck.card.image, images[0].size)
    assert int((counted == ck.tokenizer.image_token_id).sum()) == plan.num_tokens


SIZES = st.tuples(st.integers(1, 2600), st.integers(1, 2600))


def their_count(kind: str, processor, size) -> int:
    """What the processor puts into input_ids for a picture of this size, by its own functions, without pixels."""
    width, height = size
    tile = processor.image_processor.size
    side = tile["shortest_edge"] if "shortest_edge" in dict(tile) else tile["height"]
    inputs = {
        "image_sizes": [(height, width)],
        "pixel_values": torch.zeros(1, 1, 3, side, side),
        "batch_num_images": [1],
    }
    if kind == "llava":
        inputs["pixel_values"] = inputs["pixel_values"][0]
    return processor.replace_image_token(inputs, 0).count("<image>")


@settings(max_examples=60, deadline=None, derandomize=True)
@given(size=SIZES)
def test_counts_are_those_of_their_processors(pairs, size):
    for kind in hf_tiny.KINDS:
        _, _, ck = pairs[kind]
        processor = hf_tiny.processor(kind, ck.tokenizer.hf, hf_tiny.image_processor(kind))
        assert plan_image(ck.card.image, size).num_tokens == their_count(kind, processor, size), kind


@settings(max_examples=15, deadline=None, derandomize=True)
@given(size=st.tuples(st.integers(1, 260), st.integers(1, 260)))
def test_the_expanded_ids_of_a_real_picture_are_as_many(pairs, size):
    picture = hf_tiny.pictures(1)[0].resize(size)
    for kind in hf_tiny.KINDS:
        _, _, ck = pairs[kind]
        processor = hf_tiny.processor(kind, ck.tokenizer.hf, hf_tiny.image_processor(kind))
        ids = processor(images=[picture], text=["a <image> b"], return_tensors="pt")["input_ids"]
        wanted = int((ids == ck.tokenizer.image_token_id).sum())
        assert plan_image(ck.card.image, size).num_tokens == wanted, kind


def released_count(size, grids, tile: int, side: int, max_tiles: int | None) -> int:
    """The released training code's number of tokens of one AnyRes image, step by step; grids: (width, height)."""
    width, height = size
    best, best_kept, least_waste = None, 0, math.inf
    for grid_width, grid_height in grids:
        scale = min(grid_width / width, grid_height / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        waste = grid_width * grid_height - kept
        if kept > best_kept or (kept == best_kept and waste < least_waste):
            best, best_kept, least_waste = (grid_width, grid_height), kept, waste
    columns, rows = best[0] // tile * side, best[1] // tile * side
    if width / height > columns / rows:
        kept_rows = int(height * (columns / width))
        rows -= (rows - kept_rows) // 2 * 2
    else:
        kept_columns = int(width * (rows / height))
        columns -= (columns - kept_columns) // 2 * 2
    if max_tiles is not None:
        times = math.sqrt(rows * columns / (max_tiles * side * side))
        if times > 1.1:
            rows, columns = int(rows // times), int(columns // times)
    return side * side + rows * (columns + 1)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(size=SIZES.filter(lambda size: max(size) / min(size) < 40))
def test_the_llava_rule_counts_as_the_released_code(pairs, size):
    for kind, tile, side in (("llava_next", 56, 4), ("llava_onevision", 42, 3)):
        image = pairs[kind][2].card.image
        anyres = image.anyres.model_copy(update={"rule": "llava"})
        plan: Plan = plan_image(image.model_copy(update={"anyres": anyres}), size)
        wanted = released_count(size, anyres.pinpoints, tile, side, anyres.max_tiles)
        assert plan.num_tokens == wanted, kind


def test_the_released_directories_in_numbers(tmp_path):
    """Defaults of the classes are the releases'; a pair is (height, width) there and (width, height) here."""
    LlavaNextConfig().save_pretrained(tmp_path)
    image = load_card(tmp_path, "vicuna_v1").image
    assert image.anyres.pinpoints[:2] == ((672, 336), (336, 672)) and image.several == "same"
    numbers = [(336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008)]
    released = image.model_copy(
        update={"anyres": image.anyres.model_copy(update={"pinpoints": tuple(numbers), "rule": "llava"})}
    )
    for size, theirs, ours in (
        ((300, 100), 1360, 776),  # small: the first of two equal layouts
        ((704, 396), 576 + 28 * 49, 576 + 26 * 49),  # 26.999... rows
        ((640, 480), 2340, 2340),
        ((1024, 1024), 2928, 2928),
    ):
        assert (plan_image(image, size).num_tokens, plan_image(released, size).num_tokens) == (theirs, ours)
    LlavaOnevisionConfig().save_pretrained(tmp_path)
    card = load_card(tmp_path, "qwen_1_5")
    assert (card.tower.layer, card.image.grid, card.image.anyres.max_tiles) == (-1, 27, 9)
    assert len(card.image.anyres.pinpoints) == 36 and card.image.mean == (0.5, 0.5, 0.5)
    for size, tokens in (((640, 480), 2929), ((1920, 1080), 7269), ((100, 1000), 1539)):
        assert plan_image(card.image, size).num_tokens == tokens
    assert plan_image(card.image, (640, 480), alone=False).num_tokens == 730
    video = plan_video(card.video, card.image, (640, 360), card.video.max_frames)
    assert (video.frames, video.num_tokens) == (32, 6273)


def test_our_own_layouts_are_laid_out_alike_in_the_class_we_write(tmp_path):
    """Pairs are turned in their place, so the first of two equal layouts is the same; rounding alone differs."""
    anyres = AnyresConfig(pinpoints=((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008)))
    ours = ImageConfig(kind="anyres", anyres=anyres, several="same")
    LlavaNextConfig(image_grid_pinpoints=image_grid_pinpoints(anyres)).save_pretrained(tmp_path)
    theirs = load_card(tmp_path, "vicuna_v1").image
    assert theirs.anyres.pinpoints == anyres.pinpoints
    sizes = [(width, height) for width in range(20, 1400, 44) for height in range(20, 1400, 44)]
    sizes += [(300, 100), (100, 300), (336, 336), (704, 396)]
    differ = [size for size in sizes if plan_image(ours, size).grids != plan_image(theirs, size).grids]
    assert (704, 396) in differ and len(differ) <= 3


def change(folder, file, **values):
    """Settings of one of the directory's files, changed in place."""
    path = folder / file
    content = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(content | values))


@pytest.mark.parametrize(
    ("kind", "file", "values", "words"),
    [
        ("llava", "config.json", {"vision_feature_select_strategy": "full"}, "class row"),
        ("llava_onevision", "config.json", {"vision_feature_select_strategy": "default"}, "first patch"),
        ("llava_next", "config.json", {"vision_feature_layer": [-2, -1]}, "several layers"),
        ("llava", "config.json", {"projector_hidden_act": "relu"}, "projector_hidden_act=relu"),
        ("llava", "config.json", {"multimodal_projector_bias": False}, "multimodal_projector_bias=False"),
        ("llava", "config.json", {"vision_feature_layer": "last"}, "vision_feature_layer"),
        ("llava_onevision", "config.json", {"vision_aspect_ratio": "anyres"}, "anyres_max_N"),
        ("llava_next_video", "config.json", {"spatial_pool_mode": "conv"}, "average and max"),
        ("llava_next_video", "config.json", {"image_grid_pinpoints": [[56, 112]]}, "of the processor differ"),
        ("llava_next_video", "preprocessor_config.json", {"do_rescale": False}, "do_rescale=False"),
        ("llava_next_video", "preprocessor_config.json", {"resample": 2}, "resample=2"),
        (
            "llava_next_video",
            "video_preprocessor_config.json",
            {"size": {"shortest_edge": 28}},
            "takes 56 px",
        ),
        ("llava_onevision", "video_preprocessor_config.json", {"image_mean": [0.1] * 3}, "other numbers"),
        (
            "llava_next_video",
            "preprocessor_config.json",
            {"rescale_factor": 1 / 127.5},
            "rescale_factor=0.0078",
        ),
        (
            "llava_next_video",
            "preprocessor_config.json",
            {"crop_size": {"height": 40, "width": 56}},
            "crop_size",
        ),
        ("llava_next_video", "preprocessor_config.json", {"size": {"shortest_edge": 28}}, "takes 56 px"),
        (
            "llava_next_video",
            "video_preprocessor_config.json",
            {"size": {"shortest_edge": 56}, "do_center_crop": False},
            "do_center_crop=False",
        ),
    ],
)
def test_what_cannot_be_followed_is_refused_in_one_line(pairs, kind, file, values, words, tmp_path):
    for name in ("config.json", "preprocessor_config.json", "processor_config.json"):
        if (pairs[kind][1] / name).is_file():
            (tmp_path / name).write_bytes((pairs[kind][1] / name).read_bytes())
    assert load_card(tmp_path, "chatml") == pairs[kind][2].card
    change(tmp_path, file, **values)
    with pytest.raises(CheckpointError, match=words) as error:
        load_card(tmp_path, "chatml")
    assert str(error.value).count("\n") == 0


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ({"do_pad": False}, "square"),
        ({"do_pad": False, "size": {"height": 56, "width": 56}, "do_center_crop": False}, "squash"),
        ({"do_pad": True, "do_center_crop": False}, "pad"),
        ({"do_pad": False, "do_center_crop": False}, None),
        ({"do_pad": True, "crop_size": 40}, None),
    ],
)
def test_the_rule_of_plain_llava_follows_its_processor(pairs, tmp_path, values, kind):
    """What would not be a square is refused by name."""
    (tmp_path / "config.json").write_bytes((pairs["llava"][1] / "config.json").read_bytes())
    size = {"size": {"shortest_edge": 56}, "crop_size": {"height": 56, "width": 56}, "do_center_crop": True}
    change(tmp_path, "preprocessor_config.json", **(size | values))
    if kind is None:
        with pytest.raises(CheckpointError, match=r"do_center_crop=False|crop_size=40"):
            load_card(tmp_path, "chatml")
        return
    assert load_card(tmp_path, "chatml").image.kind == kind


@pytest.mark.parametrize(
    ("kind", "type_", "mean"),
    [
        ("llava_onevision", "LlavaOnevisionImageProcessor", hf_tiny.CLIP_MEAN),
        ("llava_onevision", "SiglipImageProcessor", (0.5, 0.5, 0.5)),
        ("llava_next", "LlavaNextImageProcessor", hf_tiny.CLIP_MEAN),
    ],
)
def test_means_that_are_missing_are_those_of_the_processors_class(pairs, tmp_path, kind, type_, mean):
    (tmp_path / "config.json").write_bytes((pairs[kind][1] / "config.json").read_bytes())
    grids = json.loads((tmp_path / "config.json").read_text())["image_grid_pinpoints"]
    change(tmp_path, "preprocessor_config.json", image_processor_type=type_, image_grid_pinpoints=grids)
    change(tmp_path, "video_preprocessor_config.json", video_processor_type=type_)
    assert load_card(tmp_path, "chatml").image.mean == tuple(mean)
