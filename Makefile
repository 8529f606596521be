.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TRAINER := $(VENV)/.trainer
ENGINES := $(VENV)/.engines
GROUPS = $${RULER_DATA:-../shared/data}
SIMULATED := simulated?quality=truth&noise=0.5&scale=30&offset=35

.PHONY: help setup engines demo train test test-frameworks check quick bench head-to-head timings format clean
.PRECIOUS: $(VENV)-%/.ready

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

$(TRAINER): $(READY)
	$(BIN)/python -m pip install --quiet torch==2.13.0 --editable '.[dev,trainer]'
	@touch $@

# torch's companions come as CUDA builds, which do not load without CUDA; a real vLLM does without them.
$(ENGINES): tests/engines.txt $(READY)
	$(BIN)/python -m pip install --quiet --requirement tests/engines.txt --editable '.[dev,trainer]'
	$(BIN)/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec triton
	@touch $(TRAINER) $@

setup: $(READY) ## make .venv and install what everything but the local engines needs

engines: $(ENGINES) ## setup, and for the tests local engines on the CPU, Redis, nginx and Chromium
	@(PATH=$$PATH:/usr/sbin; for each in redis-server nginx chromium; do command -v $$each >/dev/null || exit 1; done) \
		|| { apt-get update -q && apt-get install -y -q redis-server nginx-light chromium; } >/dev/null \
		|| echo 'no redis-server, nginx or chromium: their tests are skipped, or fail where CI is set'

demo: $(READY) ## score, evaluate and pack the example groups with the small judge that ships: no key, no network
	@printf '\n== Three groups of sums, scored by the EMBEDDED judge: a tiny language model that knows this one task ==\n\n'
	$(BIN)/ruler score examples/arithmetic.jsonl --limit 3 --judge embedded --cache $(VENV)/demo.sqlite3
	@printf '\n== How good are these scores? Measured against the truth that the file has, beside trivial rules ==\n\n'
	$(BIN)/ruler evaluate examples/arithmetic.jsonl --judge embedded --cache $(VENV)/demo.sqlite3
	@printf '\n== What was answered is kept: scored again into a file, it is free ==\n\n'
	$(BIN)/ruler score examples/arithmetic.jsonl --judge embedded --cache $(VENV)/demo.sqlite3 --out /dev/null
	$(BIN)/ruler cache stats --cache $(VENV)/demo.sqlite3
	@printf '\n== Other tasks are beyond it, and it says so: a judge failure is never a number ==\n\n'
	$(BIN)/ruler score examples/groups.jsonl --limit 1 --judge embedded --cache $(VENV)/demo.sqlite3 || test $$? -eq 1
	@printf '\n== The prompt that a judge of yours would get for such a group, and its token account; nobody is asked ==\n\n'
	$(BIN)/ruler pack examples/groups.jsonl --index 1
	@printf '\nWith a key: export OPENAI_API_KEY=…; pip install -e ".[litellm]"; ruler score examples/groups.jsonl --judge openai/gpt-5-mini\n'
	@printf 'Without one: a server of your own (--judge http://localhost:8000/v1#model) or a local model (transformers:PATH_OR_ID)\n'

train: $(TRAINER) ## train a tiny policy on a CPU with the small judge that ships, into runs/first
	$(BIN)/python -m trainer.train --task arithmetic --reward judge --judge embedded --steps 80 --out runs/first

check: $(READY) ## lint, format and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

quick: check ## check and the fast tests, for every commit
	$(BIN)/pytest -n auto -m 'not slow' --hypothesis-profile quick

# Other people's trainers hold other versions of what we and they need: each has an environment of its own.
.SECONDEXPANSION:
$(VENV)-%/.ready: $$(wildcard tests/frameworks/%/requirements*.txt) tests/frameworks/requirements.txt pyproject.toml
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --upgrade pip
	$(@D)/bin/python -m pip install --quiet --requirement tests/frameworks/requirements.txt \
		--requirement tests/frameworks/$*/requirements.txt
	@bare=tests/frameworks/$*/requirements-bare.txt; test ! -f $$bare \
		|| $(@D)/bin/python -m pip install --quiet --no-deps --requirement $$bare
	@touch $@

test-%: $(VENV)-%/.ready
	$(VENV)-$*/bin/python -m pytest tests/frameworks/$*

test: engines ## all tests; with those of the adapters in TRL and verifiers
	$(BIN)/pytest -n auto
	$(MAKE) test-verifiers_0_3 test-verifiers_0_4

test-frameworks: ## the adapters in the other trainers that install on a CPU: some GB
	$(MAKE) test-art test-ms_swift test-openrlhf test-tinker test-verl

bench: $(READY) ## judges (simulated), rules and truth on the groups in RULER_DATA, noise, orders, tokens, the embedded judge: about five minutes
	$(BIN)/python -m benchmarks.judge_vs_truth $(GROUPS)/*.jsonl* --judge '$(SIMULATED)' --out runs/judge_vs_truth
	$(BIN)/python -m benchmarks.noise_recovery $(GROUPS)/gsm8k.jsonl.gz --seeds 10
	$(BIN)/python -m benchmarks.orders --groups 500
	$(BIN)/python -m benchmarks.tokens
	$(BIN)/python -m benchmarks.windows
	$(BIN)/python -m benchmarks.embedded_judge --groups 300

head-to-head: $(TRAINER) ## train tiny policies with truth, rules, the small judge and controls; a report in runs/head_to_head
	$(BIN)/python -m benchmarks.head_to_head --seeds 3 --steps 30 --out runs/head_to_head \
		--arms rules embedded 'noise 1' 'noise 4' random 'slot bias, seeded orders' 'slot bias, order of arrival'

timings: $(ENGINES) ## speed: packing, the layer around the judge, service, trainer; about ten minutes
	$(BIN)/python -m benchmarks.speed
	$(BIN)/python -m benchmarks.judge_layer
	$(BIN)/python -m benchmarks.service
	$(BIN)/python -m benchmarks.trainer speed --rounds 2 --steps 6
	$(BIN)/python -m benchmarks.trainer stall --rounds 1 --steps 4

format: $(READY) ## put the code into shape
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean: ## remove what was built
	rm -rf $(VENV) $(VENV)-* dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
