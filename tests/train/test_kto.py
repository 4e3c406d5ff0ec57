"""Learning from single answers (KTO): rows equal separate sequences, the divergence is that of the whole step."""

import json
from dataclasses import replace

import pytest
import torch

from llavakit.core import config as settings
from llavakit.core.errors import ConfigError, DataError
from llavakit.core.types import MARKS
from llavakit.data.encode import Encoder
from llavakit.data.loader import Loader, Position
from llavakit.data.pack import collate
from llavakit.data.settings import DataConfig
from llavakit.text.templates import template
from llavakit.train.answers import answer_logprobs
from llavakit.train.kto import Kto
from llavakit.train.kto_settings import KtoConfig
from llavakit.train.loop import train, train_step
from llavakit.train.metrics import read_metrics
from llavakit.train.ranks import ALONE
from llavakit.train.reference import CopiedReference
from tests import tiny
from tests.train.test_loop import interrupt_after, tiny_run, weights
from tests.train.test_preference import COLORS, alone

CONFIG = KtoConfig(beta=0.5, desirable_weight=1.5, undesirable_weight=0.5)


def write_answers(folder, count: int = 12, prompts: int = 12):
    """Answers in turn wanted and not, and one pair: a record of two."""
    tiny.picture(folder / "x.png")
    rows = [
        {
            "images": ["x.png"], "prompt": f"What color is shape {number % prompts}?", "label": number % 2 == 0,
            "completion": COLORS[number % 3] if number % 2 == 0 else f"a {COLORS[number % 3]} one, I think",
        }
        for number in range(count - 1)
    ]  # fmt: skip
    asked = f"What color is shape {(count - 1) % prompts}?"
    rows.append({"images": ["x.png"], "prompt": asked, "chosen": "red", "rejected": "hard to say"})
    (folder / "answers.json").write_text(json.dumps(rows))
    return folder / "answers.json"


def loader(tmp_path, tokens: int = 4000, **changes) -> Loader:
    encoder = Encoder(tiny.byte_level_tokenizer(), template("chatml"), tiny.IMAGE)
    config = DataConfig(files=(write_answers(tmp_path, **changes),), tokens=tokens)
    return Loader(config, encoder, seed=0, judged=True)


def rows_of(tmp_path, tokens: int) -> list:
    """The batches of one epoch."""
    source = loader(tmp_path, tokens)
    found, answers = [], 0
    for batch, _ in source.batches(Position()):
        found.append(batch)
        answers += int(batch.answers_L.max()) + 1
        if answers == 25:  # eleven answers and a pair, each with an answer to another prompt
            return found
    raise AssertionError


def moved_model():
    """A model, what it was before, and the reference that knows that."""
    model = tiny.checkpoint().model
    reference = CopiedReference(model)
    torch.manual_seed(1)
    with torch.no_grad():
        for param in model.connector.parameters():
            param.add_(0.05 * torch.randn_like(param))
    return model, tiny.checkpoint().model, reference


def test_a_sample_has_an_answer_to_the_nearest_other_prompt(tmp_path):
    source = loader(tmp_path, prompts=11, count=12)  # the last record asks what the first one asks
    decode = source.encoder.tokenizer.hf.decode
    for index, marks, other in ((1, (0, -1), "red"), (0, (1, -1), "green"), (11, (1, 0, -1), "green")):
        sample = source._encode(source.records[index], index)
        leaf = sample.leaves[-1]
        assert sample.marks == marks and len(sample.leaves) == len(marks)
        assert decode(sample.ids[leaf.start : leaf.end]).strip().startswith(other)
    assert source.samples(source.records[1]).marks == (0,)


def test_without_another_prompt_there_is_nothing_to_measure(tmp_path):
    source = loader(tmp_path, prompts=1)
    with pytest.raises(DataError, match=r"answers.json:\d+: none of 64 records before it has another prompt"):
        source._encode(source.records[0], 0)


