"""Ranks that share a model: each reads, writes and opens what is its own, and together they are one process."""

from collections import Counter
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from llavakit.model import checkpoint as checkpoints
from llavakit.model.directory import resolve
from llavakit.model.formats import weights as stored_weights
from llavakit.train import losses as losses_of_rows
from llavakit.train import state as states
from llavakit.train.loop import train
from tests import tiny
from tests.train.test_kto import kto_run
from tests.train.test_loop import interrupt_after, losses, tiny_run, weights
from tests.train.test_parallel import Pair, interrupt_rank, train_rank

pytestmark = pytest.mark.slow
SHARED = {"parallel.mode": "fsdp"}


@pytest.fixture(scope="module")
def pair():
    two = Pair()
    yield two
    two.stop()


def reading_rank(rank, run):
    """What a rank read whole, and the parts of tensors that it read instead."""
    whole, parts = [], Counter()
    get, get_rows = stored_weights._get, stored_weights._get_rows

    def noted(opened, key, file):
        whole.append(key)
        return get(opened, key, file)

    def noted_rows(opened, key, file, first, last):
        parts[key] += last - first
        return get_rows(opened, key, file, first, last)

    with (
        mock.patch.object(stored_weights, "_get", noted),
        mock.patch.object(stored_weights, "_get_rows", noted_rows),
    ):
        train(run)
    return whole, dict(parts)


@pytest.mark.parametrize("lora", [False, True])
def test_a_rank_reads_its_own_rows_of_a_start_in_bf16(tmp_path, pair, lora):
    """No rank holds the decoder: not to begin with, and fresh adapters are those of one process."""
    start = tiny.checkpoint()
    start.model.to(torch.bfloat16)
    checkpoints.save(start, tmp_path / "start")
    tiny.data_file(tmp_path)
    adapters = {"model.lora": "{r: 4, alpha: 8, dropout: 0}"} if lora else {}
    one = tiny_run(tmp_path, "one", **adapters)
    two = tiny_run(tmp_path, "two", **adapters, **SHARED)
    train(one)
    read = pair(reading_rank, two)
    shapes = {key: len(tensor) for key, tensor in load_file(tmp_path / "start" / "model.safetensors").items()}
    decoder = {key for key in shapes if key.startswith("language_model")}
    for whole, _ in read:
        assert whole and not decoder & set(whole)
    for key in decoder:
        assert sum(parts.get(key, 0) for _, parts in read) == shapes[key], key
    assert losses(two) == pytest.approx(losses(one), rel=1e-5)
    name = "adapter_model" if lora else "model"
    mine, theirs = (load_file(resolve(run.out) / f"{name}.safetensors") for run in (two, one))
    torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-3)


def test_adapters_beside_matrices_in_bf16_are_those_of_one_process(tmp_path, pair):
    adapters = {"model.lora": "{r: 4, alpha: 8, dropout: 0}", "precision": "bf16"}
    one, two = tiny_run(tmp_path, "one", **adapters), tiny_run(tmp_path, "two", **adapters, **SHARED)
    train(one)
    pair(train_rank, two)
    assert losses(two) == pytest.approx(losses(one), rel=2e-3)


def test_a_vocabulary_that_grows_and_fresh_separators_are_those_of_one_process(tmp_path, pair):
    start = tiny.checkpoint()
    start.model.language.resize_token_embeddings(len(start.tokenizer))  # no row to spare
    checkpoints.save(start, tmp_path / "start")
    tiny.data_file(tmp_path)
    more = {
        "model.im_start_end": "true",
        "model.image": "{kind: anyres, size: 28, grid: 2, anyres: {pinpoints: [[28, 56], [56, 28]]}}",
    }
    one, two = tiny_run(tmp_path, "one", **more), tiny_run(tmp_path, "two", **more, **SHARED)
    train(one)
    pair(train_rank, two)
    assert losses(two) == pytest.approx(losses(one), rel=1e-5)
    torch.testing.assert_close(weights(two), weights(one), atol=1e-4, rtol=1e-3)
    before = load_file(tmp_path / "start" / "model.safetensors")["language_model.model.embed_tokens.weight"]
    assert len(weights(two)["language_model.model.embed_tokens.weight"]) > len(before)


