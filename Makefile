.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help setup demo test check quick bench format clean

help: ## list the targets
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

setup: $(READY) ## make .venv and install everything into it

demo: $(READY) ## score, pack and evaluate the example groups with a simulated judge: no key, no network
	@printf '\n== Five example groups, scored by a SIMULATED judge: no model reads them, shorter text scores higher ==\n\n'
	$(BIN)/ruler score examples/groups.jsonl --judge simulated
	@printf '\n== The prompt a real judge would get for the second group, and its token account; nobody is asked ==\n\n'
	$(BIN)/ruler pack examples/groups.jsonl --index 1
	@printf '\n== A simulated judge that knows the truth and errs with noise 0.4, measured against that truth ==\n\n'
	$(BIN)/ruler evaluate examples/groups.jsonl --judge 'simulated?quality=truth&noise=0.4'

check: $(READY) ## lint, format and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

quick: check ## check and the fast tests, for every commit
	$(BIN)/pytest -n auto -m 'not slow'

test: $(READY) ## all tests
	$(BIN)/pytest -n auto

bench: $(READY) ## speed and token counts, on the groups in RULER_DATA
	$(BIN)/python -m benchmarks.speed

format: $(READY) ## put the code into shape
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean: ## remove what was built
	rm -rf $(VENV) dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
