# Everything a newcomer needs, with nothing but Python >= 3.11, git and make: `make demo`, `make test`.
# The environment is pinned by requirements.lock; `make lock` pins what pyproject.toml asks for by now.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq

.PHONY: help venv demo test lint fmt soak bench-quick lock clean reference
.DEFAULT_GOAL := help

help:
	@echo 'make demo         set up $(VENV) and show what holdfast does'
	@echo 'make test         set up $(VENV), then linters, types, import layers and the whole test suite'
	@echo 'make lint         the linters, types and import layers alone'
	@echo 'make fmt          format the sources and mend what the linter can mend'
	@echo 'make soak         the long tests which make test leaves out'
	@echo 'make bench-quick  speed against the floor of the disk'
	@echo 'make venv         set up $(VENV) alone; PYTHON=python3.13 chooses the Python'
	@echo 'make lock         pin what pyproject.toml asks for by now'
	@echo 'make clean        remove $(VENV) and all caches'

venv: $(VENV)/.installed

# Made anew when the lock changes, so that nothing unpinned stays behind. A stamp is written last: a broken
# installation has none and is started over.
$(VENV)/.locked: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "holdfast needs Python >= 3.11, \
	this is " + sys.version.split()[0] + ". Hint: make PYTHON=python3.12 ...")'
	@echo 'setting up $(VENV) from requirements.lock (a minute or two, once)'
	@$(PYTHON) -m venv --clear $(VENV)
	@$(PIP) install --require-hashes -r requirements.lock
	@touch $@

# hatchling comes from the lock too, hence no build isolation.
$(VENV)/.installed: $(VENV)/.locked pyproject.toml
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

demo: venv
	@$(BIN)/holdfast demo

test: lint
	@$(BIN)/pytest -n 2 -q

lint: venv
	@$(BIN)/ruff check --quiet --output-format=concise
	@$(BIN)/ruff format --check --quiet
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports --no-logo

fmt: venv
	@$(BIN)/ruff format
	@$(BIN)/ruff check --fix

soak: venv
	@$(BIN)/pytest -n 2 -q -m soak --hypothesis-profile=soak --timeout=3600 -o faulthandler_timeout=3660

bench-quick: venv
	@$(BIN)/python benchmarks/quick.py

reference: venv
	@$(BIN)/python docs/make_reference.py > docs/reference.md

# One lock for Python 3.11 to 3.13 on every platform.
lock:
	@$(PYTHON) -m venv --clear build/lock
	@build/lock/bin/python -m pip --disable-pip-version-check -qq install uv
	@build/lock/bin/uv pip compile pyproject.toml --all-extras --group build --universal \
	  --python-version 3.11 --generate-hashes --no-config --no-emit-index-url \
	  --custom-compile-command 'make lock' --output-file requirements.lock --quiet

clean:
	@rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	@find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
