# Everything a newcomer types. `make` alone lists the words.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
RELEASE := $(VENV)-release
SHIPPED := build/shipped

.DEFAULT_GOAL := help
.PHONY: help run test check format spec man deb test-host lab bench fuzz pin sbom audit clean

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

man: $(STAMP)  ## write deploy/man anew from the declarations of commands and settings
	$(BIN)/python -m xcpmem.manual deploy/man

deb: $(STAMP)  ## the Debian package, in dist/
	$(BIN)/python deploy/debian/build.py dist

test-host: $(STAMP)  ## tests against Debian's and npm's programs
	tests/host/run

lab: $(STAMP)  ## end to end on real Xen, emulated
	tests/lab/run

bench: $(STAMP)  ## figures beside their peers
	$(BIN)/python -m tests.bench

fuzz: $(STAMP)  ## any bytes into every parser, for some minutes
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[fuzz]'
	$(BIN)/python -m tests.fuzz

$(RELEASE)/.installed: pyproject.toml
	$(PYTHON) -m venv $(RELEASE)
	$(RELEASE)/bin/pip install --quiet --disable-pip-version-check --editable '.[release]'
	touch $@

pin: $(RELEASE)/.installed  ## deploy/requirements.txt: what a release runs on, by hash
	$(RELEASE)/bin/pip-compile --quiet --upgrade --generate-hashes --strip-extras --allow-unsafe --no-header \
	    --no-emit-index-url --no-emit-find-links --no-emit-trusted-host -o deploy/requirements.txt pyproject.toml

sbom: $(RELEASE)/.installed  ## deploy/sbom.cdx.json and deploy/LICENCES.md: what that is made of
	$(PYTHON) -m venv --clear --without-pip $(SHIPPED)
	$(RELEASE)/bin/pip --python $(SHIPPED)/bin/python install --quiet --disable-pip-version-check \
	    --require-hashes -r deploy/requirements.txt
	$(RELEASE)/bin/cyclonedx-py environment --output-reproducible --of JSON -o deploy/sbom.cdx.json \
	    $(SHIPPED)/bin/python
	sed -i 's,https://[a-z.]*/project/,pkg:pypi/,' deploy/sbom.cdx.json
	$(RELEASE)/bin/pip-licenses --python $(SHIPPED)/bin/python --format=markdown --with-urls \
	    --output-file deploy/LICENCES.md

audit: $(RELEASE)/.installed  ## known holes in what a release runs on; asks the net
	$(RELEASE)/bin/pip-audit -r deploy/requirements.txt --disable-pip --require-hashes

clean:  ## forget the virtual environment and caches
	rm -rf $(VENV) $(RELEASE) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build dist
