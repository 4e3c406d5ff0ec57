"""Run by vLLM's interpreter: loads a model directory, then gives a JSON line for every JSON line it is given.

It imports nothing of llavakit. A piece of work names prompts and picture files; timed is everything from opening
the pictures to the last token, without loading. Words: the model's directory, dtype, a folder for the log.
"""

import json
import os
import sys
import time

os.environ.setdefault("VLLM_CPU_NUM_OF_RESERVED_CPU", "0")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what vLLM prints is not an answer
    import PIL.Image
    import vllm

    llm = vllm.LLM(
        model=sys.argv[1], dtype=sys.argv[2], enforce_eager=True, gpu_memory_utilization=0.3, max_model_len=2048,
        max_num_seqs=64, limit_mm_per_prompt={"image": 1}, disable_log_stats=False,
    )  # fmt: skip
    print(json.dumps({"version": vllm.__version__}), file=answers)
    for line in sys.stdin:
        work = json.loads(line)
        sampling = vllm.SamplingParams(temperature=0, max_tokens=work["new_tokens"], ignore_eos=True)
        began = time.perf_counter()
        prompts = [
            {"prompt": prompt, "multi_modal_data": {"image": PIL.Image.open(path).convert("RGB")}}
            for prompt, path in zip(work["prompts"], work["pictures"], strict=True)
        ]
        done = llm.generate(prompts, sampling, use_tqdm=False)
        seconds = time.perf_counter() - began
        times = [row.metrics for row in done]
        after_prefill = max(each.last_token_ts for each in times) - max(each.first_token_ts for each in times)
        answer = {
            "seconds": seconds,
            "after_first": after_prefill,
            "ids": [list(row.outputs[0].token_ids) for row in done],
        }
        print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    main()
