"""Our kernels in C against float32 products of the same numbers, and against the layers of PyTorch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GemmaConfig, LlamaConfig

from llavakit.core.errors import ConfigError
from llavakit.core.types import Segment
from llavakit.engine import native
from llavakit.engine.cache import SlotCache
from llavakit.engine.decoder import FusedDecoder, fuse
from llavakit.engine.native import NativeLinear, Workspace
from llavakit.model.attention import packed_layout
from tests.engine.test_decoder import FAMILIES, POSITIONS, SHAPE, TREES, random_model, restored, row

HERE = native.missing() is None  # a machine without them must say so; there is nothing more to test on it
CPU = torch.device("cpu")


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    rows=st.integers(1, 40),
    outputs=st.integers(1, 100),
    groups=st.integers(1, 5),
    format=st.sampled_from(["as_is", "int8", "int4"]),
    bias=st.booleans(),
)
def test_a_product_of_any_shape(rows, outputs, groups, format, bias):
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
    product = NativeLinear(weight, bias_O, format, Workspace())(x)
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
def test_a_packed_row_with_trees(name, format):
    x = row(random_model(FAMILIES[name]()), 38)

    def run(decoder):
        return decoder(x.to(decoder.language.dtype), POSITIONS, packed_layout(TREES, CPU))

    agree(name, format, run)


@pytest.mark.parametrize("format", ["as_is", "int8", "int4"])
@pytest.mark.parametrize("name", ["llama", "llama biases", "qwen2", "qwen3"])
def test_steps_through_a_cache(name, format):
    x, segments = row(random_model(FAMILIES[name]()), 12), (Segment(0, 5), Segment(5, 9))

    def run(decoder):
        rows, cache = x.to(decoder.language.dtype), SlotCache()
        cache.start([torch.arange(5), torch.arange(5, 9)])
        positions = torch.tensor([0, 1, 2, 3, 4, 0, 1, 2, 3])
        out = [decoder(rows[:9], positions, packed_layout(segments, CPU), cache)]
        out.append(decoder(rows[9:11], torch.tensor([5, 4]), cache.step(), cache))
        out.append(decoder(rows[10:12], torch.tensor([6, 5]), cache.step(), cache))
        return torch.cat(out)

    agree(name, format, run)


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
        (random_model(GemmaConfig(**SHAPE, head_dim=8), torch.bfloat16), "a decoder of the Llama shape"),
        (random_model(FAMILIES["llama"]()), r"bf16 weights on the CPU, and these are torch\.float32"),
        (random_model(LlamaConfig(**SHAPE | {"hidden_size": 48}), torch.bfloat16), "multiples of 32"),
    ):
        with pytest.raises(ConfigError, match=why):
            fuse(model, kernels="native")
        assert fuse(model, kernels="auto").kernels == "torch"


def test_a_machine_without_a_compiler_is_told_so(monkeypatch):
    monkeypatch.setattr(native.shutil, "which", lambda name: None)
    model = random_model(FAMILIES["llama"](), torch.bfloat16)
    with pytest.raises(ConfigError, match=r"kernels='native' needs a (C compiler|processor)"):
        fuse(model, kernels="native")
    assert fuse(model, kernels="auto").kernels == "torch"


def test_a_source_that_does_not_compile_is_one_line(monkeypatch, tmp_path):
    (tmp_path / "broken.c").write_text("int main( {\n")
    monkeypatch.setattr(native, "SOURCE", tmp_path / "broken.c")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    native.library.cache_clear()
    match = "cannot compile broken" if HERE else "needs"
    with pytest.raises(ConfigError, match=match):
        native.library()
    native.library.cache_clear()
    assert list((tmp_path / "llavakit").glob("*")) == [] or not HERE
