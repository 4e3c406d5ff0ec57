"""A benchmark answered: `llavakit eval`, and `generate` of transformers in batches, with the same weights.

python -m benchmarks.eval --model runs/demo [--pictures 1000] [--runs 3]     # a picture is one row of the decoder
python -m benchmarks.eval --model smol [--pictures 100]                      # 196 rows, as in benchmarks/serve.py

easy-vqa has 9,673 test questions about 1,000 pictures. Ours asks all questions of a picture one after the other, so
what they begin with is computed once; `generate` gets batches of questions, longest with longest, padded on the
left, each with its picture, at the fastest of several batch sizes and number formats. Both stop at the model's own
end; the shares of right answers are given (`smol`, whose tower is random: of equal ones). `computed_tokens` are
those that a prompt costs ours after what it shares: prompt_tokens / computed_tokens is what sharing alone can give.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import __version__ as transformers_version

from benchmarks import smol
from benchmarks.machine import in_turn, median, report
from llavakit.chat import load
from llavakit.core.memory import keep_freed_memory
from llavakit.data.encode import Encoder, Sample
from llavakit.data.pack import collate
from llavakit.engine.decoder import Weights
from llavakit.engine.sampler import Sampling
from llavakit.eval.answers import open_answers
from llavakit.eval.ask import ask_all
from llavakit.eval.plan import Plan, plan_tasks
from llavakit.model import checkpoint

TASK = "easy-vqa"
SMALLEST = 32  # questions in a batch of `generate`: doubled as long as that is faster
WORDS = 3  # tokens of an answer of `smol`; what easy-vqa's answers have with their end


class Ours:
    """What `llavakit eval` does: chunks of neighbours, answers written as they come."""

    def __init__(self, model: Path, plan: Plan, weights: Weights, sampling: Sampling) -> None:
        self.chat, self.plan, self.sampling = load(model, weights=weights), plan, sampling
        self.said: list[str] = []
        self.asked = 0

    def run(self, _: int) -> float:
        """Questions a second."""
        self.asked += len(self.plan.questions)
        self.chat.engine.refresh({})  # nothing of the run before is used
        began = time.perf_counter()
        with (
            tempfile.TemporaryDirectory() as folder,
            open_answers(Path(folder) / "answers", {}) as (answers, out),
        ):
            ask_all(
                self.chat,
                self.plan.questions,
                answers,
                out,
                sampling=self.sampling,
                on_bad="stop",
                title=TASK,
            )
            seconds = time.perf_counter() - began
            self.said = [answers.given[question.id].answer for question in self.plan.questions]
        return len(self.plan.questions) / seconds

    def tokens(self) -> dict[str, float]:
        """Tokens of a prompt, and those of them that were computed: means."""
        stats = self.chat.engine.stats()
        mean = stats.prompt_tokens / self.asked, (stats.prompt_tokens - stats.copied_tokens) / self.asked
        return dict(zip(("prompt_tokens", "computed_tokens"), (round(each, 2) for each in mean), strict=True))


class Generate:
    """The decoder's own `generate` on padded batches; tower and connector see the pictures of a batch at once."""

    def __init__(self, model: Path, plan: Plan, sampling: Sampling) -> None:
        self.plan, self.sampling = plan, sampling
        self.said: list[str] = []
        loaded = checkpoint.load(model)
        self.model = loaded.model.eval()
        self.encoder = Encoder(loaded.tokenizer, loaded.card.prompt(), loaded.card.image, loaded.card.video)
        self.stops = sorted(self.encoder.tokenizer.stop_ids(self.encoder.template))
        self.model.language.set_attn_implementation("sdpa")
        self.size = SMALLEST
        self.size, self.dtype = self._choose()

    def _choose(self) -> tuple[int, torch.dtype]:
        """The fastest batch size and number format on some of the questions."""
        self.answers([question.conversation for question in self.plan.questions[: self.size]])  # to warm up
        rates: dict[tuple[int, torch.dtype], float] = {}
        for dtype in (torch.bfloat16, torch.float32):
            self.model.to(dtype)
            self.size, before = SMALLEST, 0.0
            while (rate := self._try()) > before:
                print(f"generate, {self.size} at once, {dtype}: {rate:.1f} questions/s", flush=True)
                rates[self.size, dtype] = before = rate
                if 2 * self.size > len(self.plan.questions):
                    break
                self.size *= 2
        size, dtype = max(rates, key=lambda key: rates[key])
        self.model.to(dtype)
        return size, dtype

    def _try(self) -> float:
        """Questions a second in two batches of this size."""
        few = self.plan.questions[: 2 * self.size]
        began = time.perf_counter()
        self.answers([question.conversation for question in few])
        return len(few) / (time.perf_counter() - began)

    def run(self, _: int) -> float:
        """Questions a second."""
        questions = self.plan.questions
        began = time.perf_counter()
        self.said = self.answers([question.conversation for question in questions])
        return len(questions) / (time.perf_counter() - began)

    def answers(self, talks: Sequence) -> list[str]:
        samples = [self.encoder.encode(talk, open_turn=True) for talk in talks]
        order = sorted(range(len(samples)), key=lambda number: samples[number].num_tokens)
        said = [""] * len(samples)
        for at in range(0, len(order), self.size):
            chosen = order[at : at + self.size]
            for number, text in zip(chosen, self._batch([samples[each] for each in chosen]), strict=True):
                said[number] = text
        return said

    @torch.inference_mode()
    def _batch(self, samples: list[Sample]) -> list[str]:
        tiles = [media.tiles() for sample in samples for media in sample.media]
        x_TD = self.model.embed(collate(samples, tiles, learn=False))
        pieces = x_TD.split([sample.num_tokens for sample in samples])
        longest = max(len(piece) for piece in pieces)
        x_BTD = x_TD.new_zeros(len(pieces), longest, x_TD.shape[1])
        mask_BT = torch.zeros(len(pieces), longest, dtype=torch.long)
        for row, piece in enumerate(pieces):
            x_BTD[row, longest - len(piece) :] = piece
            mask_BT[row, longest - len(piece) :] = 1
        ids = self.model.language.generate(
            inputs_embeds=x_BTD, attention_mask=mask_BT, do_sample=False, eos_token_id=self.stops,
            pad_token_id=self.stops[0], max_new_tokens=self.sampling.max_tokens,
        )  # fmt: skip
        return [
            text.strip() for text in self.encoder.tokenizer.hf.batch_decode(ids, skip_special_tokens=True)
        ]


