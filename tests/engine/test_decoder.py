"""The fused decoder against its twin, the module of transformers."""

import copy
from unittest import mock

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
)
from transformers.pytorch_utils import Conv1D

from llavakit.core.errors import ConfigError
from llavakit.core.types import Segment
from llavakit.data.encode import Sample
from llavakit.engine.cache import SlotCache
from llavakit.engine.decoder import FusedDecoder, ModuleDecoder, fuse
from llavakit.engine.engine import Engine
from llavakit.engine.kv_slots import KvShape
from llavakit.engine.linear import (
    check_format,
    dequantize_int4,
    in_pairs,
    linear,
    quantize_int4,
    quantize_int8,
)
from llavakit.engine.sampler import Sampling
from llavakit.model.adapters import add_adapters
from llavakit.model.fused import packed_layout
from llavakit.model.llava import Llava
from llavakit.model.settings import LoraSettings
from tests import tiny

SHAPE = {
    "vocab_size": 120,
    "hidden_size": 32,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": None,
}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
FAMILIES = {
    "llama": lambda: LlamaConfig(**SHAPE),
    "llama tied": lambda: LlamaConfig(**SHAPE, tie_word_embeddings=True),
    "llama biases": lambda: LlamaConfig(**SHAPE, attention_bias=True, mlp_bias=True),
    "llama wide heads": lambda: LlamaConfig(**SHAPE, head_dim=16),
    "llama linear rope": lambda: LlamaConfig(
        **SHAPE, rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
    ),
    "llama llama3 rope": lambda: LlamaConfig(**SHAPE, rope_parameters=LLAMA3),
    "llama yarn rope": lambda: LlamaConfig(
        **SHAPE,
        rope_parameters={
            "rope_type": "yarn",
            "factor": 4.0,
            "rope_theta": 10000.0,
            "original_max_position_embeddings": 32,
        },
    ),
    "llama dynamic rope": lambda: LlamaConfig(
        **SHAPE, rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    ),
    "mistral": lambda: MistralConfig(**SHAPE, sliding_window=None),
    "mistral windows": lambda: MistralConfig(**SHAPE, sliding_window=4),
    "qwen2": lambda: Qwen2Config(**SHAPE),
    "qwen2 windows": lambda: Qwen2Config(
        **SHAPE, use_sliding_window=True, sliding_window=4, max_window_layers=1
    ),
    "qwen2 tied": lambda: Qwen2Config(**SHAPE, tie_word_embeddings=True),
    "qwen3": lambda: Qwen3Config(**SHAPE, head_dim=8),
}
OTHERS = {
    "gemma": lambda: GemmaConfig(**SHAPE, head_dim=8),
    "phi3": lambda: Phi3Config(**SHAPE),
    "opt": lambda: OPTConfig(
        vocab_size=120, hidden_size=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=128, word_embed_proj_dim=32,
    ),
    "gpt2": lambda: GPT2Config(vocab_size=120, n_embd=32, n_layer=2, n_head=4, n_positions=128),
    "llama gelu": lambda: LlamaConfig(**SHAPE, hidden_act="gelu"),
}  # fmt: skip
TREES = (
    Segment(0, 9, None),
    Segment(9, 14, 0),
    Segment(14, 17, 0),
    Segment(17, 37, None),
    Segment(37, 38, None),
)
POSITIONS = torch.tensor([*range(9), *range(9, 14), *range(9, 12), *range(20), 0])
TIGHT = {"atol": 2e-5, "rtol": 2e-5}
LOOSE = {"atol": 0.06, "rtol": 0.06}


def random_model(config, dtype=torch.float32) -> Llava:
    """A decoder whose every weight counts: norms and biases are not at their initial ones and zeros."""
    torch.manual_seed(0)
    language = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in language.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
            else:
                parameter.add_(torch.randn_like(parameter) / 4)
    parts = tiny.checkpoint().model
    return Llava(parts.tower, parts.connector, language.to(dtype))


def row(model: Llava, num_tokens: int, seed: int = 0) -> torch.Tensor:
    dice = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 120, (num_tokens,), generator=dice)
    return model.language.get_input_embeddings()(ids).detach()


