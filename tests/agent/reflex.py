"""A real model whose weights are one rule: it calls a tool, and where it sees a tool's result, it answers.

All weights are zero but these: what ends the prompt is followed by the call, attention that looks everywhere alike
finds the mark of a result and then the answer is likelier, and either is followed by the end.
"""

from pathlib import Path

import torch
from tokenizers import AddedToken

from llavakit.model import checkpoint as checkpoints
from llavakit.text.hermes import RESPONSE
from tests import tiny

CONTEXT = 2048
BEGINS, MARKED, SEEN, SAID = range(4)  # what the first four numbers of a hidden state say


def save_reflex(folder: Path, call: str, answer: str) -> Path:
    """A checkpoint in `folder` that says these texts, each of which is one token."""
    made = tiny.checkpoint()
    mark = RESPONSE[0].strip()
    made.tokenizer.hf.add_tokens([AddedToken(text, normalized=False) for text in (mark, call, answer)])
    words = made.tokenizer.hf.get_vocab()
    language = made.model.language
    language.resize_token_embeddings(len(words) + 3, mean_resizing=False)
    language.config.max_position_embeddings = CONTEXT
    [start] = made.tokenizer.hf("\n")["input_ids"]
    with torch.no_grad():
        for parameter in (*language.parameters(), *made.model.connector.parameters()):
            if parameter.ndim > 1:
                parameter.zero_()
        rows = language.model.embed_tokens.weight
        rows[start, BEGINS] = rows[words[mark], MARKED] = rows[words[call], SAID] = rows[
            words[answer], SAID
        ] = 1
        first = language.model.layers[0].self_attn
        first.v_proj.weight[0, MARKED] = first.o_proj.weight[SEEN, 0] = 1
        head = language.lm_head.weight
        head[words[call], BEGINS] = 1
        head[words[answer], SEEN] = 1e5  # one mark among all tokens of a prompt
        head[words["<|im_end|>"], SAID] = 1e7
    checkpoints.save(made, folder)
    return folder
