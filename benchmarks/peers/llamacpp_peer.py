"""Run by an interpreter with llama-cpp-python: one stream of text through llama.cpp, a JSON line for a JSON line.

It imports nothing of llavakit. Timed is the greedy loop over C calls alone, after the prompt: llama_decode and the
largest logit, token by token. Words: a GGUF file, the number of the type that its layers are made (llama.h: 2 is
Q4_0, 3 is Q4_1, 7 is Q8_0; llama.cpp itself keeps a tied head finer), threads, a folder for that file and the log.
"""

import json
import os
import sys
import time
from pathlib import Path


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what llama.cpp prints is not an answer
    import llama_cpp
    import numpy as np

    source, file_type, threads, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    path = f"{folder}/type{file_type}.gguf"
    how = llama_cpp.llama_model_quantize_default_params()
    how.ftype, how.allow_requantize, how.nthread = file_type, True, threads
    if llama_cpp.llama_model_quantize(source.encode(), path.encode(), how):
        raise SystemExit(f"{source}: llama.cpp could not make type {file_type} of it")
    llm = llama_cpp.Llama(path, n_ctx=1024, n_threads=threads, n_threads_batch=threads, verbose=False)
    print(json.dumps({"version": llama_cpp.__version__, "bytes": Path(path).stat().st_size}), file=answers)
    context, vocabulary = llm.ctx, llm.n_vocab()

    def best() -> int:
        logits = llama_cpp.llama_get_logits_ith(context, -1)
        return int(np.ctypeslib.as_array(logits, shape=(vocabulary,)).argmax())

    one = llama_cpp.llama_batch_init(1, 0, 1)
    for line in sys.stdin:
        work = json.loads(line)
        llm.reset()
        llm.eval(work["ids"])
        place, ids = len(work["ids"]), [best()]
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
            ids.append(best())
            place += 1
        print(json.dumps({"after_first": time.perf_counter() - began, "ids": ids}), file=answers)


if __name__ == "__main__":
    main()