@torch.no_grad()
def both(model: Llava, x_TD, positions_T, make_layout, make_cache=lambda: None, **how):
    """(module, fused) hidden states and logits for the same row."""
    fused = fuse(model)
    assert isinstance(fused, FusedDecoder)
    out = []
    for decoder in (ModuleDecoder(model), fused):
        hidden = decoder(x_TD, positions_T, make_layout(), make_cache(), **how)
        out.append((hidden, decoder.logits(hidden)))
    return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_packed_row_with_trees(name, dtype):
    model = random_model(FAMILIES[name](), dtype)
    x = row(model, 38)
    module, fused = both(model, x, POSITIONS, lambda: packed_layout(TREES, x.device))
    limits = TIGHT if dtype == torch.float32 else LOOSE
    torch.testing.assert_close(fused[0], module[0], **limits)
    scale = float(module[1].float().std())
    torch.testing.assert_close(fused[1] / scale, module[1] / scale, **limits)
    assert fused[0].dtype == dtype


@pytest.mark.parametrize("name", FAMILIES)
def test_steps_through_a_cache(name):
    """Prefill of three sequences, then steps of one token each; few rows take other roads than many."""
    model = random_model(FAMILIES[name]())
    segments = (Segment(0, 5), Segment(5, 30), Segment(30, 33))
    lengths = torch.tensor([len(segment) for segment in segments])
    positions = torch.cat([torch.arange(len(segment)) for segment in segments])
    x, device = row(model, 33), torch.device("cpu")

    def run(decoder):
        attention = model.language.get_decoder().layers[0].self_attn
        shape = KvShape(
            3, attention.k_proj.out_features // attention.head_dim, attention.head_dim, x.dtype, device
        )
        cache, out = SlotCache(shape, 10_000), []
        slots = [cache.open(len(segment)) for segment in segments]
        layout = cache.step([(slot, len(segment)) for slot, segment in zip(slots, segments, strict=True)])
        out.append(decoder(x, positions, layout, layout))
        layout.finish()
        for slot in slots:
            slot.arena.promote(slot)
        for step in range(3):
            layout = cache.step([])
            out.append(decoder(row(model, 3, step + 1), lengths + step, layout, layout))
            layout.finish()
        return torch.cat(out)

    with torch.no_grad():
        torch.testing.assert_close(run(fuse(model)), run(ModuleDecoder(model)), **TIGHT)


@torch.no_grad()
def recompute(model: Llava, sample: Sample, count: int) -> list[int]:
    """Greedy by the module and without a cache: the whole sequence again for every token."""
    ids = list(sample.ids)
    for _ in range(count):
        x = model.language.get_input_embeddings()(torch.tensor(ids))
        layout = packed_layout((Segment(0, len(ids)),), x.device)
        ids.append(int(model.logits(model.decode(x, torch.arange(len(ids)), layout)[-1]).argmax()))
    return ids[sample.num_tokens :]


@pytest.mark.parametrize("name", FAMILIES | OTHERS)
def test_the_engine_says_what_recomputing_everything_says(name):
    """For every family, own layers or not, in steps that mix prompts and answers."""
    model = random_model((FAMILIES | OTHERS)[name]())
    lengths = (3, 40, 17, 1, 9)
    dice = torch.Generator().manual_seed(5)
    prompts = [tuple(torch.randint(0, 120, (size,), generator=dice).tolist()) for size in lengths]
    samples = [Sample(ids, (0.0,) * len(ids), (Segment(0, len(ids)),)) for ids in prompts]
    engine = Engine(model, frozenset(), max_sequences=3, step_tokens=16)
    assert engine.generate(samples, Sampling(max_tokens=12)) == [recompute(model, s, 12) for s in samples]


def test_chosen_rows_only():
    model = random_model(FAMILIES["llama"]())
    x, last = row(model, 38), torch.tensor([37, 13, 36])
    whole = both(model, x, POSITIONS, lambda: packed_layout(TREES, x.device))
    some = both(model, x, POSITIONS, lambda: packed_layout(TREES, x.device), last_L=last)
    for (expected, _), (hidden, _) in zip(whole, some, strict=True):
        torch.testing.assert_close(hidden, expected[last], **TIGHT)


def test_the_row_that_was_given_stays_as_it_is():
    model = random_model(FAMILIES["llama"]())
    x = row(model, 38)
    before = x.clone()
    both(model, x, POSITIONS, lambda: packed_layout(TREES, x.device))
    assert torch.equal(x, before)


