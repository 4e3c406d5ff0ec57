"""LLaVA and LLaVA-1.5: the two published stages, as complete runs; and fine-tuning on data of your own.

Numbers are the papers' and the released scripts' (arXiv 2304.08485, 2310.03744). Batches there count samples;
here a step is a number of packed rows, chosen to hold about as many samples of the published data.
"""

from pathlib import Path

from llavakit.data.loader import DataConfig
from llavakit.model.adapters import LoraSettings
from llavakit.model.build import ModelConfig
from llavakit.model.families import family
from llavakit.train.optim import LearningRates, OptimConfig
from llavakit.train.run import Run


def llava_stage1(name: str = "llava-7b") -> Run:
    """LLaVA, feature alignment: connector only, 2e-3, 595K captions, about 128 samples a step."""
    return _stage1(name, "llava-stage1", lr=2e-3, rows=10, data="chat.json")


def llava_stage2(name: str = "llava-7b") -> Run:
    """LLaVA, instruction tuning: connector and language model, 2e-5, 158K instructions, 3 epochs, 32 a step."""
    start = Path("runs/llava-stage1")
    return _stage2(name, "llava-stage2", start=start, rows=6, epochs=3.0, data="llava_instruct_150k.json")


def llava15_stage1(name: str = "llava15-7b") -> Run:
    """LLaVA-1.5, alignment: connector only, 1e-3, 558K captions, square crops, about 256 samples a step."""
    return _stage1(name, "llava15-stage1", lr=1e-3, rows=38, data="blip_laion_cc_sbu_558k.json")


def llava15_stage2(name: str = "llava15-7b") -> Run:
    """LLaVA-1.5, instruction tuning: connector and language model, 2e-5, 665K mix, about 128 samples a step."""
    start = Path("runs/llava15-stage1")
    return _stage2(name, "llava15-stage2", start=start, rows=32, epochs=1.0, data="llava_v1_5_mix665k.json")


def llava15_lora(name: str = "llava15-7b") -> Run:
    """LLaVA-1.5, instruction tuning with LoRA (r 128, alpha 256): adapters 2e-4, connector 2e-5, 128 a step."""
    full = llava15_stage2(name)
    rates = LearningRates(connector=2e-5, language=2e-4)
    return full.model_copy(
        update={
            "name": "llava15-lora",
            "out": Path("runs/llava15-lora"),
            "model": full.model.model_copy(update={"lora": LoraSettings()}),
            "optim": full.optim.model_copy(update={"lr": rates}),
        }
    )


def finetune() -> Run:
    """Your own data on any checkpoint: model.start=DIR data.files=FILE. Connector and language model, 2e-5."""
    return Run(
        name="finetune",
        out=Path("runs/finetune"),
        model=ModelConfig(start=Path("runs/demo")),
        save_every=500,
    )


def _stage1(name: str, run: str, *, lr: float, rows: int, data: str) -> Run:
    """Captions under the `plain` template; images are cropped square in this stage, whatever follows."""
    row = family(name)
    square = row.card.image.model_copy(update={"kind": "square", "anyres": None})
    return Run(
        name=run,
        out=Path("runs") / run,
        train=("connector",),
        model=row.model(template="plain", image=square),
        data=DataConfig(files=(Path("data") / data,)),
        optim=OptimConfig(lr=LearningRates(connector=lr), rows=rows),
        save_every=500,
    )


def _stage2(name: str, run: str, *, start: Path, rows: int, epochs: float, data: str) -> Run:
    return Run(
        name=run,
        out=Path("runs") / run,
        train=("connector", "language"),
        model=family(name).model(start=start),
        data=DataConfig(files=(Path("data") / data,)),
        optim=OptimConfig(lr=LearningRates(connector=2e-5, language=2e-5), rows=rows, epochs=epochs),
        save_every=500,
    )
