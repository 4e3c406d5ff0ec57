"""vLLM answers with our tokens from our export. Runs where LLAVAKIT_VLLM_PYTHON names an interpreter that has vLLM.

Each test starts its server on the loopback interface, in that interpreter; docs/serving.md says how such an
environment is made. Both sides compute in float32 and answer greedily.
"""

import base64
import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from transformers import CLIPVisionConfig

import llavakit
from benchmarks.peers.process import HERE
from llavakit.chat import Chat
from llavakit.data.encode import Encoder
from llavakit.engine.sampler import Sampling
from llavakit.model.convert.convert import Options, export
from llavakit.text.conversation import Conversation, Message, Text, assistant, system, user
from tests import hf_tiny
from tests.vision.clips import write_clip

pytestmark = pytest.mark.vllm
SECONDS = 300  # until a server must answer
QUESTIONS = ("What color is the shape?", "Describe the picture in detail, please.")


def flat(path: Path, size: tuple[int, int], seed: int) -> Path:
    """A picture of few, large, flat areas: where two programs resize, all but their borders are equal."""
    colours = np.random.default_rng(seed).integers(0, 256, (2, 2, 3), dtype=np.uint8)
    PIL.Image.fromarray(colours).resize(size, PIL.Image.Resampling.NEAREST).save(path)
    return path


def video_part(path: Path) -> dict:
    data = base64.b64encode(path.read_bytes()).decode()
    return {"type": "video_url", "video_url": {"url": f"data:video/mp4;base64,{data}"}}


def image_part(path: Path) -> dict:
    data = base64.b64encode(path.read_bytes()).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}


def text_part(text: str) -> dict:
    return {"type": "text", "text": text}


class Server:
    """vLLM's OpenAI server for one directory."""

    def __init__(self, folder: Path, log: Path, *more: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url, self.log = f"http://127.0.0.1:{port}", log
        command = [
            os.environ["LLAVAKIT_VLLM_PYTHON"], "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder),
            "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--enforce-eager",
            "--gpu-memory-utilization", "0.3", "--max-model-len", "1024", "--max-num-seqs", "4", *more,
        ]  # fmt: skip
        environment = os.environ | {
            "PYTHONPATH": str(HERE / "site"),
            "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "HF_HUB_OFFLINE": "1",
        }
        self.child = subprocess.Popen(
            command, stdout=log.open("w"), stderr=subprocess.STDOUT, env=environment
        )
        ends = time.monotonic() + SECONDS
        while not self._healthy():
            if self.child.poll() is not None or time.monotonic() > ends:
                self.stop()
                pytest.fail(f"vLLM did not start:\n{log.read_text()[-4000:]}")
            time.sleep(0.5)

    def _healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5):
                return True
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False

    def ask(self, messages: list[dict]) -> list[int]:
        """The greedy answer's token ids."""
        body = {"messages": messages, "temperature": 0, "max_tokens": 16, "return_token_ids": True}
        request = urllib.request.Request(
            f"{self.url}/v1/chat/completions",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=SECONDS) as reply:
                choice = json.load(reply)["choices"][0]
        except urllib.error.HTTPError as error:
            pytest.fail(
                f"vLLM answered {error.code}: {error.read().decode()}\n{self.log.read_text()[-20000:]}"
            )
        ids = choice["token_ids"]
        return ids[:-1] if choice["finish_reason"] == "stop" else ids

    def stop(self) -> None:
        self.child.terminate()
        self.child.wait()


