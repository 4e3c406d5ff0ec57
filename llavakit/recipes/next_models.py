"""The LLaVA-NeXT generation: 1.6, Stronger LLMs, Ablations, Video, Interleave (arXiv 2407.07895).

From here on the tower learns too. Blog posts (2024-01-30 to 2024-06-16) and released configs give the numbers; what
neither says is named as unverified, and then taken from the nearest recipe that does.
"""

from collections.abc import Mapping
from dataclasses import replace

from llavakit.model.families import family, parts
from llavakit.model.families.next_models import five_grids
from llavakit.model.families.row import Family, clip_tower, tiled
from llavakit.model.formats.towers import CLIP_336, SIGLIP
from llavakit.recipes.stage import INSTRUCTIONS, RUNS, Mean, Stage, alignment, full, short
from llavakit.train.pair_settings import PreferenceConfig
from llavakit.vision.anyres import AnyresConfig

NEXT_DATA = "llava_next_raw_format_processed.json"  # the public part of the 760K and 790K mixtures
VIDEOCHATGPT = "videochatgpt_tune_.json"  # 100K, as Video-LLaVA's authors wrote it in this format
# Pictures described anew by LLaVA-NeXT-34B, as lmms-lab published them: 118K, 558K and 3M.
RECAP = ("LLaVA-ReCap-118K", "LLaVA-ReCap-558K", "LLaVA-ReCap-CC3M")
RECAPTIONS = Mean(text=224)  # detailed descriptions
# One picture in eight is a video in the first release; half of the samples are in that of July.
FEW_FILMS, MANY_FILMS = Mean(text=320, single=0.85, videos=0.12), Mean(text=256, single=0.48, videos=0.52)
# A question about a video and two answers of some sentences.
FILM_PAIRS = Mean(text=256, single=0.0, videos=1.0)
# M4-Instruct: 307K single pictures, 265K videos, the rest of 1,178K with about three pictures each.
M4 = Mean(text=192, single=0.26, several=1.55, videos=0.22)
ALIGNED_UNSEEN = ("rate", "batch", "that pictures are cut square in this stage")
MIX_UNSEEN = "the mixture (the public part stands here)"

# Size: row of the finished model, language model's rate, doubts of stage 2.
_NEXT = {
    "7b": ("llava16-7b", 2e-5, ("batch", MIX_UNSEEN)),
    "13b": ("llava16-13b", 2e-5, ("batch", MIX_UNSEEN)),
    "mistral": ("llava16-mistral-7b", 2e-5, ("batch", "rate (an archived script has 5e-6)", MIX_UNSEEN)),
    "34b": ("llava16-34b", 2e-5, ("batch", MIX_UNSEEN)),
}
_STRONGER_DOUBTS = ("batch", "the language model's rate (the released scripts')", "length", MIX_UNSEEN)
_STRONGER = {
    "llama3-8b": ("llava-next-llama3-8b", 2e-5, ("batch", "length", MIX_UNSEEN)),
    "qwen-32b": ("llava-next-qwen-32b", 1e-5, _STRONGER_DOUBTS),
    "qwen-72b": ("llava-next-qwen-72b", 1e-5, _STRONGER_DOUBTS),
    "qwen-110b": ("llava-next-qwen-110b", 1e-5, _STRONGER_DOUBTS),
}


def _both(
    size: str, row_name: str, language: float, doubts: tuple[str, ...], tokens: int
) -> tuple[Stage, Stage]:
    """The two stages of LLaVA-NeXT with one decoder."""
    row = family(row_name)
    return (
        alignment(f"next-stage1-{size}", row.system, row, batch=256, unverified=ALIGNED_UNSEEN),
        Stage(
            name=f"next-stage2-{size}",
            system=row.system,
            does="stage 2, visual instruction tuning",
            family=row,
            rates=full(language, 2e-6),
            batch=128,
            data=(NEXT_DATA,),
            mean=INSTRUCTIONS,
            tokens=tokens,
            start=RUNS / f"next-stage1-{size}",
            unverified=doubts,
        ),
    )


_V16 = tuple(stage for size, row in _NEXT.items() for stage in _both(size, *row, tokens=4096))
_LARGE = tuple(stage for size, row in _STRONGER.items() for stage in _both(size, *row, tokens=8192))


