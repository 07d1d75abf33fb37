# What people and CI run. `make help` lists the targets.
#
# STACK names the extra and the pin file. It follows the C library: the wheels of TFX 1.21 need
# glibc 2.39 or later. People who know better: make STACK=tfx121 test

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON_VERSION := 3.11
GLIBC := $(shell getconf GNU_LIBC_VERSION 2>/dev/null | cut -d' ' -f2)
NEWEST := $(shell printf '%s\n' 2.39 $(GLIBC) | sort -V | tail -n 1)
STACK ?= $(if $(filter $(GLIBC),$(NEWEST)),tfx121,tfx116)
VENV ?= .venv
PY := $(VENV)/bin/python
PINS := requirements/$(STACK).txt
INSTALLED := $(VENV)/.installed-$(STACK)

# uv of the machine, else one of our own in a private environment.
UV := $(shell command -v uv 2>/dev/null || echo .tools/bin/uv)
UV_VERSION := 0.9

ROOT ?= runs/demo

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

.PHONY: install
install: $(INSTALLED) ## install everything into $(VENV)

.tools/bin/uv:
	python3 -m venv .tools
	.tools/bin/python -m pip install --quiet 'uv>=$(UV_VERSION)'

# Bytecode is compiled here because many images switch its caching off, and importing TFX without
# it takes three times as long.
$(INSTALLED): $(PINS) setup.py | $(filter .tools/bin/uv,$(UV))
	@echo "installing the $(STACK) stack into $(VENV) (glibc $(GLIBC))"
	test -x $(PY) || $(UV) venv --quiet --python $(PYTHON_VERSION) $(VENV)
	$(UV) pip sync --quiet --python $(PY) --require-hashes --compile-bytecode $(PINS)
	$(UV) pip install --quiet --python $(PY) --no-deps --editable .
	$(PY) -m compileall -q pipeline components trainer serving
	rm -f $(VENV)/.installed-*
	touch $@

.PHONY: demo
demo: install ## the main job on real images: train, gate, push, label an archive
	$(VENV)/bin/vaeline demo --root $(ROOT)

.PHONY: test
test: install ## the test suite
	$(PY) -m pytest

.PHONY: test-fast
test-fast: install ## the tests that take seconds
	$(PY) -m pytest -m "not slow and not e2e"

.PHONY: lint
lint: install ## ruff and mypy over all files
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

.PHONY: format
format: install ## let ruff mend what it can
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

.PHONY: pins
pins: | $(filter .tools/bin/uv,$(UV)) ## resolve both stacks anew into requirements/
	$(UV) pip compile setup.py --extra tfx116 --extra kubeflow --extra dev --python-version $(PYTHON_VERSION) \
	  --python-platform x86_64-manylinux_2_28 --no-annotate --no-header --generate-hashes \
	  --quiet --upgrade --output-file requirements/tfx116.txt
	$(UV) pip compile setup.py --extra tfx121 --extra kubeflow --extra dev --python-version $(PYTHON_VERSION) \
	  --python-platform x86_64-manylinux_2_39 --no-annotate --no-header --generate-hashes \
	  --quiet --upgrade --output-file requirements/tfx121.txt

.PHONY: clean
clean: ## remove what the demo and the tools wrote; the environment stays
	rm -rf runs build dist .mypy_cache .ruff_cache .pytest_cache

# The image carries the Beam release of the pins: a worker speaks its launcher's version.
BEAM_VERSION = $(shell sed -n 's/^apache-beam\(\[gcp\]\)\{0,1\}==\([0-9.]*\).*/\2/p' $(PINS))
WORKER_IMAGE ?= vaeline-worker:$(STACK)

.PHONY: worker-image
worker-image: ## a container for workers of bulk jobs, without TFX; needs Docker
	docker build --file docker/worker/Dockerfile --build-arg STACK=$(STACK) \
	  --build-arg BEAM_VERSION=$(BEAM_VERSION) --tag $(WORKER_IMAGE) .

.PHONY: docs
docs: install ## write docs/configuration.md from the code
	$(PY) -m pipeline.config_reference > docs/configuration.md

IMAGE ?= vaeline-steps

.PHONY: image
image: ## build the container of the pipeline's steps; IMAGE=HOST/NAME names it, WITH_CUDA=1 for GPUs
	docker build --file docker/steps/Dockerfile --tag $(IMAGE) \
	  --build-arg WITH_CUDA=$(or $(WITH_CUDA),0) .
	@docker image inspect --format '{{.Size}} bytes' $(IMAGE)

.PHONY: push-image
push-image: image ## push it, and say the digest for cluster.image
	docker push $(IMAGE)
	@docker image inspect --format '{{index .RepoDigests 0}}' $(IMAGE)
