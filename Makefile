# Everything runs in .venv, installed from the lock. `make` alone lists the targets.
PYTHON ?= python3
BIN := .venv/bin
OUT ?= checkpoints/quickstart

.PHONY: help quickstart ablations check test parity docs lint types format lock clean

help:
	@echo "make quickstart  train and compare a plain and a suppressable model (minutes); OUT=folder"
	@echo "make ablations   the same with one part of the objective changed at a time"
	@echo "make check       lint, types and the tests that tell most, in two minutes: before every commit"
	@echo "make test        lint, types and all tests"
	@echo "make parity      compare every model family with PyTorch, live (installs torch)"
	@echo "make docs        build the documentation as an offline site, in build/docs"
	@echo "make format      format the code"
	@echo "make lock        resolve requirements.lock again"
	@echo "make clean       remove the virtual environment and caches"

.venv/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: Python 3.11 or newer is needed, $(PYTHON) is `$(PYTHON) --version`; set PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv --clear .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

quickstart: .venv/installed
	$(BIN)/python experiments/quickstart.py --out $(OUT)

ablations: .venv/installed
	$(BIN)/python experiments/ablations.py

# Tests of the one way that everything goes, one or more of every kind, that need little compiling.
CORE := tests/test_tree.py tests/test_figures.py tests/base tests/attribution/test_selection.py \
	tests/attribution/test_quadrature.py tests/attribution/test_edits.py tests/attribution/test_refining.py \
	tests/attribution/test_integrated_gradients.py tests/objectives/terms tests/facts/test_encoding.py \
	tests/metrics/test_ranks.py tests/metrics/test_examples.py tests/models/test_config.py tests/models/test_readout.py
# Compiled programs are kept in .pytest_cache/jax: the first run takes longer than those after it.
PYTEST = $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal --durations=10

check: lint types
	$(PYTEST) $(CORE)

test: lint types
	$(PYTEST)

# Not in the lock: torch's wheels differ from platform to platform, and nothing else needs it.
.venv/parity: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[parity]" --no-build-isolation
	@touch $@

parity: .venv/parity
	-$(BIN)/jaxinterp models fetch smollm2-135m-instruct-q4  # without network its tests are skipped
	JAXINTERP_PARITY=1 $(BIN)/python -m pytest tests/parity -rs

# Not in the lock either: nothing else needs Sphinx.
.venv/docs: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[docs]" --no-build-isolation
	@touch $@

docs: .venv/docs
	rm -rf docs/api
	JAX_PLATFORMS=cpu $(BIN)/python -m sphinx -W --keep-going --quiet -b html docs build/docs
	@! grep -rnoE '<(script|img|iframe|source) [^>]*src="(https?:)?//[^"]*|<link [^>]*href="(https?:)?//[^"]*' \
		build/docs --include='*.html' || { echo "error: the site asks for these over the network"; exit 1; }
	@echo "site: build/docs/index.html"

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed
	$(BIN)/mypy

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# One lock for every Python: the newest release that each supports. uv is needed for this target alone.
lock:
	uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
		--no-header --no-annotate --quiet --output-file requirements.lock

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache jaxinterp.egg-info build docs/api