# Ablations (blog of 2024-05-25)

_BASE = family("llava-next-ablation-base")
# The tower study and stage 1.5 used a decoder of 7B that no text we have names.
_SO400M = replace(_BASE, name="llava-next-ablation-so400m", decoder=parts.QWEN15_7B)
_CLIP = replace(
    _SO400M,
    name="llava-next-ablation-clip",
    vision=CLIP_336,
    card=_BASE.card.model_copy(
        update={
            "tower": clip_tower(CLIP_336),
            "image": tiled(CLIP_336, AnyresConfig(pinpoints=five_grids(CLIP_336))),
        }
    ),
)
_SEVEN = "which decoder of 7B"
LR_PAIRS = ((2e-5, 2e-6), (2e-5, 1e-6), (1e-5, 2e-6), (1e-5, 1e-6), (5e-6, 1e-6), (5e-6, 5e-7))


def _ablation(
    name: str,
    does: str,
    row: Family,
    *,
    start: str,
    rates: Mapping[str, float] | None = None,
    data: tuple[str, ...] = (NEXT_DATA,),
    mean: Mean = INSTRUCTIONS,
    unverified: tuple[str, ...] = (MIX_UNSEEN,),
) -> Stage:
    """A stage in which everything learns, 64 samples a step."""
    return Stage(
        name=name,
        system=_BASE.system,
        does=does,
        family=row,
        rates=rates or full(2e-5, 2e-6),
        batch=64,
        data=data,
        mean=mean,
        tokens=16384,
        start=RUNS / start,
        unverified=(*unverified, "length"),
    )


def _aligned(name: str, row: Family, *, doubts: tuple[str, ...]) -> Stage:
    return alignment(name, row.system, row, batch=64, unverified=("rate", *doubts))


_ABLATIONS = (
    _aligned("ablation-stage1", _BASE, doubts=()),
    _ablation("ablation-base", "the baseline: SO400M, up to 2 x 2 tiles", _BASE, start="ablation-stage1"),
    *(
        _ablation(
            f"ablation-max{tiles}",
            f"Higher-AnyRes, threshold ({tiles} + 1) x 729, by the released code's rule",
            family(f"llava-next-ablation-max{tiles}"),
            start="ablation-stage1",
            unverified=("that the blog means this rule", MIX_UNSEEN),
        )
        for tiles in (4, 9, 16)
    ),
    *(
        _ablation(
            f"ablation-max{tiles}-paper",
            f"Higher-AnyRes, threshold ({tiles} + 1) x 729, by the blog's formula",
            family(f"llava-next-ablation-max{tiles}-paper"),
            start="ablation-stage1",
        )
        for tiles in (4, 9, 16)
    ),
    *(
        _ablation(
            f"ablation-lr-{short(language)}-{short(tower)}",
            "learning rates of language model and tower",
            _BASE,
            start="ablation-stage1",
            rates=full(language, tower),
            unverified=("which model this was tried on (the baseline here)", MIX_UNSEEN),
        )
        for language, tower in LR_PAIRS
    ),
    *(
        stage
        for name, row in (("so400m", _SO400M), ("clip336", _CLIP))
        for stage in (
            _aligned(f"ablation-{name}-stage1", row, doubts=(_SEVEN,)),
            _ablation(
                f"ablation-{name}", f"towers compared: {row.vision.path.rpartition('/')[2]}", row,
                start=f"ablation-{name}-stage1", unverified=(_SEVEN, MIX_UNSEEN),
            ),
        )
    ),
    _ablation(
        "ablation-stage15",
        "stage 1.5, high-quality knowledge: detailed captions again",
        _CLIP,
        start="ablation-clip336-stage1",
        data=RECAP,
        mean=RECAPTIONS,
        unverified=("rates", "batch", _SEVEN, "the tower (its scores are those of CLIP-L-336)"),
    ),
    _ablation(
        "ablation-stage15-stage2",
        "stage 2 after stage 1.5",
        _CLIP,
        start="ablation-stage15",
        unverified=(_SEVEN, MIX_UNSEEN),
    ),
)  # fmt: skip


# Video (blog of 2024-04-30): pictures and videos in one mixture, so that a step holds both.