def talks(folder: Path, tile: int, *, several: bool) -> list[tuple[Conversation, list[dict]]]:
    """Conversations, and the same as OpenAI's messages."""
    one = flat(folder / "one.png", (tile, tile), 1)
    wide = flat(folder / "wide.png", (3 * tile, 2 * tile), 2)
    large = flat(folder / "large.png", (4 * tile, 3 * tile), 3)  # twelve tiles are shrunk to nine
    out = []
    for path in (one, wide, large):
        out.append(
            (
                Conversation((user(QUESTIONS[0], [path]),)),
                [{"role": "user", "content": [image_part(path), text_part(QUESTIONS[0])]}],
            )
        )
    out.append(
        (
            Conversation(
                (system("Answer."), user(QUESTIONS[0], [one]), assistant("It is red."), user(QUESTIONS[1]))
            ),
            [
                {"role": "system", "content": "Answer."},
                {"role": "user", "content": [image_part(one), text_part(QUESTIONS[0])]},
                {"role": "assistant", "content": "It is red."},
                {"role": "user", "content": QUESTIONS[1]},
            ],
        )
    )
    out.append((Conversation((user(QUESTIONS[1]),)), [{"role": "user", "content": QUESTIONS[1]}]))
    if several:
        media = user("", [one, wide]).parts
        out.append(
            (
                Conversation((Message("user", (media[0], Text("and "), media[1], Text(QUESTIONS[1]))),)),
                [
                    {
                        "role": "user",
                        "content": [
                            image_part(one),
                            text_part("and "),
                            image_part(wide),
                            text_part(QUESTIONS[1]),
                        ],
                    }
                ],
            )
        )
    return out


def served(kind: str, folder: Path) -> Chat:
    """A tiny model of a class, exported to `folder`/served, in our engine."""
    hf_tiny.directory(kind, folder / "model", width=128)
    if kind == "llava_onevision":  # its class counts for nine tiles, and others are refused
        config = json.loads((folder / "model/config.json").read_text())
        (folder / "model/config.json").write_text(
            json.dumps(config | {"vision_aspect_ratio": "anyres_max_9"})
        )
    export(folder / "model", folder / "served", "vllm", Options(template="chatml", dtype="float32"))
    return llavakit.load(folder / "served")


@pytest.mark.parametrize("kind", ["llava", "llava_next", "llava_onevision"])
def test_greedy_answers_are_the_same_token_for_token(tmp_path, kind):
    bot = served(kind, tmp_path)
    tile = bot.encoder.image.size
    cases = talks(tmp_path, tile, several=kind == "llava")
    samples = [bot.encoder.encode(talk, open_turn=True) for talk, _ in cases]
    ours = bot.engine.generate(samples, Sampling(max_tokens=16))
    server = Server(tmp_path / "served", tmp_path / "log")
    try:
        theirs = [server.ask(messages) for _, messages in cases]
    finally:
        server.stop()
    assert theirs == ours
    assert any(len(set(answer)) > 3 for answer in ours), "the answers say too little to tell a mistake"


@pytest.mark.parametrize("kind", hf_tiny.VIDEOS)
def test_an_answer_about_a_video_is_the_same(tmp_path, kind, monkeypatch):
    if kind == "llava_next_video":  # its class divides by size // patch**2
        small = CLIPVisionConfig(**hf_tiny.tower_config(kind).to_diff_dict() | {"patch_size": 7})
        monkeypatch.setattr(hf_tiny, "tower_config", lambda kind: small)
    bot = served(kind, tmp_path)
    clip = write_clip(tmp_path / "clip.mp4", 4)
    video = bot.encoder.video.model_copy(update={"max_frames": 4, "uniform": True})
    encoder = Encoder(bot.encoder.tokenizer, bot.encoder.template, bot.encoder.image, video)
    sample = encoder.encode(Conversation((user(QUESTIONS[1], [], [clip]),)), open_turn=True)
    ours = bot.engine.generate([sample], Sampling(max_tokens=16))
    frames = json.dumps({"video": {"num_frames": 4}})
    server = Server(tmp_path / "served", tmp_path / "log", "--media-io-kwargs", frames)
    try:
        theirs = server.ask([{"role": "user", "content": [video_part(clip), text_part(QUESTIONS[1])]}])
    finally:
        server.stop()
    assert [theirs] == ours
