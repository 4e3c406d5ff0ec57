"""LLaVA, LLaVA-Med, LLaVA-1.5 and its HD version, LLaVA-RLHF, LLaVA-Plus: connector first, then with the decoder.

Numbers are the papers' and the released scripts' (arXiv 2304.08485, 2306.00890, 2310.03744, 2309.14525,
2311.05437).
"""

from llavakit.model.families import family
from llavakit.model.settings import LoraSettings, ModelConfig
from llavakit.recipes.stage import INSTRUCTIONS, RELEASED, RUNS, Mean, Stage, alignment
from llavakit.train.run import Run

TUNE = {"connector": 2e-5, "language": 2e-5}
MED_PAIRS = Mean(text=160)  # an instruction and a figure's caption, system text included
SHORT_ANSWERS = Mean(text=96)
WITH_TOOLS = Mean(text=768)  # thoughts, calls and results make long turns
MED_QUESTIONS = {"rad": "VQA-RAD", "slake": "SLAKE", "pathvqa": "PathVQA"}
HD_DOUBTS = ("batch", "rates", "that the tower is frozen")


def finetune() -> Run:
    """Your own data on any checkpoint: model.start=DIR data.files=FILE. Connector and language model, 2e-5."""
    return Run(
        name="finetune",
        out=RUNS / "finetune",
        model=ModelConfig(start=RUNS / "demo"),
        save_every=500,
    )


_LLAVA = (
    alignment("llava-stage1", "LLaVA", family("llava-7b"), lr=2e-3, batch=128, data="chat.json"),
    Stage(
        name="llava-stage2",
        system="LLaVA",
        does="stage 2, instruction tuning",
        family=family("llava-7b"),
        rates=TUNE,
        batch=32,
        epochs=3,
        data=("llava_instruct_150k.json",),
        mean=INSTRUCTIONS,
        start=RUNS / "llava-stage1",
    ),
)

_MED = (
    # Not `plain`: every caption answers one of many instructions. Not Vicuna either: LLaVA's own weights.
    Stage(
        name="llava-med-alignment",
        system="LLaVA-Med",
        does="stage 1, alignment",
        family=family("llava-med-7b"),
        rates={"connector": 2e-3},
        batch=128,
        data=("llava_med_alignment_500k.json",),
        mean=MED_PAIRS,
        start=RELEASED / "llava-7b-v0",
    ),
    Stage(
        name="llava-med-instruct",
        system="LLaVA-Med",
        does="stage 2, instruction tuning",
        family=family("llava-med-7b"),
        rates=TUNE,
        batch=128,
        epochs=3,
        data=("llava_med_instruct_60k_inline_mention.json",),
        mean=INSTRUCTIONS,
        start=RUNS / "llava-med-alignment",
        unverified=("batch (128 by the paper, 64 by the script)",),
    ),
    *(
        Stage(
            name=f"llava-med-vqa-{name}",
            system="LLaVA-Med",
            does=f"fine-tuning on {title}",
            family=family("llava-med-7b"),
            rates=TUNE,
            batch=128,
            epochs=3,
            data=(f"{name}_train.json",),
            mean=SHORT_ANSWERS,
            start=RUNS / "llava-med-instruct",
            unverified=(
                "batch",
                "epochs (3 in the README, 9 in checkpoint names, 15 in the paper)",
                "the file's name",
            ),
        )
        for name, title in MED_QUESTIONS.items()
    ),
)

_V15 = tuple(
    stage
    for suffix, row in {"": family("llava15-7b"), "-13b": family("llava15-13b")}.items()
    for stage in (
        alignment(f"llava15-stage1{suffix}", "LLaVA-1.5", row, batch=256),
        Stage(
            name=f"llava15-stage2{suffix}",
            system="LLaVA-1.5",
            does="stage 2, instruction tuning",
            family=row,
            rates=TUNE,
            batch=128,
            data=("llava_v1_5_mix665k.json",),
            mean=INSTRUCTIONS,
            start=RUNS / f"llava15-stage1{suffix}",
        ),
        Stage(
            name=f"llava15-lora{suffix}",
            system="LLaVA-1.5",
            does="stage 2, instruction tuning with LoRA",
            family=row,
            rates={"connector": 2e-5, "language": 2e-4},
            batch=128,
            data=("llava_v1_5_mix665k.json",),
            mean=INSTRUCTIONS,
            start=RUNS / f"llava15-stage1{suffix}",
            lora=LoraSettings(),
        ),
    )
)

_HD = (
    alignment(
        "llava15-hd-stage1", "LLaVA-1.5-HD", family("llava15-hd-13b"), batch=256,
        unverified=HD_DOUBTS[:2],
    ),
    Stage(
        name="llava15-hd-stage2",
        system="LLaVA-1.5-HD",
        does="stage 2, instruction tuning",
        family=family("llava15-hd-13b"),
        rates=TUNE,
        batch=128,
        data=("llava_v1_5_mix665k.json",),
        mean=INSTRUCTIONS,
        start=RUNS / "llava15-hd-stage1",
        unverified=HD_DOUBTS,
    ),
)  # fmt: skip

_RLHF = tuple(
    stage
    for size in ("7b", "13b")
    for stage in (
        alignment(
            f"llava-rlhf-stage1-{size}", "LLaVA-RLHF", family(f"llava-rlhf-{size}"),
            lr=2e-3, batch=128, unverified=("that pictures are cut square in this stage",),
        ),
        Stage(
            name=f"llava-rlhf-sft-{size}",
            system="LLaVA-RLHF",
            does="SFT+",
            family=family(f"llava-rlhf-{size}"),
            rates=TUNE,
            batch=128,
            epochs=3,
            data=("mix-llava-sft90k-vqav2_83k-okvqa_16k-flickr_23k.json",),
            mean=INSTRUCTIONS,
            start=RUNS / f"llava-rlhf-stage1-{size}",
        ),
        # Where its PPO starts: the first policy, and the reference it must stay near.
        Stage(
            name=f"llava-rlhf-rl-init-{size}",
            system="LLaVA-RLHF",
            does="RL-init",
            family=family(f"llava-rlhf-{size}"),
            rates={"language": 1e-4},
            batch=128,
            data=("llava_reward10k-aokvqa5k.json",),
            mean=INSTRUCTIONS,
            start=RUNS / f"llava-rlhf-sft-{size}",
            lora=LoraSettings(r=64, alpha=16, dropout=0.0),
        ),
    )
)  # fmt: skip

_PLUS = (
    Stage(
        name="llava-plus-sft",
        system="LLaVA-Plus",
        does="instruction tuning with tools",
        family=family("llava-plus-7b"),
        rates=TUNE,
        batch=256,
        epochs=3,
        data=("llava-150k-tool-aug.json", "llava-plus-v1-117k-tool-merge.json"),
        mean=WITH_TOOLS,
        start=RUNS / "llava-stage1",
        unverified=("batch (128 to 256: on 4 to 8 GPUs)",),
    ),
)

STAGES = (*_LLAVA, *_MED, *_V15, *_HD, *_RLHF, *_PLUS)
