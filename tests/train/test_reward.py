"""Reward models: what is read where, what is learned, and what a checkpoint of one is."""

import json
import math
import re

import pytest
import torch

from llavakit import chat
from llavakit.core import config as settings
from llavakit.core.errors import ConfigError, DataError
from llavakit.data.encode import Encoder
from llavakit.data.facts import Facts, FactsConfig
from llavakit.data.grader import Grader
from llavakit.data.loader import Loader
from llavakit.data.pack import collate
from llavakit.data.settings import DataConfig
from llavakit.model import checkpoint as checkpoints
from llavakit.model.directory import load_card
from llavakit.model.llava import Score
from llavakit.text.conversation import Conversation, assistant, user
from llavakit.text.grading import Grading, read_suffix
from llavakit.text.templates import template
from llavakit.train.dry_run import show_plan
from llavakit.train.loop import train, train_step
from llavakit.train.metrics import read_metrics
from llavakit.train.reward import RewardPairs, answer_scores
from llavakit.train.reward_settings import RewardModelConfig
from tests import tiny
from tests.train.test_loop import interrupt_after, tiny_run, weights
from tests.train.test_preference import alone, write_pairs

SHORT = Grading(question="Grade it. {facts}", opening="It is")


def reward_run(tmp_path, name="reward", **changes):
    run = tiny_run(tmp_path, name, **{"data.tokens": 200, "optim.lr": 3e-3, "train": "[language, score]"})
    (tmp_path / "prompt.txt").write_text(" Good?")
    changes = {"data.files": write_pairs(tmp_path), "reward": f"{{prompt: {tmp_path}/prompt.txt}}"} | changes
    return settings.override(run, [f"{key}={value}" for key, value in changes.items()])


def loader(
    tmp_path, *, grading: Grading = SHORT, facts: Facts | None = None, tokens: int = 4000, margin_field=None
) -> Loader:
    encoder = Encoder(tiny.byte_level_tokenizer(), template("chatml"), tiny.IMAGE)
    config = DataConfig(files=(write_pairs(tmp_path),), tokens=tokens)
    return Loader(config, encoder, seed=0, pairs=True, grader=Grader(grading, facts, 0, margin_field))


def scorer(seed: int = 0):
    model = tiny.checkpoint(seed=seed).model
    torch.manual_seed(seed)
    model.score = Score(48)
    with torch.no_grad():
        model.score.weight.mul_(50)
    return model


def test_the_reward_is_read_at_the_end_of_the_unfinished_sentence(tmp_path):
    source = loader(tmp_path)
    sample = source.samples(source.records[0])
    chosen, rejected = (
        source.encoder.tokenizer.hf.decode([i for i in alone(sample, leaf).ids if i >= 0])
        for leaf in sample.leaves
    )
    end = "<|im_start|>user\nGrade it. <|im_end|>\n<|im_start|>assistant\nIt is<|im_end|>"
    assert chosen.endswith(f"red<|im_end|>\n{end}") and rejected.endswith(
        f"a green one, I think<|im_end|>\n{end}"
    )
    batch = collate([sample], [media.tiles() for media in sample.media])
    last = [int(batch.predict_L[batch.answers_L == answer][-1]) for answer in (0, 1)]
    ends = source.encoder.tokenizer.hf.decode([batch.ids_T[row] for row in last])
    assert ends == " is is"  # what follows it is only a label, which is in no row
    model = scorer()
    hidden = model.hidden(batch)[last]
    torch.testing.assert_close(answer_scores(model, batch), model.score(hidden))


def test_answers_of_a_row_are_scored_as_separate_sequences(tmp_path):
    model, source = scorer(), loader(tmp_path)
    samples = [source.samples(record) for record in source.records]
    packed = collate(samples, [media.tiles() for sample in samples for media in sample.media])
    together = answer_scores(model, packed)
    separate = [
        answer_scores(model, collate([alone(sample, leaf)], [media.tiles() for media in sample.media]))
        for sample in samples
        for leaf in sample.leaves
    ]
    torch.testing.assert_close(together, torch.cat(separate), rtol=1e-5, atol=1e-5)
    assert float(together.detach().std()) > 0.1


def test_a_released_prompt_is_put_behind_as_it_is(tmp_path):
    file = tmp_path / "prompt.txt"
    file.write_text("USER: Grade it. {factual_prompt}\n\nASSISTANT: The grade is")
    grading = Grading(suffix=read_suffix(file), lead="True are", facts=True)
    encoder = tiny.encoder("vicuna_v1")
    talk = Conversation((user("What is it?"), assistant("a dog")))
    sample = encoder.encode_graded([talk], grading, ["It barks.", "It runs."])
    before = encoder.encode(talk)
    # One blank stands between the two.
    behind = " USER: Grade it. True are\n  - It barks.\n  - It runs.\n\n\nASSISTANT: The grade is</s>"
    tokens = encoder.tokenizer.hf("</s>" + behind, add_special_tokens=False)["input_ids"]
    assert list(sample.ids) == [*before.ids, *tokens[1:]]
    assert [weight for weight in sample.weights if weight] == [1.0]  # the end, at which nothing looks
    with pytest.raises(ConfigError, match=r"needs the place where they stand, \{facts\}"):
        Grading(suffix="USER: Grade it.", facts=True)


