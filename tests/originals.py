"""Tiny random directories in the layouts of released LLaVA code, written by hand: the tests' own idea of them."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import (
    CLIPVisionModel,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from tests import tiny

WIDE, NARROW = 48, 32
SHAPE = {
    "hidden_size": WIDE, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512,
}  # fmt: skip
CLASSES = {
    "llama": ("LlavaLlamaForCausalLM", "llava_llama"),
    "mistral": ("LlavaMistralForCausalLM", "llava_mistral"),
    "qwen2": ("LlavaQwenForCausalLM", "llava_qwen"),
}


class Original:
    """A random model's parts, and its tensors by the names of released code."""

    def __init__(
        self, decoder="llama", tower="clip", projector="mlp2x_gelu", *, tie=False, newline=False, seed=0
    ):
        torch.manual_seed(seed)
        self.decoder, self.kind, self.projector_kind = decoder, tower, projector
        self.tokenizer = tiny.TOKENIZERS["chatml" if decoder == "qwen2" else "vicuna_v1"]()
        rows = len(self.tokenizer) + (5 if decoder == "qwen2" else 0)
        self.language = self._language(rows, tie).eval()
        for parameter in self.language.parameters():
            if parameter.ndim > 1:
                parameter.data.mul_(6)
        self.tower = CLIPVisionModel(tiny.vision_config()) if tower == "clip" else self._siglip()
        self.tower.eval()
        first = torch.nn.Linear(NARROW, WIDE)
        self.projector = (
            first
            if projector == "linear"
            else torch.nn.Sequential(first, torch.nn.GELU(), torch.nn.Linear(WIDE, WIDE))
        )
        self.newline = torch.randn(WIDE) if newline else None

    def _language(self, rows, tie):
        if self.decoder == "llama":
            return LlamaForCausalLM(tiny.text_config(rows))
        kind = {"mistral": (MistralConfig, MistralForCausalLM), "qwen2": (Qwen2Config, Qwen2ForCausalLM)}
        config, model = kind[self.decoder]
        extra = {"sliding_window": None} if self.decoder == "mistral" else {}
        return model(config(**SHAPE, vocab_size=rows, tie_word_embeddings=tie, rope_theta=1e6, **extra))

    @staticmethod
    def _siglip():
        return SiglipVisionModel(
            SiglipVisionConfig(
                hidden_size=NARROW, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4,
                image_size=28, patch_size=14,
            )
        )  # fmt: skip

    def tensors(self, *, inside=True):
        """Every tensor; `inside` says whether the tower's are among them."""
        out = dict(self.language.state_dict())
        if self.language.config.tie_word_embeddings:
            del out["lm_head.weight"]
        out["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(3)
        out |= {f"model.mm_projector.{key}": value for key, value in self.projector.state_dict().items()}
        if self.newline is not None:
            out["model.image_newline"] = self.newline
        if inside:
            for key, value in self.tower.state_dict().items():
                # Released code cuts SigLIP's last layer and its head off before it saves.
                if self.kind == "clip" or not key.startswith(("encoder.layers.3.", "head.")):
                    out["model.vision_tower.vision_tower.vision_model." + key] = value
        return {key: value.clone() for key, value in out.items()}

    def config(self, folder, **changes):
        """config.json; the tower's directory is beside the model's."""
        language = self.language.config.to_diff_dict()
        rope = language.pop("rope_parameters")
        name, model_type = CLASSES[self.decoder]
        return {
            **language,
            "rope_theta": rope["rope_theta"],
            "architectures": [name],
            "model_type": model_type,
            "mm_vision_tower": str(folder.parent / f"{self.kind}-tower"),
            "mm_hidden_size": NARROW,
            "mm_projector_type": self.projector_kind,
            "mm_vision_select_layer": -2,
            "mm_vision_select_feature": "patch",
            "mm_use_im_start_end": False,
            "mm_use_im_patch_token": False,
            "image_aspect_ratio": "pad",
            "tune_mm_mlp_adapter": False,  # one of many that say nothing about the model
            "tokenizer_model_max_length": 300,
            **changes,
        }

    def save(self, folder, layout="safetensors", *, inside=True, dtype=None, **changes):
        """The directory and the tower beside it; returns the tensors."""
        folder.mkdir(parents=True)
        tensors = self.tensors(inside=inside)
        if dtype is not None:
            tensors = {key: value.to(dtype) for key, value in tensors.items()}
        self.tower.save_pretrained(folder.parent / f"{self.kind}-tower")
        (folder / "config.json").write_text(json.dumps(self.config(folder, **changes)))
        self.tokenizer.hf.save_pretrained(folder)
        write_weights(folder, tensors, layout)
        return {key: value for key, value in tensors.items() if not key.endswith("inv_freq")}


def write_weights(folder: Path, tensors: dict, layout: str) -> None:
    """One file or three, as safetensors or pickles; three have an index."""
    stem, ending, save = {
        "safetensors": ("model", "safetensors", lambda part, path: save_file(part, path, {"format": "pt"})),
        "bin": ("pytorch_model", "bin", torch.save),
    }[layout.removeprefix("sharded ")]
    if not layout.startswith("sharded"):
        save(tensors, folder / f"{stem}.{ending}")
        return
    keys, where = list(tensors), {}
    for number in range(3):
        name = f"{stem}-{number + 1:05}-of-00003.{ending}"
        part = {key: tensors[key] for key in keys[number::3]}
        where |= dict.fromkeys(part, name)
        save(part, folder / name)
    index = {"metadata": {"total_size": 1}, "weight_map": where}
    (folder / f"{stem}.{ending}.index.json").write_text(json.dumps(index))


def read_weights(folder: Path) -> dict:
    """All tensors of the safetensors files in a directory."""
    from safetensors.torch import load_file

    out: dict = {}
    for file in sorted(folder.glob("*.safetensors")):
        out |= load_file(file)
    return out
