"""Run by another interpreter, without llavakit: logits, prompt ids and special tokens of a directory, as JSON.

python other_transformers.py FOLDER INPUTS.pt: the class that config.json names, on the inputs that the test wrote.
"""

import inspect
import json
import sys
from pathlib import Path

import torch
import transformers

folder, inputs = Path(sys.argv[1]), torch.load(sys.argv[2], weights_only=True)
config = json.loads((folder / "config.json").read_text())
model = getattr(transformers, config["architectures"][0]).from_pretrained(folder).eval()
tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
known = inspect.signature(model.forward).parameters  # an older class counts the pictures of a batch by itself
inputs = {name: value for name, value in inputs.items() if name in known}
with torch.no_grad():
    logits = model(**inputs).logits
messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What color?"}]}]
prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
print(
    json.dumps(
        {
            "version": transformers.__version__,
            "logits": logits.flatten()[::7].tolist(),
            "prompt": tokenizer(prompt, add_special_tokens=False)["input_ids"],
            "special": sorted(tokenizer.all_special_tokens),
            "vocabulary": len(tokenizer),
        }
    )
)
