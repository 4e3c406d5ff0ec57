"""Tiny random models of the four Hugging Face classes, their directories, their processors, and their logits."""

import json
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextVideoConfig,
    LlavaNextVideoForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    MistralConfig,
    Qwen2Config,
    SiglipVisionConfig,
)
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.llava.processing_llava import LlavaProcessor
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_next.processing_llava_next import LlavaNextProcessor
from transformers.models.llava_next_video.processing_llava_next_video import LlavaNextVideoProcessor
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
    LlavaOnevisionImageProcessorPil,
)
from transformers.models.llava_onevision.processing_llava_onevision import LlavaOnevisionProcessor

from llavakit.core.types import IMAGE_ID
from llavakit.data.encode import Encoder, Sample
from llavakit.data.media import Clip
from llavakit.data.pack import collate
from llavakit.model.checkpoint import Checkpoint
from llavakit.text.conversation import Conversation, user
from tests import tiny

KINDS = ("llava", "llava_next", "llava_next_video", "llava_onevision")
MODELS = {
    "llava": LlavaForConditionalGeneration,
    "llava_next": LlavaNextForConditionalGeneration,
    "llava_next_video": LlavaNextVideoForConditionalGeneration,
    "llava_onevision": LlavaOnevisionForConditionalGeneration,
}
CONFIGS = {
    "llava": LlavaConfig,
    "llava_next": LlavaNextConfig,
    "llava_next_video": LlavaNextVideoConfig,
    "llava_onevision": LlavaOnevisionConfig,
}
VIDEOS = ("llava_next_video", "llava_onevision")
CLIP_MEAN, CLIP_STD = tiny.IMAGE.mean, tiny.IMAGE.std
# (height, width): a landscape and a portrait of each, and a long one, as in the released list.
CLIP_GRIDS = [[56, 112], [112, 56], [112, 112], [168, 56], [56, 168]]
SIGLIP_GRIDS = [[42 * rows, 42 * columns] for rows in range(1, 5) for columns in range(1, 5)]


class WithoutVideos:
    """Their processors for videos need torchvision to be built at all; pictures and text do not."""

    def check_argument_for_proper_class(self, name, argument):
        return type(argument)


class NextVideoProcessor(WithoutVideos, LlavaNextVideoProcessor):
    pass


class OnevisionProcessor(WithoutVideos, LlavaOnevisionProcessor):
    pass


PROCESSORS = {
    "llava": LlavaProcessor,
    "llava_next": LlavaNextProcessor,
    "llava_next_video": NextVideoProcessor,
    "llava_onevision": OnevisionProcessor,
}


def tower_config(kind: str):
    """CLIP with 4 x 4 patches; for OneVision SigLIP with 3 x 3 (27 x 27 is odd too), without its head."""
    settings = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    if kind == "llava_onevision":
        return SiglipVisionConfig(**settings, image_size=42, patch_size=14, vision_use_head=False)
    return CLIPVisionConfig(**settings, image_size=56, patch_size=14)


def decoder_config(kind: str, vocab: int, width: int):
    settings = {
        "vocab_size": vocab, "hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 2048,
        "pad_token_id": None, "bos_token_id": None, "eos_token_id": None,
    }  # fmt: skip
    if kind == "llava_next":
        return MistralConfig(**settings, sliding_window=None)
    if kind == "llava_onevision":
        return Qwen2Config(**settings, tie_word_embeddings=True)
    return LlamaConfig(**settings)


def config(kind: str, vocab: int, image_id: int, video_id: int, width: int):
    extra = {} if kind not in VIDEOS else {"video_token_index": video_id}
    if kind == "llava_onevision":
        extra |= {"vision_aspect_ratio": "anyres_max_4", "image_grid_pinpoints": SIGLIP_GRIDS}
        extra |= {"tie_word_embeddings": True}
    elif kind != "llava":
        extra |= {"image_grid_pinpoints": CLIP_GRIDS}
    return CONFIGS[kind](
        vision_config=tower_config(kind),
        text_config=decoder_config(kind, vocab, width),
        image_token_index=image_id,
        **extra,
    )


def image_processor(kind: str):
    size = {"height": 56, "width": 56}
    if kind == "llava_onevision":
        return LlavaOnevisionImageProcessorPil(
            size={"height": 42, "width": 42}, image_grid_pinpoints=SIGLIP_GRIDS,
            image_mean=[0.5] * 3, image_std=[0.5] * 3,
        )  # fmt: skip
    if kind == "llava":
        return LlavaImageProcessorPil(size={"shortest_edge": 56}, crop_size=size, do_pad=True)
    return LlavaNextImageProcessorPil(
        size={"shortest_edge": 56}, crop_size=size, image_grid_pinpoints=CLIP_GRIDS
    )


