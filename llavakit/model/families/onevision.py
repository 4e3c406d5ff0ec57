"""SigLIP and Qwen2: LLaVA-OneVision, LLaVA-Video, LLaVA-Critic. Trained at 32,768 tokens."""

from llavakit.model.card import Card
from llavakit.model.families import parts
from llavakit.model.families.parts import Decoder
from llavakit.model.families.row import Family, clip_tower, tiled
from llavakit.model.formats.towers import SIGLIP
from llavakit.model.settings import ConnectorConfig
from llavakit.vision.anyres import AnyresConfig, tile_grids
from llavakit.vision.frames import SlowFast, VideoConfig

CONTEXT = 32768
# 27 x 27 rows of a frame become 14 x 14 after the connector, one newline behind all of them.
ONEVISION = VideoConfig(kind="squash", max_frames=32, pool="bilinear", stride=2, newline="one_token")
VIDEO = VideoConfig(
    kind="squash", max_frames=64, pool="bilinear", stride=2, newline="grid", time_instruction=True
)


def _onevision(
    name: str,
    decoder: Decoder,
    *,
    system: str = "LLaVA-OneVision",
    video: VideoConfig = ONEVISION,
    released: str | None = None,
    remarks: tuple[str, ...] = (),
) -> Family:
    anyres = AnyresConfig(pinpoints=tile_grids((1, 1), (6, 6), SIGLIP.image_size), max_tiles=9)
    return Family(
        name=name,
        system=system,
        card=Card(
            tower=clip_tower(SIGLIP),
            connector=ConnectorConfig(kind="mlp"),
            image=tiled(SIGLIP, anyres),
            video=video,
            template="qwen_1_5",
        ),
        vision=SIGLIP,
        decoder=decoder,
        context=CONTEXT,
        released=released,
        remarks=remarks,
    )


SIZES = {"0.5b": parts.QWEN2_05B, "7b": parts.QWEN2_7B, "72b": parts.QWEN2_72B}
SI = "the stage before OneVision's last: trained on single images only"

_ONEVISION = [
    *(
        _onevision(
            f"llava-onevision-{size}-si", decoder,
            released=f"lmms-lab/llava-onevision-qwen2-{size}-si", remarks=(SI,),
        )
        for size, decoder in SIZES.items()
    ),
    _onevision("llava-onevision-0.5b-ov", SIZES["0.5b"], released="lmms-lab/llava-onevision-qwen2-0.5b-ov"),
    _onevision("llava-onevision-7b-ov", SIZES["7b"], released="lmms-lab/llava-onevision-qwen2-7b-ov"),
    _onevision("llava-onevision-72b-ov", SIZES["72b"], released="lmms-lab/llava-onevision-qwen2-72b-ov-sft"),
    *(
        _onevision(
            f"llava-onevision-{size}-chat", SIZES[size],
            released=f"lmms-lab/llava-onevision-qwen2-{size}-ov-chat",
            remarks=("OneVision after three rounds of DPO with LLaVA-Critic as the reward",),
        )
        for size in ("7b", "72b")
    ),
]  # fmt: skip

_VIDEO = [
    _onevision(
        "llava-video-7b", SIZES["7b"], system="LLaVA-Video", video=VIDEO,
        released="lmms-lab/LLaVA-Video-7B-Qwen2",
    ),
    _onevision(
        "llava-video-72b", SIZES["72b"], system="LLaVA-Video", video=VIDEO,
        released="lmms-lab/LLaVA-Video-72B-Qwen2",
        remarks=("64 frames in the paper, 32 in its script; whether it has a faster token is unverified",),
    ),
    _onevision(
        "llava-video-72b-slowfast", SIZES["72b"], system="LLaVA-Video",
        video=VIDEO.model_copy(update={"slow_fast": SlowFast(every=3)}),
        remarks=("the paper's (64, 729, 3, 2); no released weights are known to need it",),
    ),
]  # fmt: skip

_CRITIC = [
    _onevision(
        f"llava-critic-{size}", SIZES[size], system="LLaVA-Critic", released=f"lmms-lab/llava-critic-{size}",
        remarks=("LLaVA-OneVision tuned to judge; settings other than rate, batch and epoch are unverified",),
    )
    for size in ("7b", "72b")
]  # fmt: skip

ROWS = (*_ONEVISION, *_VIDEO, *_CRITIC)