def write_facts(tmp_path, facts) -> Facts:
    (tmp_path / "facts.json").write_text(json.dumps(facts))
    return Facts(FactsConfig(file=tmp_path / "facts.json"))


def test_facts_are_in_one_order_for_both_answers_of_a_pair(tmp_path):
    facts = write_facts(tmp_path, {"x.png": list("abcdefgh"), "aok_x.png": ["r"]})
    source = loader(tmp_path, grading=SHORT.model_copy(update={"facts": True, "lead": "Known:"}), facts=facts)
    orders = []
    for record in source.records[:4]:
        sample = source.samples(record)
        texts = [
            source.encoder.tokenizer.hf.decode(sample.ids[leaf.start : leaf.end]).split("Known:\n")[1]
            for leaf in sample.leaves
        ]
        assert texts[0] == texts[1]
        orders.append(texts[0])
        assert sorted(texts[0].split("<")[0].split()) == sorted(["-"] * 8 + list("abcdefgh"))
    assert len(set(orders)) > 1
    assert source.samples(source.records[0]) == source.samples(source.records[0])


def test_facts_come_from_fields_and_files(tmp_path):
    picture = tiny.picture(tmp_path / "x.png")
    talk = Conversation((user("What is it?", [picture]), assistant("a dog")))
    table = write_facts(tmp_path, {"x.png": ["a caption"], "aok_x.png": ["a rationale"]})
    assert table.of(talk, {}) == ("a caption",)
    assert table.of(talk, {"caption_type": 2}) == ("a rationale",)
    assert table.of(talk, {"caption_type": 6}) == ("a caption",)
    fields = Facts(FactsConfig(fields=("ocr", "options")))
    assert fields.of(talk, {"ocr": "STOP", "options": ["a", "b"]}) == ("STOP", "a", "b")
    for facts, problem in (
        (write_facts(tmp_path, {"y.png": ["a"]}), r"no facts: x.png not in .*facts.json"),
        (fields, "no facts: no field 'ocr', no field 'options'"),
    ):
        with pytest.raises(DataError, match=problem):
            facts.of(talk, {})
    with pytest.raises(DataError, match=r"facts.json: must be an object of lists of texts by picture"):
        write_facts(tmp_path, {"x.png": "a"})
    with pytest.raises(DataError, match="'ocr' must be a text or a list of texts"):
        fields.of(talk, {"ocr": 1})


def test_a_record_without_facts_is_one_line(tmp_path):
    write_facts(tmp_path, {"y.png": ["a"]})
    run = reward_run(tmp_path, **{"data.tokens": 1000}, reward=f"{{facts: {{file: {tmp_path}/facts.json}}}}")
    with pytest.raises(
        DataError, match=r"pairs.json:\d+: no facts: x.png not in .*facts.json; fix the record or set"
    ):
        train(run)


def test_the_first_step_costs_the_log_of_two_and_it_learns(tmp_path):
    run = reward_run(tmp_path, **{"optim.steps": 8})
    train(run)
    first, *_, last = read_metrics(run.out / "metrics.jsonl")
    assert first["loss"] == pytest.approx(
        math.log(2), abs=0.1
    )  # of 48 channels, a fresh head's scores are not 0
    assert last["accuracy"] > 0.9 and last["score_chosen"] > last["score_rejected"]
    assert last["score_lowest"] < last["score_highest"]
    assert last["length_correlation"] < -0.5  # the better answers here are the shorter ones


def test_a_record_may_say_by_how_much_its_better_answer_wins(tmp_path):
    """Llama 2's margin: each pair's own, times a factor. It changes the loss and nothing that is told."""

    def source(margins: list) -> Loader:
        found = loader(tmp_path, margin_field="margin")
        rows = json.loads((tmp_path / "pairs.json").read_text())
        rows = [row | {"margin": margin} for row, margin in zip(rows, margins, strict=False)]
        (tmp_path / "pairs.json").write_text(json.dumps(rows))
        return Loader(found.config, found.encoder, seed=0, pairs=True, grader=found.grader)

    pairs = source([0, 0.25, 0.5, 1])
    samples = [pairs.samples(record) for record in pairs.records]
    batch = collate(samples, [media.tiles() for sample in samples for media in sample.media])
    model = scorer()
    scores_A = answer_scores(model, batch).detach()
    wanted_P = scores_A[0::2] - scores_A[1::2] - 2 * torch.tensor([0, 0.25, 0.5, 1])
    config = RewardModelConfig(margin=2, margin_field="margin", center="none")
    found = RewardPairs(config).loss(model, batch)
    torch.testing.assert_close(found.terms["pairs"], -torch.nn.functional.logsigmoid(wanted_P).sum())
    for wrong in (-1, "much", None, True):
        pairs = source([0, 0, wrong])
        with pytest.raises(DataError, match=r"pairs.json:1: 'margin' must be a number from 0 on"):
            pairs.samples(pairs.records[2])
    with pytest.raises(ConfigError, match="counts times margin, which is 0"):
        RewardModelConfig(margin_field="margin")


