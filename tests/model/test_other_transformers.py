"""What we write means the same to older versions of `transformers`; each lives in an environment of its own.

LLAVAKIT_TRANSFORMERS_PYTHON names their interpreters, separated by colons.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch

from llavakit.model import checkpoint as checkpoints
from tests import hf_tiny

PYTHONS = [name for name in os.environ.get("LLAVAKIT_TRANSFORMERS_PYTHON", "").split(":") if name]
SCRIPT = Path(__file__).parent / "other_transformers.py"
STRETCH = {"llava": 2.0, "llava_next_video": 2.0}  # linear RoPE scaling is where versions differ most
THETA = 500_000.0


@pytest.mark.transformers
@pytest.mark.parametrize("kind", hf_tiny.KINDS)
@pytest.mark.parametrize("python", PYTHONS or ["none"])
def test_another_version_computes_our_logits_and_our_prompt(tmp_path, kind, python):
    hf_tiny.directory(kind, tmp_path / "theirs")
    config = json.loads((tmp_path / "theirs" / "config.json").read_text())
    config["text_config"]["rope_parameters"] = {"rope_type": "default", "rope_theta": THETA}
    (tmp_path / "theirs" / "config.json").write_text(json.dumps(config))
    ck = checkpoints.load(tmp_path / "theirs", template_name="chatml", rope_factor=STRETCH.get(kind))
    checkpoints.save(ck, tmp_path / "ours")
    hf = hf_tiny.MODELS[kind].from_pretrained(tmp_path / "ours", dtype=torch.float32).eval()
    samples = [hf_tiny.question(ck, "What color is the shape?" * 4, images=1)]
    inputs = hf_tiny.their_inputs(hf, ck, samples)
    torch.save(inputs, tmp_path / "inputs.pt")
    words = [python, str(SCRIPT), str(tmp_path / "ours"), str(tmp_path / "inputs.pt")]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    with torch.no_grad():
        wanted = hf(**inputs).logits.flatten()[::7]
    assert (torch.tensor(found["logits"]) - wanted).abs().max() <= 1e-4, found["version"]
    shorter = hf_tiny.question(ck, "What color?", images=1)
    image_id = ck.tokenizer.image_token_id
    once = [token for token in shorter.ids if token >= 0]  # without the slots of the picture
    assert [token for token in found["prompt"] if token != image_id] == once
    assert found["vocabulary"] == len(ck.tokenizer)
    assert set(found["special"]) >= {"<image>", "<|im_end|>"}