def processor(kind: str, tokenizer, pictures):
    """Theirs, for these parts."""
    how = {"patch_size": 14, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    if kind == "llava_onevision":
        how = {"num_image_tokens": 9, "vision_feature_select_strategy": "full"}
        how |= {"vision_aspect_ratio": "anyres_max_4"}
    return PROCESSORS[kind](image_processor=pictures, tokenizer=tokenizer, **how)


def read_processor(folder: Path):
    """Their processor from the files of a directory, without its part for videos."""
    kind = json.loads((folder / "config.json").read_text())["model_type"]
    settings = json.loads((folder / "processor_config.json").read_text())
    settings = {name: value for name, value in settings.items() if name != "processor_class"}
    return PROCESSORS[kind](
        image_processor=AutoImageProcessor.from_pretrained(folder, backend="pil"),
        tokenizer=AutoTokenizer.from_pretrained(folder),
        **settings,
    )


def directory(kind: str, folder: Path, seed: int = 0, width: int = 48):
    """A fresh directory as transformers saves it, with a decoder of `width`; returns its model, in float32."""
    torch.manual_seed(seed)
    tokenizer = tiny.byte_level_tokenizer()
    tokenizer.add_special(["<image>", "<video>"])
    ids = tokenizer.hf.get_vocab()
    hf = MODELS[kind](config(kind, len(tokenizer), ids["<image>"], ids["<video>"], width)).eval()
    with torch.no_grad():  # the default initialisation is so small that a wrong row would hardly show
        for name, parameter in hf.named_parameters():
            if parameter.ndim > 1:  # tied embeddings repeat the last token unless the layers outweigh them
                parameter.mul_(9 if "language_model.layers" in name else 3)
    hf.save_pretrained(folder)
    tokenizer.hf.save_pretrained(folder)
    pictures = image_processor(kind)
    if kind in VIDEOS:
        pictures.save_pretrained(folder)
    else:
        processor(kind, tokenizer.hf, pictures).save_pretrained(folder)
    return hf


def pictures(count: int, seed: int = 0) -> list[PIL.Image.Image]:
    """Random pictures of different shapes."""
    random = np.random.default_rng(seed)
    sizes = [(90, 40), (50, 130), (40, 40), (131, 77)]
    return [
        PIL.Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))
        for width, height in (sizes * count)[:count]
    ]


def clip(frames: int, seed: int = 0) -> tuple[PIL.Image.Image, ...]:
    """The frames of a video in memory, all of one size."""
    pixels = np.random.default_rng(seed).integers(0, 256, (frames, 60, 90, 3), dtype=np.uint8)
    return tuple(PIL.Image.fromarray(frame) for frame in pixels)


def question(ck: Checkpoint, text: str, images: int = 0, frames: int = 0, seed: int = 0) -> Sample:
    """An open question about some pictures and perhaps a video of so many frames."""
    video = None if ck.card.video is None else ck.card.video.model_copy(update={"max_frames": max(1, frames)})
    encoder = Encoder(ck.tokenizer, ck.card.prompt(), ck.card.image, video)
    films = [clip(frames, seed)] if frames else []
    return encoder.encode(Conversation((user(text, pictures(images, seed), films),)), open_turn=True)


def our_logits(ck: Checkpoint, samples: list[Sample]) -> list[torch.Tensor]:
    """Per sample, all packed into one row."""
    batch = collate(samples, [media.tiles() for sample in samples for media in sample.media], learn=False)
    with torch.no_grad():
        logits = ck.model.logits(ck.model.hidden(batch))
    return list(logits.split([sample.num_tokens for sample in samples]))


def their_inputs(hf, ck: Checkpoint, samples: list[Sample]) -> dict[str, torch.Tensor]:
    """Our ids and our tiles as the arguments of the Hugging Face class: padded on the left, normalised plainly."""
    kind = hf.config.model_type
    longest = max(sample.num_tokens for sample in samples)
    ids = torch.zeros(len(samples), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    images, videos, sizes, counts = [], [], [], []
    for row, sample in enumerate(samples):
        media = iter([item for item in sample.media for _ in range(item.plan.num_tokens)])
        names = {False: hf.config.image_token_id, True: hf.config.to_dict().get("video_token_index")}
        slots = (
            token if token != IMAGE_ID else names[isinstance(next(media).source, Clip)]
            for token in sample.ids
        )
        ids[row, longest - sample.num_tokens :] = torch.tensor(list(slots))
        mask[row, longest - sample.num_tokens :] = 1
        stills = [item for item in sample.media if not isinstance(item.source, Clip)]
        counts += [len(stills)] if stills else []
        images += [normalised(ck, item.tiles()) for item in stills]
        sizes += [item.pictures()[0].size[::-1] for item in stills]
        videos += [normalised(ck, item.tiles()) for item in sample.media if isinstance(item.source, Clip)]
    inputs = {"input_ids": ids, "attention_mask": mask}
    if images and kind == "llava":
        inputs["pixel_values"] = torch.cat(images)
    elif images:
        most = max(len(tiles) for tiles in images)
        inputs["pixel_values"] = torch.stack(
            [torch.cat([tiles, tiles.new_zeros(most - len(tiles), *tiles.shape[1:])]) for tiles in images]
        )
        inputs["image_sizes"] = torch.tensor(sizes)
    if images and kind == "llava_onevision":
        inputs["batch_num_images"] = torch.tensor(counts)
    if videos:
        inputs["pixel_values_videos"] = torch.stack(videos)
    return inputs


def their_logits(hf, ck: Checkpoint, samples: list[Sample]) -> list[torch.Tensor]:
    with torch.no_grad():
        logits = hf(**their_inputs(hf, ck, samples)).logits
    return [row[-sample.num_tokens :] for row, sample in zip(logits, samples, strict=True)]


def normalised(ck: Checkpoint, tiles: torch.Tensor) -> torch.Tensor:
    mean, std = torch.tensor(ck.card.image.mean), torch.tensor(ck.card.image.std)
    return ((tiles / 255 - mean) / std).permute(0, 3, 1, 2)


def difference(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> float:
    """The largest of all differences."""
    return max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))
