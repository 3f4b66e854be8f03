# Everything a newcomer types. `make` alone lists the words.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help run test check format spec test-host lab bench clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "xcpmem needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

run: $(STAMP)  ## the daemon on a simulated host
	@$(BIN)/python -m xcpmem.demo

test: $(STAMP)  ## the test suite (pip alone)
	$(BIN)/python -m pytest

check: $(STAMP)  ## format, lint, types, layers, api-spec
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m xcpmem.api.spec --check api-spec

format: $(STAMP)  ## put the code in shape
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

spec: $(STAMP)  ## write api-spec/ anew from the declaration of the API
	$(BIN)/python -m xcpmem.api.spec api-spec

test-host: $(STAMP)  ## tests against Debian's and npm's programs
	tests/host/run

lab: $(STAMP)  ## end to end on real Xen, emulated
	tests/lab/run

bench: $(STAMP)  ## figures beside their peers
	$(BIN)/python -m tests.bench

clean:  ## forget the virtual environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build dist
