"""Learning from pairs: rows with shared prompts equal separate sequences; the reference is where a run began."""

import json
import math

import pytest
import torch

from llavakit.core import config as settings
from llavakit.core.errors import ConfigError
from llavakit.core.types import Segment
from llavakit.data.encode import Encoder, Sample
from llavakit.data.loader import Loader, Position
from llavakit.data.pack import collate
from llavakit.data.settings import DataConfig
from llavakit.model.adapters import adapter_parameters, add_adapters, learn_adapters_only
from llavakit.model.settings import LoraSettings
from llavakit.text.templates import template
from llavakit.train.answers import answer_logprobs
from llavakit.train.loop import train, train_step
from llavakit.train.metrics import read_metrics
from llavakit.train.pair_settings import PreferenceConfig
from llavakit.train.preference import Preference
from llavakit.train.reference import CopiedReference, switch_off_dropout
from tests import tiny
from tests.train.test_loop import interrupt_after, tiny_run, weights

COLORS = ["red", "green", "blue"]


def write_pairs(folder, count: int = 12):
    tiny.picture(folder / "x.png")
    rows = [
        {
            "image": "x.png", "prompt": f"<image>\nWhat color is shape {number}?",
            "chosen": COLORS[number % 3], "rejected": f"a {COLORS[(number + 1) % 3]} one, I think",
        }
        for number in range(count)
    ]  # fmt: skip
    (folder / "pairs.json").write_text(json.dumps(rows))
    return folder / "pairs.json"


def preference_run(tmp_path, name="dpo", **changes):
    run = tiny_run(tmp_path, name, **{"data.tokens": 200, "optim.lr": 1e-3})
    run = settings.override(run, [f"data.files={write_pairs(tmp_path)}", "preference={beta: 0.5}"])
    return settings.override(run, [f"{key}={value}" for key, value in changes.items()])


def loader(tmp_path, tokens: int = 4000) -> Loader:
    encoder = Encoder(tiny.byte_level_tokenizer(), template("chatml"), tiny.IMAGE)
    config = DataConfig(files=(write_pairs(tmp_path),), tokens=tokens)
    return Loader(config, encoder, seed=0, pairs=True)


def one_batch(tmp_path, tokens: int = 4000):
    return next(loader(tmp_path, tokens).batches(Position()))[0]


def test_dropout_that_attention_keeps_as_a_number_is_switched_off_too(tmp_path):
    model, batch = tiny.checkpoint().model, one_batch(tmp_path)
    for layer in model.language.model.layers:
        layer.self_attn.attention_dropout = 0.5
    steady = model.eval().hidden(batch)
    assert not torch.allclose(model.train().hidden(batch), steady)
    switch_off_dropout(model)
    torch.testing.assert_close(model.hidden(batch), steady, rtol=0, atol=0)


def alone(sample: Sample, leaf: Segment) -> Sample:
    """The prompt and one of the answers as a sequence of their own."""
    [prompt, *_] = sample.segments
    keep = [*range(prompt.start, prompt.end), *range(leaf.start, leaf.end)]
    ids, weights = (tuple(values[at] for at in keep) for values in (sample.ids, sample.weights))
    return Sample(ids, weights, (Segment(0, len(ids)),), sample.media)


def test_answers_of_a_row_are_those_of_separate_sequences(tmp_path):
    model = tiny.checkpoint().model
    source = loader(tmp_path)
    samples = [source.samples(record) for record in source.records]
    packed = collate(samples, [media.tiles() for sample in samples for media in sample.media])
    together, tokens = answer_logprobs(model, packed)
    separate = []
    for sample in samples:
        for leaf in sample.leaves:
            row = collate([alone(sample, leaf)], [media.tiles() for media in sample.media])
            separate.append(answer_logprobs(model, row))
    torch.testing.assert_close(together, torch.cat([value for value, _ in separate]), rtol=1e-5, atol=1e-5)
    assert tokens.tolist() == torch.cat([count for _, count in separate]).tolist()
    # Image and prompt stand in the row once, not once an answer.
    assert packed.num_tokens < sum(sample.num_tokens for sample in samples)


