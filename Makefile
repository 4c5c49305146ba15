# Everything a person types. `make` alone lists it.

VENV   := .venv
PY     := '$(VENV)/bin/python'
DEVICE ?= auto
ARGS   ?=
SETUP  := sh scripts/setup.sh --device $(DEVICE) --venv '$(VENV)'

# Without compiled files every start of the engine compiles all of its imports again.
unexport PYTHONDONTWRITEBYTECODE
MAKEFLAGS += --no-print-directory

.DEFAULT_GOAL := help
.PHONY: help serve bench throughput profile test test-services conformance fuzz load-tools agreement lint fmt lock setup setup-dev clean distclean

help: ## list the targets
	@echo "make TARGET [DEVICE=auto|cpu|cuda] [ARGS='more arguments']"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' Makefile

serve: setup ## install what is missing, then serve on 127.0.0.1:8000
	@exec $(PY) -m gateway serve $(ARGS)

bench: setup ## measure the default model here, into build/bench: ARGS='--quick'
	@exec $(PY) -m bench.suite $(ARGS)

throughput: setup ## measure a running server: ARGS='--concurrency 32'
	@exec $(PY) -m bench.throughput $(ARGS)

profile: setup-dev ## draw where the serving process spends its time: ARGS='-o profile.svg'
	@exec $(PY) -m bench.profile $(ARGS)

test: lint ## lint, type-check and test; ARGS go to pytest
	@$(PY) -m pytest $(ARGS)

test-services: setup-dev ## the same beside a PostgreSQL and a Redis of its own, which must be installed
	@exec $(PY) -m scripts.services $(MAKE) test

conformance: setup-dev ## other people's clients and suites against our server: ARGS='--suite langchain'
	@exec $(PY) -m tests.conformance $(ARGS)

fuzz: setup-dev ## requests made up from OpenAI's description and ours: ARGS='--cases 10000'
	@exec $(PY) -m tests.conformance.fuzz $(ARGS)

load-tools: setup ## install Locust and GuideLLM in an environment of their own
	@$(PY) -m scripts.loadtools

agreement: setup load-tools ## other people's load tools beside ours: ARGS='--serve configs/default.yaml'
	@exec $(PY) -m bench.agreement $(ARGS)

lint: setup-dev ## ruff, mypy and the import rules
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy
	@'$(VENV)/bin/lint-imports'

fmt: setup-dev ## format and fix what can be fixed
	@$(PY) -m ruff format .
	@$(PY) -m ruff check --fix .

lock: setup ## rewrite requirements/*.lock: ARGS=--upgrade takes the newest versions
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements/uv.lock
	@$(PY) -m scripts.lock $(ARGS)

setup: ## make .venv ready to serve
	@$(SETUP)

setup-dev:
	@$(SETUP) --dev

clean: ## remove caches and build output
	@rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -path './$(VENV)' -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## the same, and the environments
	@rm -rf '$(VENV)' .conformance .loadtools .lm-eval
