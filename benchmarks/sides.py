"""The sides of the serving benchmarks: our engine, `generate` of transformers, vLLM and llama.cpp, with one face.

A side is given requests by number and says how long it took; every number has a picture of its own.
"""

import argparse
import io
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import PIL.Image
import torch
from transformers import AutoProcessor, LlavaForConditionalGeneration, StoppingCriteria
from transformers import __version__ as transformers_version

from benchmarks import smol
from benchmarks.machine import memory_bandwidth
from benchmarks.peers.process import Peer
from llavakit.chat import load
from llavakit.engine.decoder import Weights
from llavakit.engine.sampler import Sampling
from llavakit.model import checkpoint
from llavakit.model.convert.convert import export
from llavakit.recipes.demo import smollm2_file

Q4_0, Q4_1, Q8_0 = 2, 3, 7  # llama.h's numbers of file types


class Ours:
    """Our engine, as `llavakit.load` makes it. Nothing ends an answer: every side says equally many tokens."""

    def __init__(self, folder: Path, loaded: checkpoint.Checkpoint, weights: Weights = "as_is") -> None:
        self.loaded, self.engine = loaded, load(folder, weights=weights).engine

    def run(self, numbers: list[int], new_tokens: int) -> tuple[float, float, int]:
        """Seconds of all; seconds after every request had its first token, and the tokens said in them."""
        pictures = [smol.picture(number) for number in numbers]
        began = time.perf_counter()
        samples = [
            smol.request(self.loaded, number, seen) for number, seen in zip(numbers, pictures, strict=True)
        ]
        return self.stream(samples, new_tokens, began)

    def stream(self, samples: list, new_tokens: int, began: float) -> tuple[float, float, int]:
        started, after, first = set(), 0, began
        for index, _ in self.engine.stream(samples, Sampling(max_tokens=new_tokens, ignore_end=True)):
            if len(started) == len(samples):
                after += 1
            else:
                started.add(index)
                first = time.perf_counter()
        ended = time.perf_counter()
        return ended - began, ended - first, after


class Clock(StoppingCriteria):
    """Never stops; remembers when the first token was there."""

    first = 0.0

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        self.first = self.first or time.perf_counter()
        return torch.zeros(len(input_ids), dtype=torch.bool)


class Generate:
    """`LlavaForConditionalGeneration.generate` in one batch, with its own processor."""

    version = transformers_version

    def __init__(self, folder: Path, loaded: checkpoint.Checkpoint) -> None:
        self.loaded = loaded
        self.processor = AutoProcessor.from_pretrained(folder)
        self.processor.tokenizer.padding_side = "left"
        self.hf = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.bfloat16).eval()

    def run(self, numbers: list[int], new_tokens: int) -> tuple[float, float, int]:
        prompts = [smol.prompt(self.loaded, number) for number in numbers]
        pictures = [smol.picture(number) for number in numbers]
        return self.answer(prompts, pictures, new_tokens, time.perf_counter())

    def answer(
        self, prompts: list[str], pictures: list[bytes], new_tokens: int, began: float
    ) -> tuple[float, float, int]:
        opened = [PIL.Image.open(io.BytesIO(picture)).convert("RGB") for picture in pictures]
        inputs = self.processor(text=prompts, images=opened, padding=True, return_tensors="pt")
        inputs["pixel_values"] = inputs["pixel_values"].to(torch.bfloat16)
        clock = Clock()
        with torch.inference_mode():
            ids = self.hf.generate(
                **inputs, max_new_tokens=new_tokens, min_new_tokens=new_tokens, do_sample=False,
                stopping_criteria=[clock],
            )  # fmt: skip
        ended = time.perf_counter()
        said = ids.shape[1] - inputs["input_ids"].shape[1]
        if said != new_tokens:
            raise SystemExit(f"generate said {said} tokens, not {new_tokens}")
        return ended - began, ended - clock.first, (new_tokens - 1) * len(prompts)


class VLLM:
    """vLLM's offline engine on our export, in its own process and environment."""

    def __init__(self, python: Path, folder: Path, loaded: checkpoint.Checkpoint, files: Path) -> None:
        self.loaded, self.files = loaded, files
        self.peer = Peer(python, "vllm_peer.py", str(folder), "bfloat16", str(files))
        self.version = self.peer.facts["version"]

    def run(self, numbers: list[int], new_tokens: int) -> tuple[float, float, int]:
        pictures = [self.files / f"{number}.png" for number in numbers]
        for number, file in zip(numbers, pictures, strict=True):
            file.write_bytes(smol.picture(number))
        prompts = [smol.prompt(self.loaded, number) for number in numbers]
        answer = self.peer.ask(
            prompts=prompts, pictures=[str(file) for file in pictures], new_tokens=new_tokens
        )
        # Where requests start one after the other, tokens are said before the last has its first: one stream only.
        return answer["seconds"], answer["after_first"], new_tokens - 1


class LlamaCpp:
    """One stream of text in llama.cpp, its layers in one type; its head, as ours, no coarser than eight bits."""

    def __init__(self, python: Path, file_type: int, files: Path) -> None:
        words = str(smollm2_file()), str(file_type), str(torch.get_num_threads()), str(files)
        self.peer = Peer(python, "llamacpp_peer.py", *words)
        self.version, self.bytes = self.peer.facts["version"], self.peer.facts["bytes"]

    def run(self, ids: list[int], new_tokens: int) -> float:
        """Tokens/s after the prompt."""
        return (new_tokens - 1) / self.peer.ask(ids=ids, new_tokens=new_tokens)["after_first"]


Side = Ours | Generate | VLLM


def options(description: str | None) -> argparse.ArgumentParser:
    """What both benchmarks are told."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--vllm-python", type=Path, help="interpreter of an environment with vLLM")
    parser.add_argument("--llamacpp-python", type=Path, help="interpreter of one with llama-cpp-python")
    return parser


def vllm_side(
    python: Path | None, folder: Path, loaded: checkpoint.Checkpoint, files: Path, stack: ExitStack
) -> dict[str, VLLM]:
    """vLLM as one more side, if there is one."""
    if python is None:
        print("vLLM: not measured (name its interpreter: --vllm-python)")
        return {}
    side = VLLM(python, folder, loaded, files)
    stack.enter_context(side.peer)
    return {"vLLM": side}


def export_model(files: Path) -> tuple[checkpoint.Checkpoint, Path]:
    """The benchmark's model, as it is in memory and as a directory that every side reads."""
    loaded = smol.build_model()
    checkpoint.save(loaded, files / "ours")
    export(files / "ours", files / "exported", "vllm")
    return loaded, files / "exported"


def decoder_bytes(loaded: checkpoint.Checkpoint) -> int:
    """Weights that every token reads: the layers and the head, in the stored type."""
    language = loaded.model.language
    embeddings = language.get_input_embeddings().weight
    tied = language.config.tie_word_embeddings
    return sum(p.numel() * p.element_size() for p in language.parameters()) - (
        0 if tied else embeddings.numel() * embeddings.element_size()
    )


def roof(size: int) -> float:
    """Tokens/s of one stream if nothing but reading `size` bytes a token from memory took time."""
    return memory_bandwidth() / size