@pytest.mark.parametrize(
    "config", ["{}", "{center: squared, center_weight: 0.1}", "{center: none, margin: 0.5}"]
)
def test_any_split_of_a_step_gives_the_same_gradient(tmp_path, config):
    config = (
        settings.override(RewardModelConfig(), [])
        if config == "{}"
        else settings.make(RewardModelConfig, settings.yaml.safe_load(config), where="test")
    )

    def gradient(splits: int):
        model, source = scorer(), loader(tmp_path)
        samples = [source.samples(record) for record in source.records]
        size = len(samples) // splits
        batches = [
            collate(part, [media.tiles() for sample in part for media in sample.media])
            for part in (samples[at : at + size] for at in range(0, len(samples), size))
        ]
        loss, report = train_step(model, RewardPairs(config), batches, precision="float32")
        return loss, report, model.score.weight.grad

    whole, split = gradient(1), gradient(4)
    if config.center == "absolute":  # of the pairs that are looked at together: never less than of all
        assert whole[0] <= split[0] + 1e-6
    else:
        assert split[0] == pytest.approx(whole[0], rel=1e-5)
        torch.testing.assert_close(split[2], whole[2], rtol=1e-4, atol=1e-6)
    assert split[1] == pytest.approx(whole[1], rel=1e-4)


@pytest.mark.parametrize("lora", [None, "{r: 4}"])
def test_a_checkpoint_is_a_directory_with_the_head_and_the_prompt(tmp_path, lora, run):
    trained = reward_run(tmp_path, **{"optim.steps": 2}, **({} if lora is None else {"model.lora": lora}))
    train(trained)
    card = load_card(trained.out)
    assert card.grading == Grading(suffix="  Good?")
    config = json.loads((trained.out / "step000002" / "config.json").read_text())
    assert config["model_type"] == "llavakit"  # no class of others takes it for a model that answers
    loaded = checkpoints.load(trained.out)
    assert loaded.model.score.weight.shape == (1, 48) and float(loaded.model.score.bias.detach()) != 0
    problem = f"{trained.out} is a reward model: it scores answers (llavakit reward) and gives none"
    with pytest.raises(ConfigError, match=re.escape(problem)):
        chat.load(trained.out)
    assert run("chat", "--model", trained.out, "hello")[0::2] == (2, f"error: {problem}\n")
    for layout in ("original", "hf"):
        code, _, error = run("convert", trained.out, tmp_path / layout, "--to", layout)
        assert (code, "a reward model" in error) == (2, True)
    more = {"model.start": trained.out} | ({"model.lora": lora} if lora else {})
    answers = tiny_run(tmp_path, "answers", **more)
    with pytest.raises(ConfigError, match="is a reward model, which can only learn to score"):
        train(answers)
    assert any("can only learn to score" in problem for problem in show_plan(answers))


def test_a_resumed_run_equals_one_that_was_not_stopped(tmp_path):
    plain = reward_run(tmp_path, "plain")
    train(plain)
    stopped = reward_run(tmp_path, "stopped")
    interrupt_after(stopped, 3)
    train(stopped, resume=True)
    assert all(torch.equal(weights(stopped)[key], tensor) for key, tensor in weights(plain).items())
    assert "score.weight" in weights(plain)


def test_a_reward_model_learns_on_from_its_own_head(tmp_path):
    first = reward_run(tmp_path, "first")
    train(first)
    second = reward_run(tmp_path, "second", **{"model.start": first.out, "optim.steps": 1})
    train(second)
    assert read_metrics(second.out / "metrics.jsonl")[0]["loss"] < 0.9 * math.log(2)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"train": "[language]"}, "a reward model's head, score, has to learn"),
        ({"preference": "{}"}, "a run learns one of preference, reward"),
        ({"data.weights": "compat"}, "data.weights=compat: nothing of the answers is learned"),
        ({"reward": "{facts: {}}"}, "facts: name the file or the fields they are in"),
        ({"reward": "{facts: {file: gone.json}}"}, "facts.file=gone.json does not exist"),
        ({"reward": "{prompt: gone.txt}"}, "reward.prompt=gone.txt: cannot be read"),
        ({"model.start": "null"}, "reward needs model.start"),
    ],
)
def test_wrong_settings_are_one_line(tmp_path, changes, problem):
    with pytest.raises(ConfigError, match=problem):
        train(reward_run(tmp_path, **changes))
    assert not (tmp_path / "reward" / "run.yaml").exists()
