"""Our kernels in C against float32 products of the same numbers, and against the layers of PyTorch."""

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from transformers import GemmaConfig, LlamaConfig

from llavakit.core.errors import ConfigError
from llavakit.engine import compiled, native
from llavakit.engine.cache import SlotCache
from llavakit.engine.decoder import FusedDecoder, describe_kernels, fuse
from llavakit.engine.kv_slots import KvShape
from llavakit.engine.native import NativeLinear, NativePrompts, NativeSlots, PromptRows, Workspace
from llavakit.engine.sampler import likeliest
from llavakit.model.fused import packed_layout
from tests.engine.test_decoder import FAMILIES, POSITIONS, SHAPE, TREES, random_model, restored, row

HERE = native.missing() is None  # a machine without them must say so; there is nothing more to test on it
CPU = torch.device("cpu")
UNITS = ["vectors", *(["tiles"] if HERE and native.has_amx() else [])]


@pytest.fixture(params=UNITS)
def unit(request):
    """What the kernels multiply with: on machines with AMX both ways are tried."""
    if HERE:
        native.library().use_amx(request.param == "tiles")
    yield request.param
    if HERE:
        native.library().use_amx(True)


@settings(max_examples=90, deadline=None, derandomize=True)
@given(
    rows=st.integers(1, 80),
    outputs=st.integers(1, 100),
    groups=st.integers(1, 5),
    format=st.sampled_from(["as_is", "int8", "int4"]),
    bias=st.booleans(),
    unit=st.sampled_from(UNITS),
)
def test_a_product_of_any_shape(rows, outputs, groups, format, bias, unit):
    dice = torch.Generator().manual_seed(rows * 1000 + outputs)
    weight = torch.randn(outputs, 32 * groups, generator=dice).bfloat16()
    x = torch.randn(rows, 32 * groups, generator=dice).bfloat16()
    bias_O = torch.randn(outputs, generator=dice).bfloat16() if bias else None
    exact = x.float() @ (weight.float() if format == "as_is" else restored(weight, format)).T
    exact = exact if bias_O is None else exact + bias_O.float()
    if not HERE:
        with pytest.raises(ConfigError, match="kernels='native' needs"):
            NativeLinear(weight, bias_O, format, Workspace())
        return
    try:
        native.library().use_amx(unit == "tiles")
        product = NativeLinear(weight, bias_O, format, Workspace())(x)
    finally:
        native.library().use_amx(True)
    assert product.shape == exact.shape
    assert (product.float() - exact).norm() < 0.006 * exact.norm()


@torch.no_grad()
def agree(name: str, format: str, run) -> None:
    """Native and PyTorch's kernels on bf16 weights are as near to each other as to float32 on the same numbers."""
    config = FAMILIES[name]()
    exact = run(fuse(random_model(config), format))
    torch_kernels = run(fuse(random_model(config, torch.bfloat16), format))
    decoder = fuse(random_model(config, torch.bfloat16), format, kernels="auto")
    assert isinstance(decoder, FusedDecoder)
    assert decoder.kernels == ("native" if HERE else "torch")
    ours = run(decoder)
    assert ours.dtype == torch.bfloat16
    error, usual = ((each.float() - exact).norm() / exact.norm() for each in (ours, torch_kernels))
    assert error < 1.3 * usual + 0.002