def test_averages_of_shares_are_those_of_one_process(tmp_path, pair):
    one = tiny_run(tmp_path, "one", **{"optim.ema": 0.5})
    two = tiny_run(tmp_path, "two", **{"optim.ema": 0.5}, **SHARED)
    train(one)
    pair(train_rank, two)
    mine, theirs = (load_file(resolve(run.out) / "ema" / "model.safetensors") for run in (two, one))
    torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(weights(two), weights(one), atol=1e-4, rtol=1e-3)


def test_moments_of_two_bytes_are_cut_saved_and_read_by_rows(tmp_path, pair):
    half = {"optim.moments": "bf16"}
    one = tiny_run(tmp_path, "one", **half)
    whole, cut = (tiny_run(tmp_path, name, **half, **SHARED) for name in ("whole", "cut"))
    train(one)
    pair(train_rank, whole)
    pair(interrupt_rank, cut, 3, 0)
    pair(train_rank, cut, True)
    assert losses(cut) == losses(whole)
    assert losses(whole) == pytest.approx(losses(one), rel=0.02)


def summing_rank(rank, run):
    """Sums over copies of the model in each step: messages on the group of the copies, which are two ranks."""
    counts, real = [], dist.all_reduce

    def counted(tensor, *words, **names):
        counts.append(names.get("group") is not None)
        return real(tensor, *words, **names)

    with mock.patch.object(dist, "all_reduce", counted):
        train(run)
    return sum(counts)


def test_copies_are_summed_after_the_last_row_only(tmp_path, pair):
    """A step of four rows, two a rank, sends as much between copies as a step of two."""
    sent = []
    for rows in (2, 4):
        run = tiny_run(
            tmp_path,
            f"rows{rows}",
            **SHARED,
            **{"parallel.replicas": 2, "optim.rows": rows, "optim.steps": 2},
        )
        sent.append(pair(summing_rank, run))
    assert sent[0] == sent[1] and sent[0][0] > 0


def chunking_rank(rank, run):
    """Chunks that the rows of a rank made, of as many learned tokens as its number says."""
    counts, real = [], losses_of_rows._in_chunks

    def small(hidden_LD, labels_L, logits, whole, chunk, beside):
        counts.append(-(-len(hidden_LD) // (rank + 2)))
        return real(hidden_LD, labels_L, logits, rank + 2, rank + 2, beside)

    with mock.patch.object(losses_of_rows, "_in_chunks", small):
        train(run)
    return sum(counts)


def test_ranks_meet_once_at_the_head_whatever_chunks_they_make(tmp_path, pair):
    one, two = kto_run(tmp_path, "one"), kto_run(tmp_path, "two", **SHARED)
    train(one)
    first, second = pair(chunking_rank, two)
    assert first != second
    assert losses(two) == pytest.approx(losses(one), rel=1e-3, abs=1e-5)
    torch.testing.assert_close(weights(two), weights(one), atol=1e-4, rtol=1e-3)


def resuming_rank(rank, run):
    """Which files of training state a rank opened when it went on."""
    opened, real = [], states.safe_open

    def noted(file, *words):
        opened.append(file.name)
        return real(file, *words)

    with mock.patch.object(states, "safe_open", noted):
        train(run, resume=True)
    return opened


def test_a_rank_opens_its_own_state_and_the_first_ones(tmp_path, pair):
    """Each file once, whatever the number of tensors; of another number of ranks, those that are needed."""
    whole, cut = (tiny_run(tmp_path, name, **SHARED) for name in ("whole", "cut"))
    pair(train_rank, whole)
    pair(interrupt_rank, cut, 3, 0)
    files = [f"train_state.rank{rank:05d}-of-00002.safetensors.state" for rank in range(2)]
    first, second = pair(resuming_rank, cut)
    assert first == files[:1] and sorted(second) == files
    assert losses(cut) == losses(whole)
    alone = tiny_run(tmp_path, "alone", **SHARED)
    pair(interrupt_rank, alone, 3, 0)
    assert sorted(resuming_rank(0, alone)) == files
    assert losses(alone) == pytest.approx(losses(whole), rel=1e-5)


def test_one_process_is_resumed_by_two(tmp_path, pair):
    whole, cut = (tiny_run(tmp_path, name, **SHARED) for name in ("whole", "cut"))
    train(whole)
    interrupt_after(cut, 3)
    assert [len(opened) for opened in pair(resuming_rank, cut)] == [1, 1]
    assert losses(cut) == pytest.approx(losses(whole), rel=1e-5)