_VIDEO_DOUBTS = ("rates", "batch", "epochs", MIX_UNSEEN)
_VIDEO = (
    *(
        Stage(
            name=f"next-video-{size}",
            system="LLaVA-NeXT-Video",
            does="SFT on pictures and videos together",
            family=family(f"llava-next-video-{size}"),
            rates=full(2e-5, 2e-6),
            batch=128,
            data=(NEXT_DATA, VIDEOCHATGPT),
            mean=FEW_FILMS,
            tokens=8192,
            start=RUNS / f"next-stage1-{start}",
            rope_factor=factor,
            unverified=(*_VIDEO_DOUBTS, *more),
        )
        for size, start, factor, more in (
            # 32 frames are 4608 tokens, more than Vicuna's 4096: its release doubles them.
            ("7b", "7b", 2.0, ("that positions were stretched in training already",)),
            ("7b-32k", "mistral", None, ()),
            ("34b", "34b", None, ("how 32 frames fitted its 4096 positions",)),
        )
    ),
    Stage(
        name="next-video-32b",
        system="LLaVA-NeXT-Video",
        does="SFT on pictures and videos together",
        family=family("llava-next-video-32b-qwen"),
        rates=full(1e-5, 2e-6),
        batch=128,
        data=(NEXT_DATA, "next_video_830k.json"),
        mean=MANY_FILMS,
        tokens=8192,
        start=RUNS / "next-stage2-qwen-32b",
        unverified=(
            *_VIDEO_DOUBTS,
            "the file's name of the videos (its 830K samples were not published as one)",
        ),
    ),
)

# LLaVA-Hound's 17K pairs (arXiv 2404.01258): answers of a video model, ranked by a judge that reads captions.
_VIDEO_DPO = tuple(
    Stage(
        name=f"next-video-dpo-{size}",
        system="LLaVA-NeXT-Video",
        does="DPO from AI feedback on videos",
        family=family(f"llava-next-video-{size}-dpo"),
        rates={"language": 5e-7},
        batch=128,
        data=("sft_dpo_17k.jsonl",),
        mean=FILM_PAIRS,
        tokens=8192,
        epochs=3,
        start=RUNS / f"next-video-{size}",
        preference=PreferenceConfig(),
        schedule={"warmup": 0.1, "decay": "linear"},
        unverified=("that the tower is frozen", "frames (a frame a second in its script, 32 here)"),
    )
    for size in ("7b", "34b")
)


# Interleave (blog of 2024-06-16): goes on from a model of single pictures.

_SEVERAL = tiled(SIGLIP, AnyresConfig(pinpoints=five_grids(SIGLIP), merge="flat"))
_INTERLEAVE = tuple(
    stage
    for size in ("0.5b", "7b", "14b")
    for row in (family(f"llava-next-interleave-{size}"),)
    for stage in (
        alignment(
            f"interleave-stage1-{size}",
            row.system,
            row,
            batch=256,
            unverified=("rate", "batch"),
        ),
        Stage(
            name=f"interleave-si-{size}",
            system=row.system,
            does="stage 2, single pictures",
            family=row,
            rates=full(1e-5, 2e-6),
            batch=128,
            data=(NEXT_DATA,),
            mean=INSTRUCTIONS,
            tokens=8192,
            start=RUNS / f"interleave-stage1-{size}",
            card={"image": _SEVERAL, "video": None},
            unverified=("rates", "batch", "layouts of tiles", MIX_UNSEEN),
        ),
        Stage(
            name=f"interleave-{size}",
            system=row.system,
            does="several pictures, videos, views and tiles (M4-Instruct)",
            family=row,
            rates=full(1e-5, 2e-6),
            batch=512 if size == "0.5b" else 256,
            data=("m4_instruct_annotations.json", "m4_instruct_video.json"),
            mean=M4,
            tokens=32768,
            start=RUNS / f"interleave-si-{size}",
            # A single picture has tiles in training (a maintainer's word), several have one each.
            card={"image": _SEVERAL},
            media_front=0.5,
            unverified=(
                "rates",
                "batch",
                "the share of samples with media in front",
                "layouts of tiles",
                "frames",
            ),
        ),
    )
)

STAGES = (*_V16, *_LARGE, *_ABLATIONS, *_VIDEO, *_VIDEO_DPO, *_INTERLEAVE)
