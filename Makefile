# What people and CI run. `make help` lists the targets.
#
# STACK names the extra and the pin file. It follows the C library: the wheels of TFX 1.21 need
# glibc 2.39 or later. To choose it yourself: make STACK=tfx121 test

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

GLIBC := $(shell getconf GNU_LIBC_VERSION 2>/dev/null | cut -d' ' -f2)
NEWEST := $(shell printf '%s\n' 2.39 $(GLIBC) | sort -V | tail -n 1)
STACK ?= $(if $(filter $(GLIBC),$(NEWEST)),tfx121,tfx116)
# What TFX's compiled parts have wheels for, newest first.
PYTHONS_tfx116 := 3.11
PYTHONS_tfx121 := 3.13 3.12 3.11
PYTHONS := $(PYTHONS_$(STACK))
VENV ?= .venv
PY := $(VENV)/bin/python
PINS := requirements/$(STACK).txt
INSTALLED := $(VENV)/.installed-$(STACK)

# uv of the machine, otherwise one of our own in a private environment.
UV := $(shell command -v uv 2>/dev/null || echo .tools/bin/uv)
UV_VERSION := 0.9

ROOT ?= runs/demo

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

.PHONY: install
install: $(INSTALLED) ## install everything into $(VENV)

# One line for what would otherwise end in a resolver's or a compiler's dump.
MACHINE := $(shell uname -s) $(shell uname -m)
MISSING = echo "vaeline: $(1)" >&2; exit 1

.PHONY: supported
supported:
	@[ "$(MACHINE)" = "Linux x86_64" ] || { $(call MISSING,needs Linux on x86-64; this is \
	  $(MACHINE)$(comma) for which TFX publishes no wheels. Use a container or a virtual machine.); }
	@[ -n "$(GLIBC)" ] || { $(call MISSING,needs the GNU C library$(comma) for which TFX's wheels \
	  are built; Alpine and other musl systems have none. Use Debian or Ubuntu.); }
	@[ -n "$(PYTHONS)" ] || { $(call MISSING,STACK must be tfx116 or tfx121$(comma) not $(STACK).); }
	@command -v python3 >/dev/null || { $(call MISSING,python3 is missing: apt install python3 \
	  python3-venv); }
	@command -v g++ >/dev/null || { $(call MISSING,pyfarmhash$(comma) which TFX needs$(comma) is \
	  compiled at installation and g++ is missing: apt install g++ python3-dev); }

comma := ,

.tools/bin/uv: | supported
	@python3 -m venv .tools || { $(call MISSING,python3 cannot make environments: apt install \
	  python3-venv); }
	.tools/bin/python -m pip install --quiet 'uv>=$(UV_VERSION)'

# The newest supported Python that the machine has; uv fetches one only if there is none.
$(PY): | supported $(filter .tools/bin/uv,$(UV))
	@version=$(firstword $(PYTHONS)); \
	for each in $(PYTHONS); do \
	  if $(UV) python find --quiet --system --no-python-downloads $$each >/dev/null 2>&1; then \
	    version=$$each; break; \
	  fi; \
	done; \
	echo "making $(VENV) with Python $$version"; \
	$(UV) venv --quiet --python $$version $(VENV) || { $(call MISSING,this machine has none of \
	  Python $(PYTHONS)$(comma) and uv could not fetch one. Install one$(comma) with its headers.); }

# Bytecode is compiled here because many images switch its caching off, and importing TFX without
# it takes three times as long.
$(INSTALLED): $(PINS) setup.py | supported $(PY)
	@$(PY) -c 'import os, sysconfig as s; exit(not os.path.exists(s.get_path("include") + "/Python.h"))' \
	  || { $(call MISSING,the headers of $$($(PY) --version) are missing: apt install python3-dev); }
	@echo "installing the $(STACK) stack into $(VENV) (glibc $(GLIBC))"
	$(UV) pip sync --quiet --python $(PY) --require-hashes --compile-bytecode $(PINS)
	$(UV) pip install --quiet --python $(PY) --no-deps --editable .
	$(PY) -m compileall -q pipeline components trainer serving
	rm -f $(VENV)/.installed-*
	touch $@

.PHONY: demo
demo: install ## the main job on real images: train, gate, push, label an archive
	$(VENV)/bin/vaeline demo --root $(ROOT)

# Processes that share the suite: two more than cores, because tests wait for processes that they
# start, but at most four, and only as many as have 4 GiB of free memory each.
WORKERS ?= $(shell n=$$(( $$(nproc 2>/dev/null || echo 1) + 2 )); \
  free=$$(awk '/^MemAvailable/ {print int($$2 / 4194304)}' /proc/meminfo 2>/dev/null); \
  for most in 4 $${free:-1}; do n=$$(( n < most ? n : most )); done; echo $$(( n > 1 ? n : 1 )))

# Bytecode of the tests is kept, which saves each process a second the next time.
.PHONY: test
test: export PYTHONDONTWRITEBYTECODE =
# Each worker would print what TensorFlow says about CUDA at its start.
test: export TF_CPP_MIN_LOG_LEVEL ?= 3
test: install ## the test suite; WORKERS=1 runs it in one process
	$(PY) -m pytest $(if $(filter-out 1,$(WORKERS)),-n $(WORKERS) --dist loadgroup --no-loadscope-reorder) \
	  $(PYTEST_ARGS)

.PHONY: test-fast
test-fast: install ## the tests that take seconds
	$(PY) -m pytest $(PYTEST_ARGS) -m "not slow and not e2e"

# IMAGE has another default below.
SERVING_IMAGE = $(if $(filter command environment,$(firstword $(origin IMAGE))),$(IMAGE),tensorflow/serving:2.16.1)

.PHONY: serving-check
serving-check: install ## the contract tests against TF Serving in Docker; IMAGE=tensorflow/serving:TAG
	@docker version >/dev/null 2>&1 || { $(call MISSING,docker does not answer; TF Serving runs in a \
	  container. Install and start Docker$(comma) or put tensorflow_model_server on the PATH and run make test.); }
	SERVING_IMAGE=$(SERVING_IMAGE) $(PY) -m pytest -v --tb=short -k container $(PYTEST_ARGS) \
	  tests/serving/test_client.py

.PHONY: lint
lint: install ## ruff and mypy over all files
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

.PHONY: format
format: install ## let ruff repair what it can
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

# One file holds for all Pythons of a stack, by environment markers; TFX 1.16 has one Python. Pins
# that are there are kept where they can be: UPGRADE=1 asks for the newest.
COMPILE = $(UV) pip compile setup.py --extra kubeflow --extra dev --no-annotate --no-header \
  --generate-hashes --quiet --python-version 3.11 $(if $(UPGRADE),--upgrade)

.PHONY: pins
pins: | $(filter .tools/bin/uv,$(UV)) ## resolve both stacks into requirements/; UPGRADE=1 renews them
	$(COMPILE) --extra tfx116 --python-platform x86_64-manylinux_2_28 --output-file requirements/tfx116.txt
	$(COMPILE) --extra tfx121 --universal --output-file requirements/tfx121.txt

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
