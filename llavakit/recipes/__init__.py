"""Level 6: one function per released stage, each returning a complete Run."""

from collections.abc import Callable

from llavakit.recipes import llava
from llavakit.train.run import Run

RECIPES: dict[str, Callable[[], Run]] = {
    "llava-stage1": llava.llava_stage1,
    "llava-stage2": llava.llava_stage2,
    "llava15-stage1": llava.llava15_stage1,
    "llava15-stage2": llava.llava15_stage2,
    "llava15-lora": llava.llava15_lora,
    "finetune": llava.finetune,
}
