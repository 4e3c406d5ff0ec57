"""Models with one CLIP tile (or CLIP tiles of 224 px): LLaVA to LLaVA-1.5-HD, LLaVA-Med, LLaVA-RLHF, LLaVA-Plus."""

from dataclasses import replace

from llavakit.model.card import Card
from llavakit.model.families import parts
from llavakit.model.families.parts import Decoder
from llavakit.model.families.row import Family, clip_tower, one_tile, tiled
from llavakit.model.formats.towers import CLIP_224, CLIP_336, Vision
from llavakit.model.settings import ConnectorConfig
from llavakit.vision.anyres import AnyresConfig, hd_grids

FRAMED = "images stand between <im_start> and <im_end>"
V0 = "trained with template v0; the released demo asked with llava_v0, which differs in blanks"
DELTA = "published as a difference to LLaMA's weights, which must be added first"
PREVIEW = "a preview trained on 80K instructions"


def _linear(
    name: str,
    decoder: Decoder,
    vision: Vision = CLIP_224,
    *,
    template: str,
    system: str = "LLaVA",
    kind: str = "square",
    framed: bool = False,
    released: str | None = None,
    remarks: tuple[str, ...] = (),
) -> Family:
    """LLaVA's own shape: one tile, one matrix."""
    return Family(
        name=name,
        system=system,
        card=Card(
            tower=clip_tower(vision),
            connector=ConnectorConfig(kind="linear"),
            image=one_tile(kind, vision),
            template=template,
            im_start_end=framed,
        ),
        vision=vision,
        decoder=decoder,
        context=2048,
        released=released,
        delta=DELTA in remarks,
        remarks=(*remarks, FRAMED) if framed else remarks,
    )


def _mlp(
    name: str,
    decoder: Decoder,
    *,
    template: str = "vicuna_v1",
    system: str = "LLaVA-1.5",
    released: str | None = None,
    remarks: tuple[str, ...] = (),
) -> Family:
    """LLaVA-1.5's shape: 336 px padded to a square, two layers."""
    return Family(
        name=name,
        system=system,
        card=Card(
            tower=clip_tower(CLIP_336),
            connector=ConnectorConfig(kind="mlp"),
            image=one_tile("pad", CLIP_336),
            template=template,
        ),
        vision=CLIP_336,
        decoder=decoder,
        context=2048,
        released=released,
        remarks=remarks,
    )


def _hd(name: str, decoder: Decoder) -> Family:
    """LLaVA-1.5-HD (arXiv 2310.03744, section 4): at most six tiles of 224 px and a padded global view."""
    anyres = AnyresConfig(pinpoints=hd_grids(224), base="pad")
    return Family(
        name=name,
        system="LLaVA-1.5-HD",
        card=Card(
            tower=clip_tower(CLIP_224),
            connector=ConnectorConfig(kind="mlp"),
            image=tiled(CLIP_224, anyres),
            template="vicuna_v1",
        ),
        vision=CLIP_224,
        decoder=decoder,
        context=2048,
        remarks=(
            "no code and no weights were released; rounding, order of tokens, colour of the border and context are "
            "unverified: those of LLaVA-NeXT and LLaVA-1.5",
        ),
    )


