"""LLaVA-OneVision (arXiv 2408.03326), LLaVA-Video (2410.02713), LLaVA-Critic (2410.02712).

Their data are lists that the released repository publishes: `mid_stage.yaml`, `single_image.yaml`,
`onevision.yaml`, and LLaVA-Video's `exp.yaml`.
"""

from llavakit.model.families import family
from llavakit.model.families.next_models import five_grids
from llavakit.model.families.row import tiled
from llavakit.model.formats.towers import SIGLIP
from llavakit.recipes.stage import RUNS, Mean, Stage, alignment, full
from llavakit.train.pair_settings import PreferenceConfig
from llavakit.train.policy_settings import PolicyConfig
from llavakit.train.reward_terms import RewardsConfig
from llavakit.vision.anyres import AnyresConfig

KNOWLEDGE = Mean(text=256, single=0.95)  # detailed captions and pages of text
SINGLE = Mean(text=320, single=0.86)  # one sample in seven is text alone
# 800K single pictures, 560K samples with about four, 350K videos.
MIXED = Mean(text=256, single=0.47, several=1.3, videos=0.2)
VIDEO_MIX = Mean(text=192, single=0.4, videos=0.6)  # 1.6M videos, 1.1M pictures
JUDGEMENTS = Mean(text=1024)  # a rubric, one or two answers, a reasoned verdict
CHAT_PAIRS = Mean(text=512)  # an open question and two long answers
CHAT_PROMPTS = 9422  # LLaVA-RLHF's, all of them in each round
LENGTH = 32768
# Stage 1.5 has five layouts and no threshold.
FIVE = tiled(SIGLIP, AnyresConfig(pinpoints=five_grids(SIGLIP)))
CRITIC_DATA = (
    "llava-critic-113k/pointwise/train-{00000..00005}-of-00006.parquet",
    "llava-critic-113k/pairwise/train-{00000..00004}-of-00005.parquet",
)


def _onevision(size: str) -> tuple[Stage, ...]:
    """The four stages of one size. From stage 1.5 on everything learns."""
    system, si, ov = (
        "LLaVA-OneVision",
        family(f"llava-onevision-{size}-si"),
        family(f"llava-onevision-{size}-ov"),
    )
    rates, batch = full(1e-5, 2e-6), 512 if size == "0.5b" else 256
    first = alignment(f"onevision-stage1-{size}", system, si, batch=512, tokens=8192)
    knowledge = Stage(
        name=f"onevision-stage15-{size}",
        system=system,
        does="stage 1.5, high-quality knowledge",
        family=si,
        rates=rates,
        batch=batch,
        data=("mid_stage.yaml",),
        mean=KNOWLEDGE,
        tokens=LENGTH,
        start=RUNS / first.name,
        card={"image": FIVE},
    )
    single = Stage(
        name=f"onevision-si-{size}",
        system=system,
        does="stage 2, single pictures",
        family=si,
        rates=rates,
        batch=batch,
        data=("single_image.yaml",),
        mean=SINGLE,
        tokens=LENGTH,
        start=RUNS / knowledge.name,
    )
    mixed = Stage(
        name=f"onevision-ov-{size}",
        system=system,
        does="stage 2, pictures, several pictures, videos",
        family=ov,
        rates=rates,
        batch=batch,
        data=("onevision.yaml",),
        mean=MIXED,
        tokens=LENGTH,
        start=RUNS / single.name,
    )
    return first, knowledge, single, mixed


def _video(size: str) -> Stage:
    return Stage(
        name=f"llava-video-{size}",
        system="LLaVA-Video",
        does="SFT on videos and pictures together",
        family=family(f"llava-video-{size}"),
        rates=full(1e-5, 2e-6),
        batch=256,
        data=("exp.yaml",),
        mean=VIDEO_MIX,
        tokens=LENGTH,
        start=RUNS / f"onevision-si-{size}",
        unverified=("batch", "frames (64 in the paper, 32 in the script)") if size == "72b" else (),
    )


def _critic(size: str) -> Stage:
    return Stage(
        name=f"llava-critic-{size}",
        system="LLaVA-Critic",
        does="learning to judge answers",
        family=family(f"llava-critic-{size}"),
        rates=full(2e-6, 2e-6),
        batch=32,
        data=CRITIC_DATA,
        mean=JUDGEMENTS,
        tokens=LENGTH,
        start=RUNS / f"onevision-ov-{size}",
        unverified=("that the tower learns, and at the same rate", "names of the files"),
    )


def _chat(size: str) -> Stage:
    """OV-Chat: own answers in three rounds, those that the critic likes best against those it likes least."""
    critic = {"kind": "judge", "model": str(RUNS / f"llava-critic-{size}"), "highest": 100.0}
    rewards = RewardsConfig.model_validate({"terms": {"critic": critic}})
    return Stage(
        name=f"onevision-chat-{size}",
        system="LLaVA-OneVision",
        does="DPO on own answers in three rounds, LLaVA-Critic's scores as the reward",
        family=family(f"llava-onevision-{size}-chat"),
        rates=full(5e-7, 5e-7),
        batch=64,
        data=("llava_7b_v1_preference.json",),
        mean=CHAT_PAIRS,
        tokens=LENGTH,
        epochs=3,
        start=RUNS / f"onevision-ov-{size}",
        preference=PreferenceConfig(),
        policy=PolicyConfig(
            learn="pairs", prompts=CHAT_PROMPTS, answers=5, temperature=0.7, top_p=0.9, max_tokens=1024,
            minibatches=CHAT_PROMPTS // 64, tries=1, rewards=rewards,
        ),
        schedule={"warmup": 0.1, "cycles": 3},
        unverified=(
            "batch (8 a GPU)", "the tower's rate", "length of answers", "that a round's reference is who answered",
            "that answers are scored one by one (the paper compares all 20 ordered pairs)",
        ),
    )  # fmt: skip


STAGES = (
    *(stage for size in ("0.5b", "7b", "72b") for stage in _onevision(size)),
    *(_video(size) for size in ("7b", "72b")),
    *(_critic(size) for size in ("7b", "72b")),
    *(_chat(size) for size in ("7b", "72b")),
)