def test_a_row_costs_what_separate_sequences_cost(tmp_path):
    """The loss and its divergence, from the sums of log-probabilities of every sequence on its own."""
    source, (model, before, reference) = loader(tmp_path), moved_model()
    samples = [source._encode(record, index) for index, record in enumerate(source.records)]
    tiles = [[media.tiles() for media in sample.media] for sample in samples]
    ratios = {1: [], 0: [], -1: []}
    for sample, shown in zip(samples, tiles, strict=True):
        for mark, leaf in zip(sample.marks, sample.leaves, strict=True):
            row = collate([alone(sample, leaf)], shown)
            now, then = (answer_logprobs(each, row)[0].item() for each in (model, before))
            ratios[mark].append(now - then)
    divergence = max(0.0, sum(ratios[-1]) / len(ratios[-1]))
    assert divergence > 0.01
    sigmoid = lambda value: 1 / (1 + torch.exp(torch.tensor(-value)))  # noqa: E731
    wanted = sum(1 - sigmoid(CONFIG.beta * (ratio - divergence)) for ratio in ratios[1])
    unwanted = sum(1 - sigmoid(CONFIG.beta * (divergence - ratio)) for ratio in ratios[0])
    batch = collate(samples, [tile for shown in tiles for tile in shown])
    loss, report = train_step(model, Kto(CONFIG, reference), [batch], precision="float32")
    assert loss == pytest.approx(float(1.5 * wanted + 0.5 * unwanted) / 13, rel=1e-4)
    assert report["kl"] == pytest.approx(divergence, rel=1e-4)
    assert report["rewards/chosen"] == pytest.approx(0.5 * sum(ratios[1]) / len(ratios[1]), rel=1e-3)
    assert report["rewards/rejected"] == pytest.approx(0.5 * sum(ratios[0]) / len(ratios[0]), rel=1e-3)


def test_any_split_of_a_step_gives_the_same_gradient(tmp_path):
    def gradients(tokens: int):
        model, _, reference = moved_model()
        rows = rows_of(tmp_path, tokens)
        found = train_step(model, Kto(CONFIG, reference), rows, precision="float32")
        return len(rows), found, [param.grad for param in model.parameters() if param.grad is not None]

    one, (whole, figures), mine = gradients(4000)
    several, (split, others), theirs = gradients(150)
    assert one == 1 and several > 2
    assert whole == pytest.approx(split, rel=1e-5)
    assert figures == pytest.approx(others, rel=1e-4, abs=1e-6)
    for each, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(each, other, rtol=1e-3, atol=1e-6)


def test_nothing_learns_through_the_answers_to_other_prompts(tmp_path):
    model, _, reference = moved_model()
    objective, weight = Kto(CONFIG, reference), model.connector[-1].weight
    [batch] = objective.prepare(model, rows_of(tmp_path, 4000), ALONE)
    muted = replace(batch, weights_L=torch.where(batch.columns[MARKS] < 0, 0.0, batch.weights_L))
    [mine], [theirs] = (
        torch.autograd.grad(objective.loss(model, each).terms["answers"], [weight]) for each in (batch, muted)
    )
    assert mine.abs().sum() > 0
    torch.testing.assert_close(mine, theirs)


def kto_run(tmp_path, name="kto", **changes):
    run = tiny_run(tmp_path, name, **{"data.tokens": 250, "optim.lr": 1e-3})
    run = settings.override(run, [f"data.files={write_answers(tmp_path)}", "kto={beta: 0.5}"])
    return settings.override(run, [f"{key}={value}" for key, value in changes.items()])


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_the_first_step_costs_one_half_and_the_answers_part(tmp_path, precision):
    run = kto_run(tmp_path, precision=precision, **{"eval.files": write_answers(tmp_path), "eval.every": 6})
    train(run)
    rows = read_metrics(run.out / "metrics.jsonl")
    assert rows[0]["loss"] == pytest.approx(0.5, abs=1e-3) and rows[0]["kl"] == pytest.approx(0, abs=1e-3)
    assert rows[-1]["loss"] < 0.45
    assert rows[-1]["rewards/chosen"] > 0.2 > -0.2 > rows[-1]["rewards/rejected"]
    assert rows[-1]["eval_loss"] < 0.45 and rows[-1]["eval_rewards/accuracies"] > 0.8


def test_a_resumed_run_keeps_its_reference(tmp_path):
    plain = kto_run(tmp_path, "plain")
    train(plain)
    run = kto_run(tmp_path, "stopped")
    interrupt_after(run, 3)
    train(run, resume=True)
    assert all(torch.equal(weights(run)[key], tensor) for key, tensor in weights(plain).items())


def test_what_cannot_go_together_is_told(tmp_path):
    run = kto_run(tmp_path)
    with pytest.raises(ConfigError, match="a run learns one of preference, kto"):
        settings.override(run, ["preference={}"])
    with pytest.raises(ConfigError, match=r"kto needs model.start"):
        train(run.model_copy(update={"model": run.model.model_copy(update={"start": None})}))
    with pytest.raises(ConfigError, match="beta"):
        settings.override(run, ["kto.beta=0"])