_LLAVA = [
    _linear(
        "llava-7b-v0", parts.VICUNA_V0_7B, template="v0", framed=True,
        released="liuhaotian/LLaVA-7b-delta-v0", remarks=(V0, DELTA),
    ),
    _linear(
        "llava-13b-v0", parts.VICUNA_V0_13B, template="v0", framed=True,
        released="liuhaotian/LLaVA-13b-delta-v0", remarks=(V0, DELTA),
    ),
    _linear(
        "llava-7b-v1.1", parts.VICUNA_V11_7B, template="vicuna_v1", framed=True,
        released="liuhaotian/LLaVA-7b-delta-v1-1", remarks=(DELTA, "start and end tokens unverified"),
    ),
    _linear(
        "llava-13b-v1.1", parts.VICUNA_V11_13B, template="vicuna_v1", framed=True,
        released="liuhaotian/LLaVA-13b-delta-v1-1", remarks=(DELTA, "start and end tokens unverified"),
    ),
    _linear(
        "llava-7b", parts.VICUNA_V13_7B, template="vicuna_v1",
        remarks=("Vicuna v1.3; of this size only the connector was released",),
    ),
    _linear(
        "llava-13b", parts.VICUNA_V13_13B, template="vicuna_v1",
        remarks=("Vicuna v1.3; of this size only the connector was released",),
    ),
    _linear(
        "llava-13b-336", parts.VICUNA_V13_13B, CLIP_336, template="vicuna_v1",
        released="liuhaotian/llava-v1-0719-336px-lora-merge-vicuna-13b-v1.3",
        remarks=("trained with LoRA, merged; the image rule (square) is unverified",),
    ),
    _linear(
        "llava-llama2-7b", parts.LLAMA2_7B, template="llava_llama_2",
        released="liuhaotian/llava-llama-2-7b-chat-lightning-lora-preview", remarks=(PREVIEW, "a LoRA adapter"),
    ),
    _linear(
        "llava-llama2-13b", parts.LLAMA2_13B, template="llava_llama_2",
        released="liuhaotian/llava-llama-2-13b-chat-lightning-preview", remarks=(PREVIEW,),
    ),
]  # fmt: skip

_MED = [
    _linear(
        "llava-med-7b", parts.VICUNA_V0_7B, template="v0", framed=True, system="LLaVA-Med",
        released="microsoft/llava-med-7b-delta", remarks=(V0, DELTA, "starts from LLaVA-7B v0, not from Vicuna"),
    ),
    _mlp(
        "llava-med15-7b", parts.MISTRAL_7B, template="mistral_instruct", system="LLaVA-Med",
        released="microsoft/llava-med-v1.5-mistral-7b",
        remarks=("its training was not published: context unverified",),
    ),
]  # fmt: skip

_RLHF = [
    _linear(
        "llava-rlhf-7b", parts.VICUNA_V15_7B, template="vicuna_v1", kind="pad", system="LLaVA-RLHF",
        released="zhiqings/LLaVA-RLHF-7b-v1.5-224", remarks=("tuned at a length of 1280",),
    ),
    _linear(
        "llava-rlhf-13b", parts.VICUNA_V15_13B, CLIP_336, template="vicuna_v1", kind="pad", system="LLaVA-RLHF",
        released="zhiqings/LLaVA-RLHF-13b-v1.5-336",
        remarks=("tuned at a length of 1280; the reward model of both sizes has this shape",),
    ),
]  # fmt: skip

_PLUS = [
    _linear(
        "llava-plus-7b", parts.VICUNA_V13_7B, template="vicuna_v1", system="LLaVA-Plus",
        released="LLaVA-Plus/llava_plus_v0_7b", remarks=("version of Vicuna and template unverified",),
    ),
    _linear(
        "llava-plus-13b", parts.VICUNA_V13_13B, CLIP_336, template="vicuna_v1", system="LLaVA-Plus",
        remarks=("in the paper only, not released; version of Vicuna and template unverified",),
    ),
]  # fmt: skip

_V15 = [
    _mlp("llava15-7b", parts.VICUNA_V15_7B, released="liuhaotian/llava-v1.5-7b"),
    _mlp("llava15-13b", parts.VICUNA_V15_13B, released="liuhaotian/llava-v1.5-13b"),
]

_INTERACTIVE = replace(
    _V15[1],
    name="llava-interactive-13b",
    system="LLaVA-Interactive",
    remarks=("has no weights of its own: the model that chats is LLaVA-1.5-13B",),
)

ROWS = (*_LLAVA, *_MED, *_RLHF, *_V15, _hd("llava15-hd-13b", parts.VICUNA_V15_13B), _INTERACTIVE, *_PLUS)
