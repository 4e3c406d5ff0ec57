"""Run by an interpreter with llama-cpp-python: one stream of text through llama.cpp, a JSON line for a JSON line.

It imports nothing of llavakit. Timed is the greedy loop over C calls alone, after the prompt: llama_decode and the
largest logit, token by token, as llama.cpp's own command does it.
"""

import json
import os
import sys
import time


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what llama.cpp prints is not an answer
    import llama_cpp
    import numpy as np

    model_path, file_type = sys.argv[1], int(sys.argv[2])
    if file_type >= 0:  # anew from the file's own weights: the speed of a type does not depend on the numbers
        made = f"{sys.argv[3]}/type{file_type}.gguf"
        how = llama_cpp.llama_model_quantize_default_params()
        how.ftype, how.allow_requantize, how.nthread, how.pure = file_type, True, 2, True
        if llama_cpp.llama_model_quantize(model_path.encode(), made.encode(), how):
            raise SystemExit(f"{model_path}: llama.cpp could not make type {file_type} of it")
        model_path = made
    llm = llama_cpp.Llama(model_path, n_ctx=1024, n_threads=2, n_threads_batch=2, verbose=False)
    facts = {"version": llama_cpp.__version__, "bytes": os.path.getsize(model_path)}
    print(json.dumps(facts), file=answers)
    for line in sys.stdin:
        work = json.loads(line)
        llm.reset()
        llm.eval(work["ids"])
        context, one = llm.ctx, llama_cpp.llama_batch_init(1, 0, 1)
        place, vocabulary = len(work["ids"]), llm.n_vocab()
        ids = [_best(llama_cpp, np, context, vocabulary)]
        began = time.perf_counter()
        while len(ids) < work["new_tokens"]:
            one.n_tokens, one.token[0], one.pos[0], one.n_seq_id[0], one.seq_id[0][0] = (
                1,
                ids[-1],
                place,
                1,
                0,
            )
            one.logits[0] = 1
            if llama_cpp.llama_decode(context, one):
                raise SystemExit("llama_decode failed")
            ids.append(_best(llama_cpp, np, context, vocabulary))
            place += 1
        seconds = time.perf_counter() - began
        llama_cpp.llama_batch_free(one)
        print(json.dumps({"seconds": seconds, "ids": ids}), file=answers)


def _best(llama_cpp, np, context, vocabulary: int) -> int:
    logits = llama_cpp.llama_get_logits_ith(context, -1)
    return int(np.ctypeslib.as_array(logits, shape=(vocabulary,)).argmax())


if __name__ == "__main__":
    main()
