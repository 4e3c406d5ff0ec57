"""The LLaVA-NeXT generation: 1.6, Stronger LLMs, Ablations, Video, Interleave."""

from llavakit.model.card import Card
from llavakit.model.families import parts
from llavakit.model.families.parts import Decoder
from llavakit.model.families.row import Family, clip_tower, one_tile, tiled
from llavakit.model.formats.towers import CLIP_336, SIGLIP, Vision
from llavakit.model.settings import ConnectorConfig
from llavakit.vision.anyres import AnyresConfig, tile_grids
from llavakit.vision.frames import VideoConfig
from llavakit.vision.layout import Size
from llavakit.vision.plan import ImageConfig

# In tiles; the order decides between layouts that fit equally well.
FIVE: tuple[Size, ...] = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))
# Frames are pooled from 24 x 24 to 12 x 12 before the connector; no newline among them.
NEXT_VIDEO = VideoConfig(max_frames=32, pool="average", stride=2, pool_first=True, newline="no_token")


def five_grids(vision: Vision) -> tuple[Size, ...]:
    """The released list of LLaVA-NeXT, for the tower's size."""
    return tuple((columns * vision.image_size, rows * vision.image_size) for columns, rows in FIVE)


def up_to_six(vision: Vision) -> tuple[Size, ...]:
    """Every layout from 1 x 1 to 6 x 6 tiles, as the released strings `(1x1),...,(6x6)` are read."""
    return tile_grids((1, 1), (6, 6), vision.image_size)


def _next(
    name: str,
    decoder: Decoder,
    *,
    template: str,
    system: str = "LLaVA-NeXT",
    vision: Vision = CLIP_336,
    image: ImageConfig | None = None,
    video: VideoConfig | None = None,
    context: int = 4096,
    released: str | None = None,
    rope_scaling: bool = False,
    remarks: tuple[str, ...] = (),
) -> Family:
    return Family(
        name=name,
        system=system,
        card=Card(
            tower=clip_tower(vision),
            connector=ConnectorConfig(kind="mlp"),
            image=image or tiled(vision, AnyresConfig(pinpoints=five_grids(vision))),
            video=video,
            template=template,
        ),
        vision=vision,
        decoder=decoder,
        context=context,
        released=released,
        rope_scaling=rope_scaling,
        remarks=remarks,
    )


_V16 = [
    _next("llava16-7b", parts.VICUNA_V15_7B, template="vicuna_v1", released="liuhaotian/llava-v1.6-vicuna-7b"),
    _next("llava16-13b", parts.VICUNA_V15_13B, template="vicuna_v1", released="liuhaotian/llava-v1.6-vicuna-13b"),
    _next(
        "llava16-mistral-7b", parts.MISTRAL_7B, template="mistral_instruct",
        released="liuhaotian/llava-v1.6-mistral-7b",
    ),
    _next("llava16-34b", parts.YI_34B, template="chatml_direct", released="liuhaotian/llava-v1.6-34b"),
]  # fmt: skip

_STRONGER = [
    _next(
        f"llava-next-{name}", decoder, template=template, system="LLaVA-NeXT Stronger LLMs",
        context=decoder.max_position_embeddings, released=f"lmms-lab/{released}",
        remarks=("trained length not published: context is the decoder's own",),
    )
    for name, decoder, template, released in (
        ("llama3-8b", parts.LLAMA3_8B, "llava_llama_3", "llama3-llava-next-8b"),
        ("qwen-32b", parts.QWEN15_32B, "qwen_1_5", "llava-next-qwen-32b"),
        ("qwen-72b", parts.QWEN15_72B, "qwen_1_5", "llava-next-72b"),
        ("qwen-110b", parts.QWEN15_110B, "qwen_1_5", "llava-next-110b"),
    )
]  # fmt: skip


