# Every target sets itself up first; `make setup` alone does nothing the second time.
SHELL := /bin/bash
PYTHON ?=
BIN := .venv/bin
# One thread per process: the tests and trials are small, and several run at once.
export OMP_NUM_THREADS ?= 1
export MKL_NUM_THREADS ?= 1
export MLFLOW_DISABLE_TELEMETRY ?= true
export RAY_USAGE_STATS_ENABLED ?= 0

# Two processes of tests, one module in each at a time; tests/conftest.py says what stays together. PYTEST="..." replaces it.
# Tests on several nodes wait more than they compute: three.
PYTEST ?= $(BIN)/python -m pytest -n 2 --no-loadscope-reorder

.PHONY: help setup wheel demo docs test test-cluster test-all bench tables lint format clean

help:
	@echo "setup     .venv with sage-ray in it (idempotent)"
	@echo "wheel     dist/sage_ray-VERSION-py3-none-any.whl, what images and other machines install"
	@echo "demo      the whole path on drawn particles into ./demo_runs, at most 5 minutes on 2 cores"
	@echo "docs      the documentation site into ./site, where every warning is an error"
	@echo "test      tests without network and GPU, half an hour to an hour on 2 cores"
	@echo "test-cluster  tests on several nodes, with a Postgres and a scheduler of their own"
	@echo "test-all  all tests, the slow ones and those that need a GPU included"
	@echo "bench     time of a step, an evaluation, the import and the orchestration, into benchmarks/results/"
	@echo "tables    tables and figures of recorded studies"
	@echo "lint      ruff and mypy"

setup:
	@PYTHON="$(PYTHON)" bash scripts/setup.sh

# Without isolation: what builds it is in .venv in a tested version, and nothing is fetched.
wheel: setup
	@$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir dist .
	@ls dist/*.whl

demo: setup
	@$(BIN)/python scripts/demo.py

# mkdocs-material announces its successor in every build; what is built here is pinned in constraints.txt.
docs: setup
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict
	@echo "site: site/index.html (with its search: $(BIN)/python -m http.server -b 127.0.0.1 -d site)"

test: setup
	$(PYTEST) -m "not slow and not gpu and not cluster" --durations=15

test-cluster: setup
	$(PYTEST) -n 3 -m "cluster" --durations=15

test-all: setup
	$(PYTEST) --durations=25

bench: setup
	@$(BIN)/python benchmarks/run_all.py

tables: setup
	@$(BIN)/python scripts/make_tables.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf dist site demo_runs .pytest_cache .mypy_cache .ruff_cache .hypothesis