@pytest.mark.parametrize("name", ["llama biases", "llama tied", "qwen2", "qwen3"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_refreshed_weights_are_those_of_a_fresh_decoder(name, dtype):
    model, new = random_model(FAMILIES[name](), dtype), random_model(FAMILIES[name](), dtype)
    with torch.no_grad():
        for parameter in new.language.parameters():
            parameter.add_(torch.randn_like(parameter) / 8)
        decoder = fuse(model)
        decoder.refresh(new.language.state_dict())
        x = row(model, 38)
        layout = packed_layout(TREES, x.device)
        ours, theirs = (each(x, POSITIONS, layout) for each in (decoder, fuse(new)))
        assert torch.equal(ours, theirs)
        assert torch.equal(decoder.logits(ours), fuse(new).logits(theirs))


def test_some_weights_can_be_refreshed_and_the_others_stay():
    model = random_model(FAMILIES["llama"]())
    decoder, name = fuse(model), "model.layers.1.self_attn.k_proj.weight"
    decoder.refresh({name: model.language.state_dict()[name] * 2})
    x = row(model, 38)
    with torch.no_grad():
        layout = packed_layout(TREES, x.device)
        torch.testing.assert_close(
            decoder(x, POSITIONS, layout), ModuleDecoder(model)(x, POSITIONS, layout), **TIGHT
        )


def test_weights_that_do_not_fit_are_refused():
    decoder = fuse(random_model(FAMILIES["llama"]()))
    with pytest.raises(ConfigError, match=r"no weights called model\.nothing"):
        decoder.refresh({"model.nothing": torch.zeros(1)})
    with pytest.raises(ConfigError, match=r"model\.norm\.weight is \(3,\), the model's is \(32,\)"):
        decoder.refresh({"model.norm.weight": torch.zeros(3)})


@pytest.mark.parametrize("name", OTHERS)
def test_other_families_keep_their_module(name):
    assert isinstance(fuse(random_model(OTHERS[name]())), ModuleDecoder)


def test_adapters_are_not_left_out():
    model = random_model(FAMILIES["llama"]())
    sample = Sample((5, 6, 7), (0.0,) * 3, (Segment(0, 3),))
    without = Engine(model, frozenset()).generate([sample], Sampling(max_tokens=12))
    add_adapters(model, LoraSettings(r=4))
    with torch.no_grad():
        for name, parameter in model.language.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    said = Engine(model, frozenset()).generate([sample], Sampling(max_tokens=12))
    assert isinstance(fuse(model), ModuleDecoder)
    assert said == [recompute(model, sample, 12)] != without


def dequantized(model: Llava, format: str, head: str) -> Llava:
    """The slow twin: float32 weights that are exactly what the codes stand for, in the unchanged module."""
    twin = copy.deepcopy(model)
    body, top = twin.language.get_decoder(), twin.language.get_output_embeddings()
    top.weight = torch.nn.Parameter(
        top.weight.detach().clone()
    )  # no longer tied: only the product is quantised
    for module in body.modules():
        if isinstance(module, torch.nn.Linear):
            module.weight.data = restored(module.weight.data, format)
        elif isinstance(module, Conv1D):
            module.weight.data = restored(module.weight.data.t(), format).t()
    top.weight.data = restored(top.weight.data, head)
    return twin


def restored(weight: torch.Tensor, format: str) -> torch.Tensor:
    if format == "int8":
        codes, scale = quantize_int8(weight)
        return codes.float() * scale.float()[:, None]
    return dequantize_int4(*quantize_int4(weight))


@pytest.mark.parametrize("num_tokens", [1, 5, 38])
@pytest.mark.parametrize("format", ["int8", "int4"])
@pytest.mark.parametrize("name", [*FAMILIES, *OTHERS])
def test_quantised_equals_the_module_with_the_same_numbers(name, format, num_tokens):
    model = random_model((FAMILIES | OTHERS)[name]())
    twin = ModuleDecoder(dequantized(model, format, "int8"))
    x, positions = row(model, num_tokens), torch.arange(num_tokens)
    with torch.no_grad():
        layout = packed_layout((Segment(0, num_tokens),), x.device)
        expected = twin(x, positions, layout)
        decoder = fuse(model, format)
        torch.testing.assert_close(decoder(x, positions, layout), expected, atol=2e-4, rtol=2e-4)
        torch.testing.assert_close(decoder.logits(expected), twin.logits(expected), atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize(("quantize", "limit"), [("int8", 0.012), ("int4", 0.12)])
def test_the_error_of_a_quantised_product_is_bounded(quantize, limit):
    torch.manual_seed(0)
    weight, x = torch.randn(70, 256), torch.randn(40, 256)
    exact = x @ weight.T
    error = linear(weight, None, quantize)(x) - exact
    assert error.norm() / exact.norm() < limit


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 3, 8, 40])
@pytest.mark.parametrize("format", ["as_is", "int8", "int4"])
@pytest.mark.parametrize("outputs", [7, 16, 70])
def test_products_with_biases_and_odd_outputs(format, outputs, rows, dtype):
    torch.manual_seed(0)
    weight, bias, x = torch.randn(outputs, 64), torch.randn(outputs), torch.randn(rows, 64)
    weight, bias, x = weight.to(dtype), bias.to(dtype), x.to(dtype)
    residual = torch.randn(rows, outputs).to(dtype)
    before = residual.clone()
    exact = x.float() @ (weight.float() if format == "as_is" else restored(weight, format)).T + bias.float()
    product = linear(weight, bias, format)
    limits = {"atol": 1e-4, "rtol": 1e-4} if dtype == torch.float32 else {"atol": 0.1, "rtol": 0.02}
    torch.testing.assert_close(product(x).float(), exact, **limits)
    torch.testing.assert_close(product.add(x, residual).float(), exact + before.float(), **limits)
    assert torch.equal(residual, before)


def test_codes_go_to_cuda_in_pairs():
    codes = torch.tensor([[1, 2, 15, 0]], dtype=torch.int32)
    assert in_pairs(codes).tolist() == [[0x12, 0xF0]]


def test_a_device_without_the_product_is_told(monkeypatch):
    """As a card before Ampere, or a PyTorch that has no kernel for it."""
    refusal = "_weight_int4pack_mm_cuda is only supported on sm80 and newer"
    monkeypatch.setattr(torch, "_weight_int4pack_mm_for_cpu", mock.Mock(side_effect=RuntimeError(refusal)))
    check_format.cache_clear()
    with pytest.raises(
        ConfigError, match=r"weights=int4: PyTorch .* by it on the CPU \(.*sm80.*use weights=bf16"
    ):
        linear(torch.zeros(32, 32), format="int4")
    check_format.cache_clear()
    monkeypatch.undo()
    linear(torch.zeros(32, 32), format="int4")


def test_int4_says_which_width_it_cannot_pack():
    with pytest.raises(ConfigError, match="multiple of 32, and this decoder has one with 48; use int8"):
        fuse(tiny.checkpoint().model, "int4")


@pytest.mark.parametrize("format", ["int8", "int4"])
@pytest.mark.parametrize("name", ["llama biases", "llama tied", "gemma", "opt", "gpt2"])
def test_refreshed_quantised_weights_are_those_of_a_fresh_decoder(name, format):
    model, new = (random_model((FAMILIES | OTHERS)[name]()) for _ in range(2))
    with torch.no_grad():
        for parameter in new.language.parameters():
            parameter.add_(torch.randn_like(parameter) / 8)
        tensors = {name: tensor.clone() for name, tensor in new.language.state_dict().items()}
        x, layout = row(model, 38), packed_layout(TREES, torch.device("cpu"))
        decoder, fresh = fuse(model, format), fuse(new, format)
        decoder.refresh(tensors)
        hidden = decoder(x, POSITIONS, layout)
        assert torch.equal(hidden, fresh(x, POSITIONS, layout))
        assert torch.equal(decoder.logits(hidden), fresh.logits(hidden))


def test_released_weights_are_gone_and_can_be_refreshed_together():
    model, twin = random_model(FAMILIES["qwen2"]()), random_model(FAMILIES["qwen2"]())
    decoder = fuse(model, release=True)
    names = [f"model.layers.0.self_attn.{part}_proj.weight" for part in "qkv"]
    assert all(model.language.state_dict()[name].is_meta for name in names)
    assert not model.language.get_input_embeddings().weight.is_meta
    new = {name: twin.language.state_dict()[name] * 2 for name in names}
    with pytest.raises(ConfigError, match=r"v_proj\.weight is missing; its old value was released"):
        decoder.refresh({name: new[name] for name in names[:2]})
    decoder.refresh(new)
    ModuleDecoder(twin).refresh(new)
    x, layout = row(model, 38), packed_layout(TREES, torch.device("cpu"))
    with torch.no_grad():
        torch.testing.assert_close(
            decoder(x, POSITIONS, layout), ModuleDecoder(twin)(x, POSITIONS, layout), **TIGHT
        )


def test_a_tied_table_that_is_refreshed_under_either_name_changes_the_head():
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        model = random_model(FAMILIES["llama tied"](), torch.bfloat16)
        decoder = fuse(model)
        new = model.language.state_dict()[name] * 2
        decoder.refresh({name: new})
        hidden = torch.randn(3, 32, dtype=torch.bfloat16)
        torch.testing.assert_close(decoder.logits(hidden), hidden @ new.T)
        torch.testing.assert_close(model.language.get_input_embeddings().weight.detach(), new)