def questions_about(count: int) -> Plan:
    """All questions about the first `count` pictures."""
    [plan] = plan_tasks([TASK], None, None, None)
    kept = set(list(dict.fromkeys(question.parts[0] for question in plan.everything))[:count])
    return Plan(TASK, plan.folder, None, tuple(q for q in plan.everything if q.parts[0] in kept))


def facts_of(plan: Plan, ours: list[str], peer: list[str], *, trained: bool) -> dict[str, float]:
    """What was said by both sides: shares of right answers, or of equal ones."""
    equal = sum(one == other for one, other in zip(ours, peer, strict=True)) / len(ours)
    _, rules = plan.benchmark.choose(None)
    right = [rules.aggregate(plan.questions, rules.judge(plan.questions, said)) for said in (ours, peer)]
    points = {"accuracy": right[0]["accuracy"], "accuracy_of_peer": right[1]["accuracy"]} if trained else {}
    return {name: round(value, 2) for name, value in (points | {"equal": 100 * equal}).items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="runs/demo", help="a checkpoint of the demo, or smol")
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument(
        "--weights", choices=("as_is", "bf16", "int8", "int4"), default="bf16", help="of ours"
    )
    arguments = parser.parse_args()
    keep_freed_memory()
    plan, trained = questions_about(arguments.pictures), arguments.model != "smol"
    sampling = Sampling(max_tokens=plan.benchmark.max_tokens if trained else WORDS)
    with tempfile.TemporaryDirectory() as folder:
        model = Path(arguments.model)
        if not trained:
            model = Path(folder) / "smol"
            checkpoint.save(smol.build_model(), model)
        ours, peer = Ours(model, plan, arguments.weights, sampling), Generate(model, plan, sampling)
    ours.run(0)  # once, to warm up
    sides = {"ours": ours.run, "peer": peer.run}
    rates = {name: median(found) for name, found in in_turn(sides, arguments.runs).items()}
    report(
        f"{len(plan.questions)} questions about {arguments.pictures} pictures, against generate in batches",
        round(rates["ours"], 1),
        {"name": f"generate, {peer.size} at once, {str(peer.dtype)[6:]}", "version": transformers_version,
         "value": round(rates["peer"], 1)},
        "questions/s", better="higher", runs=arguments.runs, weights=arguments.weights,
        **ours.tokens(),
        **facts_of(plan, ours.said, peer.said, trained=trained),
    )  # fmt: skip


if __name__ == "__main__":
    main()
