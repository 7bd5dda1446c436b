# Everything a newcomer needs, with nothing but Python >= 3.11, git and make: `make demo`, `make test`.
# The environment is pinned by requirements.lock; `make lock` pins what pyproject.toml asks for by now.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq

.PHONY: help venv demo test lint fmt soak soak-patroni bench bench-quick bench-peers bench-lock lock patroni-lock fuzz-lock clean reference
.DEFAULT_GOAL := help

help:
	@echo 'make demo         set up $(VENV) and show what holdfast does'
	@echo 'make test         set up $(VENV), then linters, types, import layers and the whole test suite'
	@echo 'make lint         the linters, types and import layers alone'
	@echo 'make fmt          format the sources and mend what the linter can mend'
	@echo 'make soak         the long tests which make test leaves out'
	@echo 'make soak-patroni  failover of a fleet that Patroni and etcd look after (5 minutes)'
	@echo 'make bench        speed and scale beside the floor and the peers, into docs/benchmarks.md (15 minutes)'
	@echo 'make bench-quick  speed against the floor of the disk (2 minutes)'
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

soak: venv build/fuzz/.installed
	@HOLDFAST_FUZZ=$$(test -d build/fuzz/atheris && echo $(CURDIR)/build/fuzz) $(BIN)/pytest -n 2 -q -m soak --hypothesis-profile=soak --timeout=3600 -o faulthandler_timeout=3660

# What fuzzes the verifier lies in a folder of its own: there is no atheris for every machine.
build/fuzz/.installed: tests/proof/fuzzing.lock | venv
	@rm -rf build/fuzz && mkdir -p build/fuzz
	@$(PIP) install --target build/fuzz --require-hashes -r $< || echo 'atheris cannot be had here: its soak is skipped'
	@touch $@

# Failover by Patroni and etcd, five minutes. As root the nodes run as nobody, who must be able to run
# the environment's Python: make soak-patroni PYTHON=/usr/bin/python3
soak-patroni: venv build/patroni/.installed
	@HOLDFAST_PATRONI=$(CURDIR)/build/patroni/bin $(BIN)/pytest -q -s -m soak tests/integration/test_patroni.py \
	  --timeout=1200 -o faulthandler_timeout=1260

build/patroni/.installed: tests/integration/patroni.lock
	@echo 'setting up build/patroni (a minute, once)'
	@rm -rf build/patroni && $(PYTHON) -m venv build/patroni
	@build/patroni/bin/python -m pip --disable-pip-version-check -qq install --require-hashes -r $<
	@touch $@

# NOTE='what else ran' goes into the page.
bench: venv bench-peers
	@$(BIN)/python benchmarks/bench.py --write --note '$(NOTE)'

bench-quick: venv
	@$(BIN)/python benchmarks/bench.py --quick --rounds 3

# The peers' own environment; what cannot be had is a row in the page that says so.
bench-peers: build/peers/.installed

build/peers/.installed: benchmarks/peers/requirements.lock benchmarks/peers/package-lock.json
	@echo 'setting up build/peers, what holdfast is measured beside (a minute or two, once)'
	@rm -rf build/peers && mkdir -p build/peers/npm
	@cp benchmarks/peers/package.json benchmarks/peers/package-lock.json build/peers/npm
	@$(PYTHON) -m venv build/peers/venv && build/peers/venv/bin/python -m pip \
	  --disable-pip-version-check -qq install --require-hashes -r benchmarks/peers/requirements.lock || \
	  { rm -rf build/peers/venv; echo 'the Python peers cannot be had here'; }
	@cd build/peers/npm && npm ci --ignore-scripts --no-audit --no-fund --silent || \
	  { rm -rf node_modules; echo 'the npm peer cannot be had here'; }
	@touch $@

reference: venv
	@$(BIN)/python docs/make_reference.py > docs/reference.md

# One lock for Python 3.11 to 3.13 on every platform: $(call pin,what is asked for,the lock).
define pin
@$(PYTHON) -m venv --clear build/lock
@build/lock/bin/python -m pip --disable-pip-version-check -qq install uv
@build/lock/bin/uv pip compile $(1) --universal --python-version 3.11 --generate-hashes --no-config \
  --no-emit-index-url --custom-compile-command 'make $@' --output-file $(2) --quiet
endef

lock:
	$(call pin,pyproject.toml --all-extras --group build,requirements.lock)

bench-lock:
	$(call pin,benchmarks/peers/requirements.in,benchmarks/peers/requirements.lock)
	@cd benchmarks/peers && npm install --package-lock-only --ignore-scripts --silent

fuzz-lock:
	$(call pin,tests/proof/fuzzing.in,tests/proof/fuzzing.lock)

patroni-lock:
	$(call pin,tests/integration/patroni.in,tests/integration/patroni.lock)

clean:
	@rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	@find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