def test_the_first_step_costs_the_log_of_two_and_moves_apart(tmp_path):
    run = preference_run(tmp_path)
    train(run)
    rows = read_metrics(run.out / "metrics.jsonl")
    assert rows[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert rows[0]["rewards/margins"] == pytest.approx(0, abs=1e-5)
    assert rows[-1]["loss"] < 0.95 * math.log(2)
    assert rows[-1]["rewards/margins"] > 0.05


def test_in_bf16_too_the_policy_answers_with_its_own_weights(tmp_path):
    """Autocast remembers weights in bf16: those of the reference must not serve for the policy."""
    margins = {}
    for precision in ("float32", "bf16"):
        run = preference_run(tmp_path, precision, **{"precision": precision, "optim.steps": 3})
        train(run)
        rows = read_metrics(run.out / "metrics.jsonl")
        margins[precision] = [row["rewards/margins"] for row in rows[1:]]
    assert margins["bf16"] == pytest.approx(margins["float32"], rel=0.1)


@pytest.mark.parametrize("lora", ["{r: 4}", "{r: 4, dropout: 0.5}"])
def test_the_reference_of_adapters_is_what_they_start_from(tmp_path, lora):
    """Fresh ones, and ones that go on from a run with adapters: the first step is log 2 both times."""
    first = preference_run(tmp_path, "fresh", **{"model.lora": lora, "train": "[language]"})
    train(first)
    changes = {"train": "[language]", "model.lora": lora, "model.start": first.out}
    second = preference_run(tmp_path, "more", **changes)
    train(second)
    for run in (first, second):
        assert read_metrics(run.out / "metrics.jsonl")[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)


def test_a_resumed_run_keeps_its_reference(tmp_path):
    plain = preference_run(tmp_path, "plain")
    train(plain)
    run = preference_run(tmp_path, "stopped")
    interrupt_after(run, 3)
    train(run, resume=True)
    assert all(torch.equal(weights(run)[key], tensor) for key, tensor in weights(plain).items())


def test_fresh_adapters_are_switched_off_in_the_place_of_copies(tmp_path):
    """The reference is the base to the bit, whatever the adapters have become; they learn on, and stay in use."""
    model, lora = tiny.checkpoint().model, LoraSettings(r=4)
    batch = one_batch(tmp_path)
    plain = CopiedReference(model).logprobs(model, batch, 1.0)
    add_adapters(model, lora)
    model.requires_grad_(False)
    learn_adapters_only(model.language)
    reference = CopiedReference(model, adapted=True)
    assert reference.copies == {}
    with torch.no_grad():
        for parameter in adapter_parameters(model.language).values():
            parameter.add_(0.02 * torch.randn_like(parameter))
    assert torch.equal(reference.logprobs(model, batch, 1.0), plain)
    train_step(model, Preference(PreferenceConfig(), reference), [batch], precision="float32")
    gradients = [each.grad for each in adapter_parameters(model.language).values()]
    assert all(each is not None for each in gradients)
    assert sum(float(each.abs().sum()) for each in gradients) > 0
    assert not torch.equal(answer_logprobs(model, batch)[0], plain)
    moved = CopiedReference(model, adapted=True)  # adapters that go on from others are copied
    assert set(moved.copies) == {name for name, each in model.named_parameters() if each.requires_grad}


@pytest.mark.parametrize("loss", ["mpo", "{sigmoid: 1.0, sft: 0.5}", "orpo"])
def test_any_split_of_a_step_gives_the_same_gradient(tmp_path, loss):
    config = settings.override(PreferenceConfig(), [f"loss={loss}"])

    def gradients(tokens: int):
        model = tiny.checkpoint().model
        batches = [one_batch(tmp_path)] if tokens > 1000 else rows_of(tmp_path, tokens)
        reference = CopiedReference(model)
        torch.manual_seed(1)
        with torch.no_grad():
            for param in model.connector.parameters():
                param.add_(0.05 * torch.randn_like(param))  # away from the reference
        found = train_step(model, Preference(config, reference), batches, precision="float32")
        return found, [param.grad for param in model.parameters() if param.grad is not None]

    (whole, figures), mine = gradients(4000)
    (split, others), theirs = gradients(150)
    assert whole == pytest.approx(split, rel=1e-5)
    assert figures == pytest.approx(others, rel=1e-4, abs=1e-6)
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


def rows_of(tmp_path, tokens: int):
    """The batches of one epoch."""
    rows = []
    for batch, after in loader(tmp_path, tokens).batches(Position()):
        if after.epoch:
            break
        rows.append(batch)
        if sum(int(row.answers_L.max()) + 1 for row in rows) == 24:
            break
    assert len(rows) > 2
    return rows


def test_a_preference_needs_a_model_to_start_from(tmp_path):
    run = preference_run(tmp_path)
    fresh = run.model_copy(update={"model": run.model.model_copy(update={"start": None})})
    with pytest.raises(ConfigError, match=r"preference needs model.start"):
        train(fresh)


@pytest.mark.parametrize(
    ("loss", "what"),
    [
        ("sigmod", "sigmoid"),
        ("{sigmoid: -1}", r"loss.sigmoid=-1: input should be greater than 0"),
        ("{}", "is empty"),
    ],
)
def test_a_loss_that_is_none_is_named(loss, what):
    with pytest.raises(ConfigError, match=what):
        settings.override(PreferenceConfig(), [f"loss={loss}"])


def test_a_longer_answer_counts_less_beyond_the_shorter_one(tmp_path):
    """LD-DPO against the definition: the tokens behind the length of the other answer, times the weight."""
    model, batch = tiny.checkpoint().model, one_batch(tmp_path)
    whole, tokens = answer_logprobs(model, batch)
    none, _ = answer_logprobs(model, batch, 0.0)
    half, _ = answer_logprobs(model, batch, 0.5)
    shorter = tokens.view(-1, 2).amin(dim=1)
    assert (tokens[0::2] == shorter).all() and (tokens[1::2] > shorter).any()
    torch.testing.assert_close(none[0::2], whole[0::2])
    torch.testing.assert_close(half, (whole + none) / 2)
    assert (none[1::2] > whole[1::2]).any()


def test_what_answers_share_counts_less_than_what_they_do_not(tmp_path):
    """RLHF-V against its definition, token by token: (shared + 5 x changed) / (how many + 5 x how many)."""
    model = tiny.checkpoint().model
    encoder = Encoder(tiny.byte_level_tokenizer(), template("chatml"), tiny.IMAGE)
    file = tmp_path / "pair.json"
    pair = {
        "prompt": "What is it?",
        "chosen": "It is a red circle.",
        "rejected": "It is a blue, large circle.",
    }
    file.write_text(json.dumps([pair]))

    def read(weight: float) -> Sample:
        source = Loader(DataConfig(files=(file,)), encoder, seed=0, pairs=True, changed_weight=weight)
        return source.samples(source.records[0])

    plain, weighed = read(1.0), read(5.0)
    assert (plain.ids, plain.segments) == (weighed.ids, weighed.segments)
    means = []
    for leaf in plain.leaves:
        words = [encoder.tokenizer.hf.decode([token]) for token in plain.ids[leaf.start : leaf.end]]
        changed = [weight == 5.0 for weight in weighed.weights[leaf.start : leaf.end]]
        assert (
            "".join(word for word, new in zip(words, changed, strict=True) if not new)
            == "It is a circle.<|im_end|>"
        )
        row = collate([alone(plain, leaf)])
        logits = model.logits(model.hidden(row)[row.predict_L]).log_softmax(-1)
        each = logits.gather(1, row.labels_L[:, None])[:, 0]
        counts = torch.tensor([5.0 if new else 1.0 for new in changed])
        means.append((each * counts).sum() / counts.sum())
    config = PreferenceConfig(loss={"sigmoid_norm": 1.0}, beta=0.5, changed_weight=5.0)
    found = Preference(config, CopiedReference(tiny.checkpoint(seed=1).model)).loss(model, collate([weighed]))
    with_reference = answer_logprobs(tiny.checkpoint(seed=1).model, collate([weighed]))
    held = with_reference[0] / with_reference[1]
    margin = (means[0] - held[0]) - (means[1] - held[1])
    torch.testing.assert_close(found.terms["pairs"], -torch.nn.functional.logsigmoid(0.5 * margin))


def test_lengths_and_likelihoods_of_a_step_are_told(tmp_path):
    batch = one_batch(tmp_path)
    model = tiny.checkpoint().model
    objective = Preference(PreferenceConfig(), CopiedReference(model))
    _, figures = train_step(model, objective, [batch], precision="float32")
    lengths = torch.bincount(batch.answers_L).float()
    with torch.no_grad():
        logprobs, _ = answer_logprobs(model, batch)
    assert figures["length_ratio"] == pytest.approx(float((lengths[0::2] / lengths[1::2]).mean()))
    assert figures["tokens_chosen_more"] == pytest.approx(float((lengths[0::2] - lengths[1::2]).mean()))
    assert figures["logprob_chosen"] == pytest.approx(float(logprobs[0::2].sum() / lengths[0::2].sum()))
    assert figures["logprob_rejected"] == pytest.approx(float((logprobs[1::2] / lengths[1::2]).mean()))


@pytest.mark.parametrize("trained", [False, True])
def test_a_frozen_tower_sees_every_picture_once_a_step(tmp_path, trained, monkeypatch):
    """Policy and reference share what it gives; one that learns is another for each. The loss is the same."""
    model, batch = tiny.checkpoint().model, one_batch(tmp_path)
    objective = Preference(PreferenceConfig(), CopiedReference(model))
    with torch.no_grad():
        model.connector[0].weight.mul_(1.1)
    before = objective.loss(model, batch).terms["pairs"]
    for param in model.tower.parameters():
        param.requires_grad_(trained)
    calls, forward = [], model.tower.forward
    monkeypatch.setattr(model.tower, "forward", lambda pixels: calls.append(1) or forward(pixels))
    found = objective.loss(model, batch).terms["pairs"]
    assert len(calls) == (2 if trained else 1)
    torch.testing.assert_close(found, before)
    found.backward()
    assert all(param.grad is not None for param in model.connector.parameters())