def _ablation(name: str, anyres: AnyresConfig, remark: str) -> Family:
    return _next(
        f"llava-next-ablation-{name}",
        parts.QWEN15_05B,
        template="qwen_1_5",
        system="LLaVA-NeXT Ablations",
        vision=SIGLIP,
        image=tiled(SIGLIP, anyres),
        context=32768,
        remarks=(remark, "an experiment of the blog, not released; trained length unverified"),
    )


_BASE_GRIDS = AnyresConfig(pinpoints=five_grids(SIGLIP))
_ABLATIONS = [
    _ablation("base", _BASE_GRIDS, "the blog's baseline, tiles up to 2 x 2"),
    *(
        _ablation(
            f"max{tiles}",
            AnyresConfig(pinpoints=up_to_six(SIGLIP), max_tiles=tiles),
            f"Higher-AnyRes by the released code's rule; that it is the blog's ({tiles} + 1) x 729 is unverified",
        )
        for tiles in (4, 9, 16)
    ),
    *(
        _ablation(
            f"max{tiles}-paper",
            AnyresConfig(pinpoints=up_to_six(SIGLIP), merge="flat", max_tokens=(tiles + 1) * 729),
            "Higher-AnyRes by the blog's formula: beyond the threshold all tiles share it equally",
        )
        for tiles in (4, 9, 16)
    ),
]

_VIDEO = [
    *(
        _next(
            f"llava-next-video-7b{dpo.lower()}", parts.VICUNA_V15_7B, template="vicuna_v1",
            system="LLaVA-NeXT-Video", video=NEXT_VIDEO, released=f"lmms-lab/LLaVA-NeXT-Video-7B{dpo}",
            rope_scaling=True, remarks=("the release doubles the context by linear RoPE scaling: 8192, 56 frames",),
        )
        for dpo in ("", "-DPO")
    ),
    _next(
        "llava-next-video-7b-32k", parts.MISTRAL_7B, template="mistral_instruct", system="LLaVA-NeXT-Video",
        video=NEXT_VIDEO, context=32768, released="lmms-lab/LLaVA-NeXT-Video-7B-32K",
    ),
    *(
        _next(
            f"llava-next-video-34b{dpo.lower()}", parts.YI_34B, template="chatml_direct",
            system="LLaVA-NeXT-Video", video=NEXT_VIDEO, released=f"lmms-lab/LLaVA-NeXT-Video-34B{dpo}",
            remarks=("context unverified: 32 frames are 4608 tokens",),
        )
        for dpo in ("", "-DPO")
    ),
    _next(
        "llava-next-video-32b-qwen", parts.QWEN15_32B, template="qwen_1_5", system="LLaVA-NeXT-Video",
        video=NEXT_VIDEO.model_copy(update={"newline": "grid", "pool_first": False}), context=32768,
        released="lmms-lab/LLaVA-NeXT-Video-32B-Qwen",
        remarks=("that frames are pooled after the connector follows from the release date: unverified",),
    ),
]  # fmt: skip

_INTERLEAVE = [
    _next(
        f"llava-next-interleave-{name}", decoder, template="qwen_1_5", system="LLaVA-NeXT-Interleave",
        vision=SIGLIP, image=one_tile("pad", SIGLIP),
        video=VideoConfig(kind="pad", max_frames=16, stride=1, newline="no_token"), context=32768,
        released=released,
        remarks=(
            "frames are ordinary images, 16 of them in the evaluation; trained length unverified",
            "the config pads every image; single images were trained with AnyRes (a maintainer's word)",
            *remarks,
        ),
    )
    for name, decoder, released, remarks in (
        ("0.5b", parts.QWEN15_05B, "lmms-lab/llava-next-interleave-qwen-0.5b", ()),
        ("7b", parts.QWEN15_7B, "lmms-lab/llava-next-interleave-qwen-7b", ()),
        ("7b-dpo", parts.QWEN15_7B, "lmms-lab/llava-next-interleave-qwen-7b-dpo", ()),
        ("14b", parts.QWEN15_14B, None, ("hub id not known to us",)),
    )
]  # fmt: skip

ROWS = (*_V16, *_STRONGER, *_ABLATIONS, *_VIDEO, *_INTERLEAVE)