@pytest.mark.parametrize("format", ["as_is", "int8", "int4"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_packed_row_with_trees(name, format, unit):
    x = row(random_model(FAMILIES[name]()), 38)

    def run(decoder):
        return decoder(x.to(decoder.language.dtype), POSITIONS, packed_layout(TREES, CPU))

    agree(name, format, run)


def open_slots(decoder, counts: list[int]) -> tuple[SlotCache, list]:
    first = decoder.layers[0]
    shape = KvShape(3, first.key_heads, first.width, decoder.language.dtype, CPU)
    cache = SlotCache(shape, 10_000)
    return cache, [cache.open(count) for count in counts]


@pytest.mark.parametrize("format", ["as_is", "int8", "int4"])
@pytest.mark.parametrize("name", ["llama", "llama biases", "llama wide heads", "qwen2", "qwen3"])
def test_steps_through_a_cache(name, format, unit):
    """Two prompts, then steps in which they gain a token while a third prompt comes in pieces."""
    x = row(random_model(FAMILIES[name]()), 40)

    def run(decoder):
        rows = x.to(decoder.language.dtype)
        cache, (one, two, three) = open_slots(decoder, [30, 30, 200])
        layout = cache.step([(one, 5), (two, 22)])
        out = [decoder(rows[:27], torch.tensor([*range(5), *range(22)]), layout, layout)]
        layout.finish()
        one.arena.promote(one)
        two.arena.promote(two)
        for step in range(3):
            layout = cache.step([(three, 4)])
            positions = torch.tensor([5 + step, 22 + step, *range(4 * step, 4 * step + 4)])
            out.append(decoder(rows[7 * step + 3 : 7 * step + 9], positions, layout, layout))
            layout.finish()
        layout = cache.step([])
        out.append(decoder(rows[30:32], torch.tensor([8, 25]), layout, layout))
        layout.finish()
        three.arena.promote(three)  # slots of two sizes in one step
        layout, some = cache.step([]), torch.tensor([2, 0])
        out.append(decoder(rows[32:35], torch.tensor([9, 26, 12]), layout, layout))
        out.append(decoder(rows[32:35], torch.tensor([9, 26, 12]), layout, layout, some))
        return torch.cat(out)

    agree(name, format, run)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    lengths=st.lists(st.integers(0, 90), min_size=1, max_size=5),
    key_heads=st.integers(1, 3),
    group=st.integers(1, 4),
    width=st.sampled_from([8, 32, 64, 80, 128, 256]),
)
def test_a_step_of_attention(lengths, key_heads, group, width):
    if not HERE:
        return  # library() says what is missing, as the test of products shows
    dice, count = torch.Generator().manual_seed(len(lengths)), len(lengths)
    kv = torch.randn(2, 2, count, key_heads, 100, width, generator=dice).bfloat16()
    qkv = torch.randn(count, (group + 2) * key_heads, width, generator=dice).bfloat16()
    query, key, value = qkv.split((group * key_heads, key_heads, key_heads), dim=1)
    expected, filled = [], kv.clone()
    for n, length in enumerate(lengths):
        filled[1, 0, n, :, length], filled[1, 1, n, :, length] = key[n], value[n]
        keys, values = filled[1, :, n, :, : length + 1].float().repeat_interleave(group, dim=1)
        weights = (query[n, :, None].float() @ keys.transpose(1, 2) * 0.3).softmax(dim=-1)
        expected.append((weights @ values)[:, 0])
    out = torch.empty(count, group * key_heads, width, dtype=torch.bfloat16)
    NativeSlots(kv, torch.tensor(lengths), max(lengths)).attend(qkv, 1, 0.3, out, Workspace())
    assert torch.equal(kv, filled)
    torch.testing.assert_close(out.float(), torch.stack(expected), atol=0.02, rtol=0.01)


@pytest.mark.parametrize("format", ["as_is", "int8", "int4"])
def test_a_row_does_not_change_with_its_company(format, unit):
    """Not even in the last bit, so an answer cannot depend on what else is running. (int4: only up to 64 rows.)"""
    if not HERE:
        return
    dice = torch.Generator().manual_seed(0)
    product = NativeLinear(torch.randn(64, 96, generator=dice).bfloat16(), None, format, Workspace())
    x = torch.randn(64 if format == "int4" else 100, 96, generator=dice).bfloat16()
    whole = product(x)
    for start, end in ((0, 1), (3, 7), (5, 17), (20, len(x))):
        assert torch.equal(product(x[start:end]), whole[start:end])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    rows=st.integers(1, 9),
    width=st.integers(1, 100),
    levels=st.sampled_from([1, 3, 1000]),
    strange=st.sampled_from([None, torch.nan, torch.inf, -torch.inf]),
    seed=st.integers(0, 99),
)
def test_the_likeliest_are_those_that_pytorch_finds(rows, width, levels, strange, seed):
    """The first of equal ones; infinite scores are numbers."""
    if not HERE:
        return
    dice = torch.Generator().manual_seed(seed)
    scores = torch.randint(-levels, levels, (rows, width), generator=dice).bfloat16()
    if strange is not None:
        scores[rows // 2, seed % width] = strange
    assert native.likeliest(scores) == likeliest(scores)


def test_threads_that_were_sent_to_rest_come_back():
    """A worker sends those of its maker to rest; whoever multiplies next gets new ones, and the same numbers."""
    if not HERE:
        return
    weight, x = torch.randn(64, 96).bfloat16(), torch.randn(5, 96).bfloat16()
    product = NativeLinear(weight, None, "as_is", Workspace())
    before = product(x)
    native.rest()
    native.rest()
    assert torch.equal(product(x), before)


@pytest.mark.parametrize("format", ["as_is", "int8", "int4"])
def test_the_head(format):
    model = random_model(FAMILIES["llama"](), torch.bfloat16)
    hidden = torch.randn(3, 32, generator=torch.Generator().manual_seed(0)).bfloat16()
    plain, ours = (fuse(model, head=format, kernels=kernels).logits(hidden) for kernels in ("torch", "auto"))
    assert ours.shape == (3, 120)
    torch.testing.assert_close(ours, plain, atol=0.03 * float(plain.float().std()), rtol=0.02)


@pytest.mark.parametrize("format", ["as_is", "int4"])
def test_refreshed_weights_are_those_of_a_fresh_decoder(format):
    model, new = (random_model(FAMILIES["qwen3"](), torch.bfloat16) for _ in range(2))
    with torch.no_grad():
        for parameter in new.language.parameters():
            parameter.add_(torch.randn_like(parameter) / 8)
        decoder = fuse(model, format, kernels="auto", release=True)
        decoder.refresh({name: tensor.clone() for name, tensor in new.language.state_dict().items()})
        x, layout, last = row(model, 38), packed_layout(TREES, CPU), torch.tensor([37, 3])
        fresh = fuse(new, format, kernels="auto")
        hidden = decoder(x, POSITIONS, layout, last_L=last)
        assert torch.equal(hidden, fresh(x, POSITIONS, layout, last_L=last))
        assert torch.equal(decoder.logits(hidden), fresh.logits(hidden))


def test_what_native_kernels_cannot_run_is_refused_and_auto_says_what_it_took():
    for model, why in (
        (
            random_model(GemmaConfig(**SHAPE, head_dim=8), torch.bfloat16),
            "a plain decoder of the Llama shape",
        ),
        (random_model(FAMILIES["llama"]()), r"bf16 weights on the CPU, and these are torch\.float32"),
        (
            random_model(LlamaConfig(**SHAPE | {"hidden_size": 48}), torch.bfloat16),
            "multiples of 32 .* with 48",
        ),
        (
            random_model(LlamaConfig(**SHAPE | {"intermediate_size": 32_800}), torch.bfloat16),
            "at most 32,768, and this decoder has one with 32,800",
        ),
        (random_model(LlamaConfig(**SHAPE, head_dim=20), torch.bfloat16), "multiples of 32 .* with 80"),
    ):
        with pytest.raises(ConfigError, match=why):
            fuse(model, kernels="native")
        decoder = fuse(model, kernels="auto")
        assert decoder.kernels == "torch"
        assert re.match(
            f"the decoder runs on torch kernels; native ones need .*{why}", describe_kernels(decoder)
        )


@pytest.fixture
def empty_cache(monkeypatch, tmp_path):
    """As on a machine that never compiled anything."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    native._load.cache_clear()
    yield tmp_path
    native._load.cache_clear()


def refusals(why: str) -> None:
    """native is refused in one line that says why; auto says what it took, and why."""
    model = random_model(FAMILIES["llama"](), torch.bfloat16)
    why = why if HERE else ""
    with pytest.raises(ConfigError, match=f"kernels='native' needs {why}") as raised:
        fuse(model, kernels="native")
    assert "\n" not in str(raised.value)
    decoder = fuse(model, kernels="auto")
    assert decoder.kernels == "torch"
    assert re.match(why, decoder.lack)


def test_a_machine_without_a_compiler_is_told_so(empty_cache, monkeypatch):
    monkeypatch.setattr(compiled.shutil, "which", lambda name: None)
    refusals("a C compiler")


def test_a_source_that_does_not_compile_is_one_line(empty_cache, monkeypatch):
    (empty_cache / "broken").mkdir()
    (empty_cache / "broken" / "wrong.c").write_text("int main( {\n")
    monkeypatch.setattr(native, "KERNELS", empty_cache / "broken")
    refusals(f"a C compiler that can compile {empty_cache / 'broken'}; ")
    assert list((empty_cache / "cache" / "llavakit").glob("*")) == []


def test_a_cache_folder_that_cannot_be_written_is_named(empty_cache):
    (empty_cache / "cache").write_text("a file")
    refusals("a cache folder")


def test_a_user_without_a_home_is_told_so(empty_cache, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")

    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(compiled.Path, "home", no_home)
    refusals("a cache folder: this user has no home, so set XDG_CACHE_HOME")


@pytest.mark.parametrize("how", ["folder", "owner", "link"])
def test_a_folder_that_others_may_write_is_refused(empty_cache, monkeypatch, how):
    """Whoever can write there could plant a library, and it would run as the user."""
    folder = empty_cache / "cache" / "llavakit"
    folder.mkdir(parents=True)
    if how == "folder":
        folder.chmod(0o777)
    elif how == "owner":
        monkeypatch.setattr(compiled.os, "geteuid", lambda: 12345)
    else:
        folder.rmdir()
        (empty_cache / "elsewhere").mkdir()
        folder.symlink_to(empty_cache / "elsewhere")
    refusals(f"a cache folder that is yours and that nobody else may write: chmod 700 {folder}")


@pytest.mark.parametrize(
    ("heads", "key_heads", "width", "start", "tokens"),
    [
        (9, 3, 64, 0, 253),
        (9, 3, 64, 100, 37),
        (4, 2, 16, 0, 5),
        (4, 4, 80, 33, 70),
        (8, 2, 128, 7, 300),
        (4, 2, 8, 0, 1),
    ],
)  # fmt: skip
def test_the_attention_of_a_prompt(heads, key_heads, width, start, tokens, unit):
    """Against float32 attention over the same numbers; keys and values go where they belong, and nowhere else."""
    if not HERE:
        with pytest.raises(ConfigError, match="kernels='native' needs"):
            native.library()
        return
    dice = torch.Generator().manual_seed(0)
    kv = torch.zeros(2, key_heads, 512, width, dtype=torch.bfloat16)
    kv[:, :, :start] = torch.randn(2, key_heads, start, width, generator=dice)
    qkv = torch.randn(tokens, heads + 2 * key_heads, width, generator=dice).bfloat16()
    query, *new = (part.transpose(0, 1) for part in qkv.split((heads, key_heads, key_heads), dim=1))
    expected_kv = kv.clone()
    expected_kv[:, :, start : start + tokens] = torch.stack(new)
    see = torch.arange(start + tokens) <= torch.arange(start, start + tokens)[:, None]
    seen = expected_kv[:, None, :, : start + tokens].float()
    expected = F.scaled_dot_product_attention(
        query[None].float(), seen[0], seen[1], attn_mask=see, enable_gqa=True
    )
    out = torch.empty(tokens, heads, width, dtype=torch.bfloat16)
    rows = NativePrompts([PromptRows(kv[None], start, tokens, 0)])
    rows.attend(qkv, 0, width**-0.5, out, Workspace())
    assert torch.equal(kv, expected_kv)
    torch.testing.assert_close(out.float(), expected[0].transpose(0, 1), atol=0.02, rtol=0.02)
