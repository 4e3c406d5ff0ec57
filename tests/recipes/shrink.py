"""Recipes with tiny stand-in parts: the same settings but for sizes and paths. And data made of real pictures."""

import json
from pathlib import Path

import torch
from PIL import Image
from skimage import data
from transformers import CLIPVisionModel, LlamaForCausalLM, SiglipVisionConfig, SiglipVisionModel

from llavakit.model.card import Card
from llavakit.recipes.easy_vqa import EasyVqa
from llavakit.recipes.stage import Stage
from llavakit.train.policy_settings import PolicyConfig
from llavakit.train.reward_terms import RewardsConfig
from llavakit.train.run import Run
from llavakit.vision.plan import ImageConfig
from tests import tiny
from tests.vision.clips import real_clips

SIZE, GRID, FRAMES = 28, 2, 3
TOKENIZERS = {
    "vicuna_v1": tiny.sentencepiece_tokenizer,
    "v0": tiny.sentencepiece_tokenizer,
    "mistral_instruct": tiny.sentencepiece_tokenizer,
    "chatml_direct": tiny.byte_level_tokenizer,
    "qwen_1_5": tiny.byte_level_tokenizer,
    "llava_llama_3": tiny.chat_template_tokenizer,
}


def save_parts(folder: Path) -> Path:
    """Two towers and a decoder for every template, each a directory that `transformers` reads."""
    torch.manual_seed(0)
    CLIPVisionModel(tiny.vision_config()).save_pretrained(folder / "clip_vision_model")
    small = tiny.vision_config().to_dict()
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "patch_size")
    siglip = SiglipVisionConfig(
        image_size=SIZE, vision_use_head=False, **{name: small[name] for name in names}
    )
    SiglipVisionModel(siglip).save_pretrained(folder / "siglip_vision_model")
    for name, make in TOKENIZERS.items():
        tokenizer = make()
        tokenizer.hf.save_pretrained(folder / name)
        LlamaForCausalLM(tiny.text_config(len(tokenizer) + 8)).save_pretrained(folder / name)
    return folder


def shrink(stage: Stage, parts: Path, runs: Path, **optim: object) -> Run:
    """The stage's run on tiny parts. Its start is sought in `runs`; released weights become fresh parts."""
    run = stage()
    model = run.model
    released = model.start is not None and model.start.parent.name == "released"
    card = Card(**{name: value for name, value in dict(model).items() if name in Card.model_fields})
    image, video = small_image(card.image), card.video
    tower = card.tower.model_copy(update={"path": str(parts / stage.family.vision.model_type)})
    language = model.language.model_copy(update={"path": str(parts / stage.family.card.template)})
    model = model.model_copy(
        update={
            "start": None if model.start is None or released else runs / model.start.name,
            "tower": tower,
            "language": language,
            "image": image,
            "video": video and video.model_copy(update={"max_frames": FRAMES}),
        }
    )
    return run.model_copy(
        update={
            "out": runs / run.name,
            "model": model,
            "precision": "float32",
            "policy": run.policy and small_policy(run.policy),
            "data": run.data.model_copy(
                update={"files": (write_data(stage, runs / "data"),), "tokens": 1024}
            ),
            "optim": run.optim.model_copy(update={"rows": 1, "steps": 1, **optim}),
        }
    )


def small_policy(policy: PolicyConfig) -> PolicyConfig:
    """Few short answers, rewarded by their letters."""
    rewards = RewardsConfig.model_validate({"terms": {"e": {"kind": "regex", "pattern": "[aeo]"}}})
    return policy.model_copy(
        update={"rewards": rewards, "prompts": 4, "minibatches": 1, "max_tokens": 4, "tries": 4}
    )


def small_image(image: ImageConfig) -> ImageConfig:
    """The same rule with tiles of 28 px and 2 x 2 rows."""
    values = image.model_dump() | {"size": SIZE, "grid": GRID}
    if image.anyres is not None:
        anyres = image.anyres.model_dump()
        anyres["pinpoints"] = [
            (w // image.size * SIZE, h // image.size * SIZE) for w, h in image.anyres.pinpoints
        ]
        if image.anyres.max_tokens is not None:
            anyres["max_tokens"] = image.anyres.max_tokens // image.grid**2 * GRID**2
        values["anyres"] = anyres
    return ImageConfig.model_validate(values)


def write_data(stage: Stage, folder: Path) -> Path:
    """A file of what the stage's mean sample has: single pictures, several in a sample, films. Always the same."""
    several, films, pairs = bool(stage.mean.several), bool(stage.mean.videos), stage.preference is not None
    path = folder / f"pictures{'_several' * several}{'_films' * films}{'_pairs' * pairs}.json"
    if path.exists():
        return path
    train = EasyVqa("train")
    pictures = sorted(train.questions)[:8]
    folder.mkdir(parents=True, exist_ok=True)
    rows = photo_records(folder)
    for number, picture in enumerate(pictures):
        questions = train.questions[picture][:1]
        image = str(questions[0].image)
        rows.append(tiny.record(number, image, [(question.text, question.answer) for question in questions]))
    if several:
        for number, (first, second) in enumerate(zip(pictures[:4], pictures[4:8], strict=True)):
            images = [str(train.questions[picture][0].image) for picture in (first, second)]
            row = tiny.record(100 + number, images, [("", "two shapes")])
            row["conversations"][0]["value"] = "Here is <image> and there <image>: what are they?"
            rows.append(row)
    if films:
        clip = min(real_clips().values(), key=lambda file: file.stat().st_size)
        talk = tiny.record(200, str(clip), [("What happens?", "a film")])
        rows += [
            {**talk, "id": str(200 + number), "video": talk["image"], "image": None} for number in range(2)
        ]
    if pairs:
        rows = [as_pair(row) for row in rows]
    path.write_text(json.dumps(rows))
    return path


def as_pair(row: dict) -> dict:
    """The record with its answer preferred to another one."""
    *_, said = row["conversations"]
    outputs = {"output_1": {"from": "gpt", "value": "nothing of the kind"}, "output_2": said}
    return row | outputs | {"preference": 2}


def photo_records(folder: Path) -> list[dict]:
    """Photos that are not square, so that AnyRes lays out tiles and cuts a border off, and what they show."""
    photos = {
        "a cup of coffee": data.coffee,
        "a cat": data.chelsea,
        "a rocket": data.rocket,
        "text": data.page,
    }
    rows = []
    for number, (shown, load) in enumerate(photos.items()):
        path = folder / f"photo{number}.png"
        Image.fromarray(load()).save(path)
        rows.append(tiny.record(300 + number, path.name, [("What is this?", shown)]))
    return rows
